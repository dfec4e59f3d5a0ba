"""The engine's worker: ``Simulation.run_round`` on the workload."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import protocol
import workloads
from flax import nnx

from mmfl_jax import Simulation, Study, ops, tasks
from mmfl_jax.archives.base import Archive, ModalitySpec
from mmfl_jax.engine.round import client_seeds
from mmfl_jax.engine.shuffle import batch_positions
from mmfl_jax.federation import Federation
from mmfl_jax.models import Output


class Samples(Archive):
    """Show a workload's data, client after client, as an archive whose channels are standardised already."""

    def __init__(self, work: workloads.Workload, arrays: workloads.Arrays):
        self.name, self.task, self.notes, self.splits, self.attributes = "workload", work.task, {}, None, {}
        self.class_names = tuple(f"class {i}" for i in range(work.classes))
        labels = arrays["labels"].reshape(-1, arrays["labels"].shape[-1])
        if work.task == "pixel":
            self._rasters = arrays["labels"].reshape(-1, *arrays["labels"].shape[2:])
            self.labels = tasks.find("pixel", work.classes).table(self._rasters)
        else:
            self.labels = labels if work.task == "multilabel" else labels.argmax(axis=-1).astype(np.int32)
        self.modalities, self._images, self._first = {}, {}, {}
        for m, shape in work.shapes.items():
            channels = tuple(map(str, range(shape[-1])))
            self.modalities[m] = ModalitySpec(
                shape, channels, np.zeros(shape[-1], np.float32), np.ones(shape[-1], np.float32)
            )
            self._images[m] = arrays[f"images/{m}"].reshape(-1, *shape)
            self._first[m] = work.clients_of(m)[0] * work.samples

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Return ``[n, *shape]`` of samples whose client holds the modality."""
        return self._images[modality][self.checked(modality, indices) - self._first[modality]]

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Return the labels of samples."""
        return self._rasters[indices] if self.task == "pixel" else super().read_labels(indices)


class CNN(nnx.Module):
    """The two-convolution network of McMahan et al. (2017), for one modality."""

    def __init__(self, work: workloads.Workload):
        shapes, rngs = workloads.variable_shapes(work), nnx.Rngs(0)
        conv: dict[str, Any] = {"conv_general_dilated": ops.conv_general_dilated, "rngs": rngs}
        sizes = lambda name: shapes[f"{name}/kernel"][-2:]
        self.conv1, self.conv2 = (nnx.Conv(i, o, (5, 5), **conv) for i, o in map(sizes, ("conv1", "conv2")))
        self.dense, self.head = (nnx.Linear(i, o, rngs=rngs) for i, o in map(sizes, ("dense", "head")))

    def __call__(self, inputs: dict[str, jax.Array], train: bool) -> Output:
        """Return the logits of ``[batch, 32, 32, 3]``."""
        (x,) = inputs.values()
        for conv in (self.conv1, self.conv2):
            x = ops.max_pool(nnx.relu(conv(x)), (2, 2), (2, 2))
        return Output(self.head(nnx.relu(self.dense(x.reshape(len(x), -1)))), {})


def federation(work: workloads.Workload, arrays: workloads.Arrays) -> Federation:
    """Return the workload's clients, each with its samples in a row."""
    samples = np.arange(work.clients * work.samples).reshape(work.clients, -1)
    clients = [(f"client {i}", (work.holder(i),), samples[i]) for i in range(work.clients)]
    return Federation.of(Samples(work, arrays), clients, np.zeros(0, np.int64))


def study(work: workloads.Workload, **options: Any) -> Study:
    """Return the study that does the workload."""
    return Study.of(
        method="mf+fw+mim" if work.model == "resnet18" else "mf",
        encoder={"cnn": "auto", "unet": "resnet18"}.get(work.model, work.model),
        norm="none" if work.model == "mlp" else "batch",
        client_optimizer="sgd",
        client_learning_rate=work.rate,
        batch_size=work.batch,
        mim_size=workloads.PROJECTION,
        mim_weight=workloads.MIM_WEIGHT,
        mim_temperature=workloads.TEMPERATURE,
        **options,
    )


def simulation(task: protocol.Task, **options: Any) -> Simulation:
    """Return the engine's simulation of a workload, with the workload's initial weights and prototypes."""
    work = task.work
    make: Any = (lambda held: CNN(work)) if work.model == "cnn" else None
    clients = federation(work, workloads.read(task.folder, "data"))
    made = Simulation(study(work, **options), clients, make_model=make)
    start(made, task, workloads.read(task.folder, "initial"))
    return made


def start(simulation: Simulation, task: protocol.Task, weights: workloads.Arrays) -> None:
    """Put weights and the workload's prototypes into a simulation, and begin with its first round."""
    state = simulation.state
    put = lambda old, new: jax.device_put(jnp.asarray(new, old.dtype), old.sharding)
    keys = workloads.read(task.folder, "prototypes")
    simulation.state = dataclasses.replace(
        state,
        params={name: put(old, weights[name]) for name, old in state.params.items()},
        stats={name: put(old, weights[name]) for name, old in state.stats.items()},
        objectives={
            name: {
                m: {"keys": put(slot["keys"], keys[m]), "known": put(slot["known"], np.ones(len(keys[m])))}
                for m, slot in slots.items()
            }
            for name, slots in state.objectives.items()
        },
        round=put(state.round, 0),
    )


def write_positions(simulation: Simulation, task: protocol.Task) -> None:
    """Write the sample positions that the engine's first round draws, for the peers to draw the same."""
    work = task.work
    round_key = jax.random.fold_in(jax.random.key(simulation.study.training.seed), 0)
    seeds = client_seeds(round_key, jnp.arange(work.clients))
    each = jax.vmap(lambda seed, step: batch_positions(seed, step, work.batch, jnp.int32(work.samples)), (None, 0))
    drawn = jax.vmap(each, (0, None))(seeds, jnp.arange(work.steps))
    workloads.save(task.folder / "positions.npz", {"positions": np.asarray(drawn)})


def variables(simulation: Simulation) -> workloads.Arrays:
    """Return parameters and running moments by name, and the relay's keys as ``relay/MODALITY``."""
    state = simulation.state
    keys = {f"relay/{m}": slot["keys"] for m, slot in state.objectives.get("mim", {}).items()}
    return {n: np.array(v) for n, v in {**state.params, **state.stats, **keys}.items()}


def main(task: protocol.Task) -> tuple[workloads.Arrays, Any, dict]:
    """Return the engine's first update, and its round."""
    jax.config.update("jax_num_cpu_devices", task.cores)
    # A variant is "auto", a number of clients side by side, or that no product is of bfloat16.
    chunk = int(task.variant.removeprefix("chunk")) if task.variant.startswith("chunk") else 0
    if task.variant == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    made = simulation(task, chunk_size=chunk)
    write_positions(made, task)
    made.run_round()
    update = variables(made)
    # How far rounding alone moves the update: where a ReLU's input is all but zero, its sign decides.
    start(made, task, workloads.perturbed(workloads.read(task.folder, "initial")))
    made.run_round()
    workloads.save(task.folder / "rounded.npz", variables(made))
    return update, lambda: (made.run_round(), None)[1], {"version": f"jax {jax.__version__}"}


if __name__ == "__main__":
    protocol.serve(main)
