"""From archive to devices: the samples of each client at its home, client after client."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from mmfl_jax.engine.batches import GroupData
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.federation import Federation
from mmfl_jax.federation.placement import Placement
from mmfl_jax.federation.ragged import positions
from mmfl_jax.objectives.calibration import calibration_offsets
from mmfl_jax.tasks import task_of


class Samples:
    """Lay out what devices hold of a federation, in host memory.

    Args:
      federation: the clients.
      normalizer: of their images.
      placement: the home device of every client.
      places: whether the relay has a slot for every place.
      calibration: of client logits (:func:`mmfl_jax.objectives.calibration.calibration_offsets`).
      calibration_strength: of it.
      attack: ``[clients]`` what each client's change is multiplied with; None where all are honest.
    """

    def __init__(
        self,
        federation: Federation,
        normalizer: Normalizer,
        placement: Placement,
        *,
        places: bool = False,
        calibration: str = "none",
        calibration_strength: float = 1.0,
        attack: np.ndarray | None = None,
    ):
        self.federation, self.normalizer, self.placement, self._attack = federation, normalizer, placement, attack
        self._task = task_of(federation.archive)
        self._places = [federation.slots(g).astype(np.int32) if places else None for g in federation.groups]
        self._offsets = self._calibrated(calibration, calibration_strength)

    def _calibrated(self, calibration: str, strength: float) -> list[np.ndarray | None]:
        if calibration == "none":
            return [None] * len(self.federation.groups)
        counts = [self.federation.label_counts(group) for group in self.federation.groups]
        totals = jnp.asarray(np.sum([c.sum(axis=0) for c in counts], axis=0))
        offsets = [calibration_offsets(calibration, self._task, jnp.asarray(c), totals, strength) for c in counts]
        return [np.asarray(offset) for offset in offsets]

    def most(self, group: int) -> int:
        """Return the samples of a group that the fullest device is the home of."""
        homes, sizes = self.placement.groups[group], self.federation.groups[group].sizes
        return int(np.bincount(homes.device, sizes, homes.devices).max(initial=0))

    def resident(self, device: int) -> tuple[GroupData, ...]:
        """Return all that a device holds of its clients, a group an entry."""
        homes = self.placement.groups
        return tuple(
            dataclasses.replace(table, **self.samples(g, device, homes[g].clients(device), self.most(g)))
            for g, table in enumerate(self.tables(device))
        )

    def tables(self, device: int) -> tuple[GroupData, ...]:
        """Return what a device knows of its clients, a group an entry, without any sample."""
        return tuple(self._table(g, device) for g in range(len(self.federation.groups)))

    def _table(self, group: int, device: int) -> GroupData:
        clients, homes = self.federation.groups[group], self.placement.groups[group]
        own = homes.clients(device)

        def rows(values: np.ndarray, dtype: Any = np.int32) -> np.ndarray:
            return filled(values[own].astype(dtype, copy=False), homes.rows)

        offsets = self._offsets[group]
        return GroupData(
            **self.samples(group, device, own[:0], 0),
            sizes=rows(clients.sizes),
            ids=rows(clients.ids),
            offsets=None if offsets is None else rows(offsets, offsets.dtype),
            attack=None if self._attack is None else rows(self._attack[clients.ids], np.float32),
        )

    def samples(self, group: int, device: int, chosen: np.ndarray, capacity: int) -> dict[str, Any]:
        """Return the fields of :class:`GroupData` that hold samples, of some clients of a device.

        Args:
          group: of the clients.
          device: their home; others among them are passed over.
          chosen: ``[n]`` numbers within the group.
          capacity: samples to make room for.
        """
        clients, homes = self.federation.groups[group], self.placement.groups[group]
        own = chosen[homes.device[chosen] == device]
        rows = positions(clients.offsets, own)
        begins = np.zeros(homes.rows, np.int32)
        begins[homes.row[own]] = np.cumsum(clients.sizes[own]) - clients.sizes[own]
        archive, places = self.federation.archive, self._places[group]
        read = lambda m: self.normalizer.read(archive, m, clients.samples[rows])
        return {
            "images": {m: filled(read(m), capacity) for m in clients.modalities},
            "labels": filled(self._task.encode(self.federation.labels(clients, rows)), capacity),
            "places": None if places is None else filled(places[rows], capacity),
            "begins": begins,
        }


def filled(values: np.ndarray, length: int) -> np.ndarray:
    """Return ``[length, ...]``: the values, then zeros; the values themselves where that is all."""
    if len(values) == length:
        return values
    out = np.zeros((length, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out
