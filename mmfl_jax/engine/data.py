"""From archive to devices: the samples of each client at its home, client after client."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmfl_jax.engine.batches import GroupData, Rows
from mmfl_jax.engine.mesh import put_parts, put_shares
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.federation import Federation
from mmfl_jax.federation.placement import Placement
from mmfl_jax.federation.ragged import positions
from mmfl_jax.objectives.calibration import calibration_offsets
from mmfl_jax.tasks import task_of


class Samples:
    """Put what devices hold of a federation onto them.

    Args:
      federation: the clients.
      normalizer: of their images.
      placement: the home device of every client.
      places: whether the relay has a slot for every place.
      calibration: of client logits (:func:`mmfl_jax.objectives.calibration.calibration_offsets`).
      calibration_strength: of it.
      attack: ``[clients]`` what each client's change is multiplied with; None where all are honest.
      servers: ``[clients]`` the number of each client's server in a hierarchy; None where there is none.
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
        servers: np.ndarray | None = None,
    ):
        self.federation, self.normalizer, self.placement = federation, normalizer, placement
        self._attack, self._servers = attack, servers
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
        """Return the samples of a group that the fullest home has."""
        homes, sizes = self.placement.groups[group], self.federation.groups[group].sizes
        return int(np.bincount(homes.device, sizes, homes.devices).max(initial=0))

    def resident(self, mesh: Mesh) -> tuple[GroupData, ...]:
        """Return all samples of all clients at their homes, a group an entry."""
        homes, tables = self.placement.groups, self.tables(mesh)
        return tuple(
            self.with_samples(mesh, g, table, np.arange(len(homes[g].device)), self.most(g))
            for g, table in enumerate(tables)
        )

    def tables(self, mesh: Mesh) -> tuple[GroupData, ...]:
        """Return what homes know of their clients, a group an entry, without any sample."""
        return put_parts(mesh, lambda home: tuple(self._table(g, home) for g in range(len(self.placement.groups))))

    def with_samples(self, mesh: Mesh, group: int, table: GroupData, chosen: np.ndarray, capacity: int) -> GroupData:
        """Return a group's table with the samples of some clients.

        Args:
          mesh: the devices; those of a home take its samples by turns.
          group: of the clients.
          table: of :meth:`tables`.
          chosen: ``[n]`` numbers within the group.
          capacity: samples to make room for at a home.
        """
        clients, homes = self.federation.groups[group], self.placement.groups[group]
        span = mesh.devices.shape[1]

        def begins(home: int) -> np.ndarray:
            own, out = chosen[homes.device[chosen] == home], np.zeros(homes.rows, np.int32)
            out[homes.row[own]] = np.cumsum(clients.sizes[own]) - clients.sizes[own]
            return out

        def share(home: int, device: int) -> dict[str, Any]:
            rows = positions(clients.offsets, chosen[homes.device[chosen] == home])[device::span]
            return self._samples(group, rows, -(-capacity // span))

        return dataclasses.replace(table, begins=put_parts(mesh, begins), **put_shares(mesh, share))

    def _table(self, group: int, home: int) -> GroupData:
        clients, homes = self.federation.groups[group], self.placement.groups[group]
        own = homes.clients(home)

        def rows(values: np.ndarray, dtype: Any = np.int32) -> np.ndarray:
            return filled(values[own].astype(dtype, copy=False), homes.rows)

        offsets = self._offsets[group]
        return GroupData(
            **self._samples(group, np.zeros(0, np.int64), 0),
            begins=np.zeros(homes.rows, np.int32),
            sizes=rows(clients.sizes),
            ids=rows(clients.ids),
            offsets=None if offsets is None else rows(offsets, offsets.dtype),
            attack=None if self._attack is None else rows(self._attack[clients.ids], np.float32),
            servers=None if self._servers is None else rows(self._servers[clients.ids]),
        )

    def _samples(self, group: int, rows: np.ndarray, capacity: int) -> dict[str, Any]:
        """Return the fields of :class:`GroupData` that hold samples, of these rows of a group's."""
        clients, archive, places = self.federation.groups[group], self.federation.archive, self._places[group]
        read = lambda m: self.normalizer.read(archive, m, clients.samples[rows])
        return {
            "images": {m: Rows.of(filled(read(m), capacity)) for m in clients.modalities},
            "labels": filled(self._task.encode(self.federation.labels(clients, rows)), capacity),
            "places": None if places is None else filled(places[rows], capacity),
        }


def filled(values: np.ndarray, length: int) -> np.ndarray:
    """Return ``[length, ...]``: the values, then zeros; the values themselves where that is all."""
    if len(values) == length:
        return values
    out = np.zeros((length, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out
