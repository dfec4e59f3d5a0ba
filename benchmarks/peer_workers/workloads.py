"""The work that is compared: sizes, data, initial weights. NumPy alone, for every peer's environment imports it.

Names and layouts are the engine's: images ``[samples, *space, channels]``, kernels ``[*window, inputs, outputs]``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

IGNORED = 255  # label of a pixel without one
GROUP = 4  # channels that are whitened together
PROJECTION = 64
TEMPERATURE = 0.1
MIM_WEIGHT = 0.1
SHRINKAGE = 1e-3
MOMENTUM = 0.1
HIDDEN = 128
FILTERS = (32, 64)  # of the two convolutions of the small network
# Stages of a ResNet-18: blocks, channels, stride of the first block. Whitening stands in the stem and the first stage.
STAGES = ((2, 64, 1), (2, 128, 2), (2, 256, 2), (2, 512, 2))


@dataclasses.dataclass(frozen=True)
class Workload:
    """Say what one round computes.

    Attributes:
      name: on the command line.
      model: ``cnn``, ``resnet18`` (MF+FW+MIM), ``mlp`` or ``unet`` (MF, a U-Net on ResNet-18).
      shapes: of a sample, by modality; the clients are dealt to modalities in equal, consecutive shares.
      task: ``multiclass``, ``multilabel`` or ``pixel``.
      classes: number of them.
      clients: in a round.
      steps: local steps.
      batch: samples in a step; a client holds steps * batch samples.
      rate: learning rate of plain SGD.
    """

    name: str
    model: str
    shapes: dict[str, tuple[int, ...]]
    task: str
    classes: int
    clients: int
    steps: int
    batch: int
    rate: float

    @property
    def samples(self) -> int:
        """Return the samples of a client."""
        return self.steps * self.batch

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return the modalities, in order."""
        return tuple(self.shapes)

    def holder(self, client: int) -> str:
        """Return the modality that a client holds."""
        return self.modalities[client * len(self.shapes) // self.clients]

    def clients_of(self, modality: str) -> list[int]:
        """Return the clients that hold a modality."""
        return [c for c in range(self.clients) if self.holder(c) == modality]


WORKLOADS = {
    "a": Workload("a", "cnn", {"rgb": (32, 32, 3)}, "multiclass", 10, 32, 5, 10, 0.002),
    "b": Workload("b", "resnet18", {"s1": (60, 60, 2), "s2": (60, 60, 10)}, "multilabel", 19, 16, 4, 16, 0.003),
    "c": Workload("c", "mlp", {"series": (12, 11)}, "multiclass", 8, 1000, 2, 8, 0.05),
    "d": Workload("d", "unet", {"s1": (64, 64, 2), "s2": (64, 64, 10)}, "pixel", 10, 8, 2, 8, 0.003),
}


def workload(name: str, clients: int = 0, steps: int = 0) -> Workload:
    """Return a workload, with other numbers of clients and local steps unless they are 0."""
    chosen = WORKLOADS[name]
    return dataclasses.replace(chosen, clients=clients or chosen.clients, steps=steps or chosen.steps)


def data(work: Workload) -> Arrays:
    """Return every client's samples.

    Returns:
      ``images/MODALITY`` float32 ``[holders, samples, *shape]`` and ``labels`` ``[clients, samples, classes]`` uint8 of
      0/1, one-hot for ``multiclass``; for ``pixel`` class numbers ``[clients, samples, height, width]``, 255 for none.
    """
    rng = np.random.default_rng(1)
    out: Arrays = {}
    for m, shape in work.shapes.items():
        size = (len(work.clients_of(m)), work.samples, *shape)
        out[f"images/{m}"] = rng.standard_normal(size, dtype=np.float32)
    size = (work.clients, work.samples)
    if work.task == "multilabel":
        out["labels"] = (rng.random((*size, work.classes)) < 0.2).astype(np.uint8)
    elif work.task == "pixel":
        size = (*size, *next(iter(work.shapes.values()))[:2])
        labels = rng.integers(0, work.classes, size).astype(np.uint8)
        out["labels"] = np.where(rng.random(size) < 0.05, np.uint8(IGNORED), labels)
    else:
        out["labels"] = np.eye(work.classes, dtype=np.uint8)[rng.integers(0, work.classes, size)]
    return out


def _conv_shapes(work: Workload) -> dict[str, tuple[int, ...]]:
    height, width, channels = work.shapes["rgb"]
    return {
        "conv1/kernel": (5, 5, channels, FILTERS[0]),
        "conv1/bias": (FILTERS[0],),
        "conv2/kernel": (5, 5, *FILTERS),
        "conv2/bias": (FILTERS[1],),
        "dense/kernel": (height // 4 * (width // 4) * FILTERS[1], HIDDEN),
        "dense/bias": (HIDDEN,),
        "head/kernel": (HIDDEN, work.classes),
        "head/bias": (work.classes,),
    }


def _norm_shapes(path: str, channels: int, whitened: bool) -> dict[str, tuple[int, ...]]:
    spread = {"cov": (channels // GROUP, GROUP, GROUP)} if whitened else {"var": (channels,)}
    named = {"scale": (channels,), "bias": (channels,), "mean": (channels,), **spread}
    return {f"{path}/{name}": shape for name, shape in named.items()}


def _unet_shapes(path: str) -> dict[str, tuple[int, ...]]:
    out: dict[str, tuple[int, ...]] = {}
    widths = [outputs for _, outputs, _ in STAGES]
    for i, (coarser, finer) in enumerate(zip(widths[:0:-1], widths[-2::-1])):
        for step, inputs in (("first", coarser + finer), ("second", finer)):
            out[f"{path}/{step}/{i}/conv/kernel"] = (3, 3, inputs, finer)
            out |= _norm_shapes(f"{path}/{step}/{i}/norm", finer, False)
    return out


def _resnet_shapes(path: str, channels: int, whitened: bool) -> dict[str, tuple[int, ...]]:
    width = STAGES[0][1]
    out: dict[str, tuple[int, ...]] = {f"{path}/stem/kernel": (3, 3, channels, width)}
    out |= _norm_shapes(f"{path}/stem_norm", width, whitened)
    inputs, number = width, 0
    for stage, (blocks, outputs, stride) in enumerate(STAGES):
        for i in range(blocks):
            block = f"{path}/blocks/{number}"
            for j, channels_in in enumerate((inputs, outputs)):
                out[f"{block}/convs/{j}/kernel"] = (3, 3, channels_in, outputs)
                out |= _norm_shapes(f"{block}/norms/{j}", outputs, whitened and stage == 0)
            if i == 0 and (stride != 1 or inputs != outputs):
                out[f"{block}/shortcut/kernel"] = (1, 1, inputs, outputs)
                out |= _norm_shapes(f"{block}/shortcut_norm", outputs, whitened and stage == 0)
            inputs, number = outputs, number + 1
    return out


def _dense(path: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/kernel": (inputs, outputs), f"{path}/bias": (outputs,)}


def variable_shapes(work: Workload) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter and running moment (``mean``, ``var``, ``cov``) by the engine's name."""
    if work.model == "cnn":
        return _conv_shapes(work)
    out: dict[str, tuple[int, ...]] = {}
    features = {"mlp": HIDDEN, "unet": STAGES[0][1]}.get(work.model, STAGES[-1][1])
    for m, shape in work.shapes.items():
        if work.model == "mlp":
            out |= _dense(f"encoders/{m}/first", int(np.prod(shape)), HIDDEN)
            out |= _dense(f"encoders/{m}/second", HIDDEN, HIDDEN)
        elif work.model == "unet":
            out |= _resnet_shapes(f"encoders/{m}", shape[-1], False) | _unet_shapes(f"decoders/{m}")
        else:
            out |= _resnet_shapes(f"encoders/{m}", shape[-1], True)
            out |= _dense(f"projectors/{m}/hidden", features, features)
            out |= _dense(f"projectors/{m}/out", features, PROJECTION)
    return out | _dense("head", features, work.classes)


def is_moment(name: str) -> bool:
    """Return whether a variable is a running moment, which is pooled and not trained."""
    return name.rpartition("/")[2] in ("mean", "var", "cov")


def owner(work: Workload, name: str) -> str:
    """Return the modality whose clients hold a variable, empty for all clients."""
    parts = name.split("/")
    return parts[1] if parts[0] in ("encoders", "decoders", "projectors") else ""


def initial(work: Workload) -> Arrays:
    """Return the weights that a round starts from: he-normal kernels, zero biases, unit moments."""
    out = {}
    for name, shape in variable_shapes(work).items():
        leaf = name.rpartition("/")[2]
        if leaf == "kernel":
            # A generator for each name, so that neither order nor other variables move a value.
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
            scale = np.sqrt(2 / np.prod(shape[:-1]))
            out[name] = (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
        elif leaf == "cov":
            out[name] = np.broadcast_to(np.eye(GROUP, dtype=np.float32), shape).copy()
        else:
            out[name] = np.full(shape, 1 if leaf in ("scale", "var") else 0, np.float32)
    return out


def perturbed(weights: Arrays) -> Arrays:
    """Return weights with the last bit of each moved up or down at random, as another rounding would leave them."""
    rng = np.random.default_rng(3)
    toward = {n: np.where(rng.random(v.shape) < 0.5, -np.inf, np.inf).astype(np.float32) for n, v in weights.items()}
    return {n: np.nextafter(v, toward[n]) if v.any() else v for n, v in weights.items()}


def prototypes(work: Workload) -> Arrays:
    """Return what MIM's server relays at the start: a random unit vector ``[classes, d]`` for each modality and class.

    All of them count as known, so that MIM is at work from the first step; empty without MIM.
    """
    if work.model != "resnet18":
        return {}
    rng = np.random.default_rng(2)
    out = {m: rng.standard_normal((work.classes, PROJECTION)).astype(np.float32) for m in work.modalities}
    return {m: keys / np.linalg.norm(keys, axis=-1, keepdims=True) for m, keys in out.items()}


def write(work: Workload, folder: pathlib.Path) -> None:
    """Write data, initial weights and prototypes to ``folder``, the same bytes for all peers."""
    save(folder / "data.npz", data(work))
    save(folder / "initial.npz", initial(work))
    save(folder / "prototypes.npz", prototypes(work))


def save(path: pathlib.Path, arrays: Arrays) -> None:
    """Write arrays by name."""
    named: dict[str, Any] = {**arrays}
    np.savez(path, **named)


def read(folder: pathlib.Path, name: str) -> Arrays:
    """Return the arrays of one of the files in ``folder``."""
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def positions(folder: pathlib.Path) -> np.ndarray:
    """Return the sample positions ``[clients, steps, batch]`` that the engine drew in its first round."""
    return read(folder, "positions")["positions"]
