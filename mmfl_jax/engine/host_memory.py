"""What clients keep from round to round, where devices have no room for all of it: in a file of the host.

The rows of a cohort come to the devices for its round, and go back after it; what the next cohort needs is read while
this one trains.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmfl_jax.engine.mesh import put_parts
from mmfl_jax.engine.plan import GroupPlan
from mmfl_jax.engine.state import Kept, ServerState
from mmfl_jax.errors import UserError
from mmfl_jax.federation.placement import Homes, Placement
from mmfl_jax.memory import readable

Plans = tuple[GroupPlan, ...]


def rows_on_host(first: Kept, homes: Homes) -> Kept:
    """Return the rows of a group's clients, ``[devices * rows, ...]``, in files without a name, mapped into memory.

    Args:
      first: what one client keeps before its first round.
      homes: of the clients.

    Raises:
      UserError: where the disk has no room for them.
    """
    there = homes.there

    def mapped(value: Any) -> np.ndarray:
        value = np.asarray(value)
        shape = (len(there), *value.shape)
        size = max(1, math.prod(shape) * value.dtype.itemsize)
        with tempfile.TemporaryFile() as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)  # else a full disk would end the process in a round
            except OSError as error:
                raise UserError(
                    f"--client-memory host: {readable(size)} of what clients keep do not fit in "
                    f"{tempfile.gettempdir()} ({error.strerror}); TMPDIR names another folder"
                ) from error
            rows = np.asarray(np.memmap(file, value.dtype, "r+", shape=shape))
        if value.any():
            rows[there] = value
        return rows

    return jax.tree.map(mapped, first)


class DeviceMemory:
    """Leave what clients keep on their devices."""

    def bring(self, state: ServerState, plans: Plans) -> ServerState:
        """Return the state that a round is given."""
        return state

    def read_ahead(self, plans: Callable[[], Plans]) -> None:
        """Read nothing: all is there."""

    def take_back(self, state: ServerState) -> ServerState:
        """Return the state that a round has left."""
        return state


class HostMemory:
    """Bring what the clients of a round keep to their devices, and take it back.

    Args:
      mesh: the devices.
      placement: the homes of clients.
    """

    def __init__(self, mesh: Mesh, placement: Placement):
        self._mesh, self._homes = mesh, placement.groups
        self._away: tuple[tuple[Kept, ...], Plans] | None = None
        self._ahead: tuple[tuple[Kept, ...], Plans, list[Kept]] | None = None

    def bring(self, state: ServerState, plans: Plans) -> ServerState:
        """Return the state with the rows of a plan, on devices, instead of all rows on the host."""
        ahead, self._ahead = self._ahead, None
        known = ahead is not None and ahead[0] is state.clients and ahead[1] is plans
        found = ahead[2] if ahead is not None and known else self._read(state.clients, plans)
        homes = self._mesh.devices.shape[0]
        part = lambda home: jax.tree.map(lambda v: np.split(v, homes)[home], found)
        self._away = state.clients, plans
        return dataclasses.replace(state, clients=tuple(put_parts(self._mesh, part)))

    def read_ahead(self, plans: Callable[[], Plans]) -> None:
        """Read the rows of the next plan, while a round runs."""
        assert self._away is not None
        tables, coming = self._away[0], plans()
        self._ahead = tables, coming, self._read(tables, coming)

    def take_back(self, state: ServerState) -> ServerState:
        """Return the state with all rows, on the host, once those on devices are written there."""
        if self._away is None:
            return state
        (tables, plans), self._away = self._away, None
        for group, (table, plan, new) in enumerate(zip(tables, plans, state.clients)):
            there, rows = plan.clients.reshape(-1) >= 0, self._rows(group, plan)
            _write(table, rows[there], jax.tree.map(lambda x, there=there: np.asarray(x)[there], new))
            if self._ahead is not None:  # it was read too early for clients that are in both
                coming = self._rows(group, self._ahead[1][group])
                both = np.flatnonzero(np.isin(coming, rows[there]))
                _write(self._ahead[2][group], both, jax.tree.map(lambda v, at=coming[both]: v[at], table))
        return dataclasses.replace(state, clients=tables)

    def _read(self, tables: tuple[Kept, ...], plans: Plans) -> list[Kept]:
        rows = [self._rows(group, plan) for group, plan in enumerate(plans)]
        return [jax.tree.map(lambda v, at=at: v[at], table) for table, at in zip(tables, rows)]

    def _rows(self, group: int, plan: GroupPlan) -> np.ndarray:
        """Return ``[devices * places]``: the row of each place of a plan; where nobody is, of somebody."""
        begins = self._homes[group].rows * np.arange(len(plan.clients))
        return (begins[:, None] + np.maximum(plan.clients, 0)).reshape(-1)


def _write(table: Kept, rows: np.ndarray, new: Kept) -> None:
    for old, values in zip(jax.tree.leaves(table), jax.tree.leaves(new)):
        old[rows] = values
