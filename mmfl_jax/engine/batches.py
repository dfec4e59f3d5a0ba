"""The samples of a group's clients on the device, and the batch of a local step."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from mmfl_jax.engine import spread
from mmfl_jax.engine.mesh import AXIS, SPAN
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.shuffle import batch_positions

Array = jax.Array
# In host memory as it is laid out, on the device once it is put there.
Placed = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Hold samples as rows of numbers, and give them back in their shape.

    An accelerator would lay images of few channels out with samples on its lanes, and every round copy them all to an
    order from which a batch can be gathered. Rows have no other order.

    Attributes:
      values: ``[samples, numbers of a sample]``.
      shape: of a sample.
    """

    values: Placed
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, samples: np.ndarray) -> Rows:
        """Return ``samples [samples, *shape]`` as rows."""
        return cls(samples.reshape(len(samples), math.prod(samples.shape[1:])), samples.shape[1:])

    def __getitem__(self, rows: Array) -> Array:
        """Return samples ``[len(rows), *shape]``."""
        return self.values[rows].reshape(-1, *self.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupData:
    """Hold the samples of a group's clients on the device, client after client.

    Where clients span devices, sample ``i`` lies on device ``i`` modulo their number.

    Attributes:
      images: by modality of the group, normalised.
      labels: ``[samples, ...]`` uint8: the task's targets.
      places: ``[samples]`` int32 slots of the relay, for MIM by places; else None.
      begins: ``[clients]`` int32: the first sample of each client.
      sizes: ``[clients]`` int32: its number of samples.
      ids: ``[clients]`` int32: its number in the federation.
      offsets: ``[clients, classes]`` added to its logits in training (logit calibration); else None.
      attack: ``[clients]`` what its change is multiplied with, 1 for the honest; None where all are.
      servers: ``[clients]`` int32: the number of its server in a hierarchy; None where there is none.
    """

    images: dict[str, Rows]
    labels: Placed
    places: Placed | None
    begins: Placed
    sizes: Placed
    ids: Placed
    offsets: Placed | None
    attack: Placed | None = None
    servers: Placed | None = None


def data_specs() -> GroupData:
    """Return how the parts of a group's data lie over the mesh: samples over the devices of each home."""
    fields = {field.name: P(AXIS) for field in dataclasses.fields(GroupData)}
    specs: Any = fields | dict.fromkeys(("images", "labels", "places"), P((AXIS, SPAN)))
    return GroupData(**specs)


class Batch(NamedTuple):
    """Hold one client's batch.

    Attributes:
      images: ``[batch, *shape]`` by modality; where the client spans devices, this device's share of the batch.
      labels: ``[batch, ...]``: the task's targets.
      classes: ``[batch, classes]`` of 0 and 1: which classes each sample has.
      places: ``[batch]``: tell places apart.
      offset: ``[classes]``, added to logits; None for none.
    """

    images: dict[str, Array]
    labels: Array
    classes: Array
    places: Array
    offset: Array | None


def batch_rows(program: Program, data: GroupData, client: Array, seed: Array, step: Array) -> Array:
    """Return which samples of ``data`` a client's local step takes, ``[batch]`` int32; as :func:`draw_batch`."""
    positions = batch_positions(seed, step, program.batch_size, data.sizes[client])
    # A barrier, or XLA writes the shuffle into the gather of every modality: with JAX 0.12 that compiles for ever.
    return data.begins[client] + jax.lax.optimization_barrier(positions)


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
    rows = batch_rows(program, data, client, seed, step) if rows is None else rows
    if program.span == 1:
        share = whole = lambda values: values[rows]
    else:
        share, whole = (functools.partial(spread.taken, rows, program.span, scatter=s) for s in (True, False))
    images = {m: share(images) for m, images in data.images.items()}
    key = jax.random.fold_in(jax.random.key(seed), step)
    images, labels = program.augmentation(images, share(data.labels), key, spread=program.span)
    if program.span > 1:
        labels = spread.gathered(labels)
    return Batch(
        images,
        labels,
        program.task.presence(labels),
        rows if data.places is None else whole(data.places),
        None if data.offsets is None else data.offsets[client],
    )
