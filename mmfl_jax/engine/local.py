"""Local training: what one client computes in one step."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmfl_jax.engine.program import Program
from mmfl_jax.engine.shuffle import batch_positions
from mmfl_jax.models import Variables, values
from mmfl_jax.objectives.losses import task_loss

Array = jax.Array
# In host memory as it is laid out, on the device once it is put there.
Placed = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupData:
    """Hold the samples of a group's clients on the device, client after client.

    Attributes:
      images: ``[samples, *shape]`` by modality of the group, normalised.
      labels: ``[samples, classes]`` uint8 of 0/1 (one-hot for ``multiclass``).
      places: ``[samples]`` int32 slots of the relay, for MIM by places; else None.
      begins: ``[clients]`` int32: the first sample of each client.
      sizes: ``[clients]`` int32: its number of samples.
      ids: ``[clients]`` int32: its number in the federation.
      offsets: ``[clients, classes]`` added to its logits in training (logit calibration); else None.
    """

    images: dict[str, Placed]
    labels: Placed
    places: Placed | None
    begins: Placed
    sizes: Placed
    ids: Placed
    offsets: Placed | None


class Batch(NamedTuple):
    """Hold one client's batch: ``[batch, ...]`` each, ``places`` telling places apart; ``offset`` is ``[classes]``."""

    images: dict[str, Array]
    labels: Array
    places: Array
    offset: Array | None


class Local(NamedTuple):
    """Hold what a client trains: parameters, statistics, optimizer state."""

    params: Variables
    stats: Variables
    optimizer: Any


class Losses(NamedTuple):
    """Hold the terms of a local loss: all of it, the task's, MIM's."""

    total: Array
    task: Array
    mim: Array


def batch_rows(program: Program, data: GroupData, client: Array, seed: Array, step: Array) -> Array:
    """Return which samples of ``data`` a client's local step takes, ``[batch]`` int32; as :func:`draw_batch`."""
    return data.begins[client] + batch_positions(seed, step, program.batch_size, data.sizes[client])


def draw_batch(
    program: Program, data: GroupData, client: Array, seed: Array, step: Array, rows: Array | None = None
) -> Batch:
    """Return the batch of a client's local step, augmented.

    Args:
      program: what is computed.
      data: of the client's group.
      client: int32, its number within the group.
      seed: uint32, of the client in this round.
      step: int32.
      rows: its :func:`batch_rows`, where they are known already.
    """
    if rows is None:
        rows = batch_rows(program, data, client, seed, step)
    images = {m: images[rows] for m, images in data.images.items()}
    return Batch(
        program.augmentation(images, jax.random.fold_in(jax.random.key(seed), step)),
        data.labels[rows],
        rows if data.places is None else data.places[rows],
        None if data.offsets is None else data.offsets[client],
    )


def local_step(
    program: Program,
    group: int,
    received: Variables,
    local: Local,
    batch: Batch,
    relayed: dict,
    rate: Array,
    frozen: Variables | None = None,
) -> tuple[Local, Losses, dict[str, Array]]:
    """Return the client after one optimizer step on ``batch``, the losses before it, and MIM's projections.

    Args:
      program: what is computed.
      group: the client's group.
      received: the parameters the client began the round with.
      local: the client before the step.
      batch: its samples.
      relayed: the server's slots (:class:`mmfl_jax.engine.relay.Relay`).
      rate: learning rate of this round.
      frozen: what the model is given.
    """
    template, algorithm, relay = program.templates[group], program.algorithm, program.relay

    def objective(params: Variables) -> tuple[Array, tuple]:
        model = template.module(params, local.stats, frozen)
        output = model(batch.images, train=True)
        logits = output.logits if batch.offset is None else output.logits + batch.offset
        task = task_loss(program.task, logits, batch.labels)
        mim = jnp.float32(0)
        if relay is not None:
            mim = relay.loss(output.projections, relayed, batch.labels, batch.places)
        weight = relay.weight if relay is not None else 0.0
        total = task + weight * mim + algorithm.penalty(params, received)
        if program.alignment is not None:
            total += program.alignment(output.texts, output.cosines, batch.labels)
        _, stats = values(model)
        projections = jax.tree.map(jax.lax.stop_gradient, output.projections)
        return total, (stats, Losses(total, task, mim), projections)

    gradients, (stats, losses, projections) = jax.grad(objective, has_aux=True)(local.params)
    updates, optimizer = program.client_optimizer.update(gradients, local.optimizer, local.params)
    updates = jax.tree.map(lambda u: rate * u, updates)
    return Local(optax.apply_updates(local.params, updates), stats, optimizer), losses, projections
