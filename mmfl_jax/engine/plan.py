"""The plan of a round: which clients take part, in which order, each on its home device.

All of it is host arithmetic on small integers; the jitted round receives the result as arrays of fixed shape.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from mmfl_jax.engine.turns import Schedule, scheduled
from mmfl_jax.federation.placement import Placement


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """Hold one group's share of a round, ready to be sharded over devices.

    The clients of a home wait in a queue, the longest first (:mod:`mmfl_jax.engine.turns`).

    Attributes:
      clients: ``[devices, places]`` int32 rows of the home device, -1 where there is none.
      kept: ``[devices, places]`` int32 rows of what clients keep, -1 where there is none: those of the home, or the
        places of this plan where only the cohort's rows are on the device.
      steps: ``[devices, places]`` int32 local steps, 0 where there is none.
      slots: ``[devices, places]`` int32: which of the group's clients in the cohort it is, from 0.
      delays: ``[devices, places]`` int32: how many rounds ago it was sent its parameters.
      multiple: ``[devices]`` int32: of which the local steps of a turn are.
      chunk: clients that a device trains side by side.
    """

    clients: np.ndarray
    kept: np.ndarray
    steps: np.ndarray
    slots: np.ndarray
    delays: np.ndarray
    multiple: np.ndarray
    chunk: int = dataclasses.field(metadata={"static": True})


class Work(NamedTuple):
    """Hold what a round, or a wave of it, takes.

    Attributes:
      clients: that take part.
      steps: their local steps.
      computed: client-steps that all devices compute, whoever is in a seat or nobody.
      longest: client-steps of the busiest device.
      turns: ``[groups, devices]`` how often clients begin and end.
      lengths: ``[groups, devices]`` local steps of a chunk.
    """

    clients: int
    steps: int
    computed: int
    longest: int
    turns: np.ndarray
    lengths: np.ndarray

    def after(self, before: Work) -> Work:
        """Return the work of both, one after the other."""
        return Work(*(mine + other for mine, other in zip(self, before)))  # type: ignore[operator]

    @property
    def devices(self) -> int:
        """Return how many devices there are."""
        return self.turns.shape[1]

    def metrics(self) -> dict[str, float]:
        """Return ``clients``, ``client_steps`` and ``padding_waste``, the share of client-steps computed for nothing.

        Of several devices also ``imbalance``, how much longer the busiest of them computes than the mean, and
        ``idle_devices``, the share of all devices' time that passes waiting for it.
        """
        waste = 1 - self.steps / self.computed if self.computed else 0.0
        row: dict[str, float] = {"clients": self.clients, "client_steps": self.steps, "padding_waste": waste}
        if self.devices == 1 or not self.computed:
            return row
        whole = self.longest * self.devices
        return {**row, "imbalance": whole / self.computed, "idle_devices": 1 - self.computed / whole}


def local_steps(sizes: np.ndarray, epochs: float, batch_size: int, fixed: int = 0) -> np.ndarray:
    """Return the local steps of clients of ``sizes``: ``ceil(epochs * size / batch_size)``, or ``fixed`` if not 0."""
    if fixed:
        return np.full(len(sizes), fixed, dtype=np.int64)
    return np.maximum(1, np.ceil(epochs * sizes / batch_size)).astype(np.int64)


class Planner:
    """Lay the cohort of each round into queues, with arrays of one shape for all rounds.

    Args:
      steps: ``[clients]`` local steps of every client, a group an entry.
      chunk: clients that one device trains at once, a group an entry.
      placement: the home device of every client.
      most: the most clients of each group in a round.
      at_home: the most clients of a round that live on one device; None where all of them may.
      visiting: whether what clients keep comes to the device for a round, and goes again
        (:mod:`mmfl_jax.engine.host_memory`).
    """

    def __init__(
        self,
        steps: list[np.ndarray],
        chunk: list[int],
        placement: Placement,
        most: list[int],
        at_home: int | None = None,
        visiting: bool = False,
    ):
        self.steps, self.chunk, self.placement = steps, chunk, placement
        self.most, self.visiting = most, visiting
        #: Places at every home, a group an entry.
        self.capacity = [min(n, homes.rows, at_home or n) for n, homes in zip(most, placement.groups)]

    def lay(
        self,
        members: list[np.ndarray],
        steps: list[np.ndarray] | None = None,
        delays: list[np.ndarray] | None = None,
        slots: list[np.ndarray] | None = None,
    ) -> tuple[tuple[GroupPlan, ...], Work]:
        """Return the plans of one round, one a group, and the work that they are.

        Args:
          members: numbers within each group of the clients that take part.
          steps: of these clients in this round, a group an entry; None for their own.
          delays: of these clients, a group an entry; None for no delay.
          slots: of these clients in the round, a group an entry; None for 0, 1, ... in the order given.
        """
        useful, plans, schedules = 0, [], []
        for group, chosen in enumerate(members):
            todo = self.steps[group][chosen] if steps is None else steps[group]
            slot = np.arange(len(chosen)) if slots is None else slots[group]
            late = np.zeros(len(chosen), np.int32) if delays is None else delays[group]
            plan, schedule = self._lay_group(group, chosen, todo, slot, late)
            plans.append(plan)
            schedules.append(schedule)
            useful += int(todo.sum())
        turns, lengths = np.array([s.turns for s in schedules]), np.array([s.steps for s in schedules])
        loads = np.array(self.chunk) @ lengths
        return tuple(plans), Work(sum(map(len, members)), useful, int(loads.sum()), int(loads.max()), turns, lengths)

    def _lay_group(
        self, group: int, chosen: np.ndarray, todo: np.ndarray, slots: np.ndarray, late: np.ndarray
    ) -> tuple[GroupPlan, Schedule]:
        """Lay a group's members into the queues of their homes, the longest first."""
        homes = self.placement.groups[group]
        home = homes.device[chosen]
        order = np.lexsort((-todo, home))
        counts = np.bincount(home, minlength=homes.devices)
        place = home[order], np.arange(len(chosen)) - np.repeat(np.cumsum(counts) - counts, counts)

        def queue(values: np.ndarray, fill: int) -> np.ndarray:
            out = np.full((homes.devices, self.capacity[group]), fill, np.int32)
            out[place] = values[order]
            return out

        clients, steps = queue(homes.row[chosen], -1), queue(todo, 0)
        places = np.arange(clients.shape[1], dtype=np.int32)
        found = scheduled(steps, counts, self.chunk[group])
        plan = GroupPlan(
            clients=clients,
            kept=np.where(clients < 0, -1, places) if self.visiting else clients,
            steps=steps,
            slots=queue(slots, 0),
            delays=queue(late, 0),
            multiple=found.multiple,
            chunk=self.chunk[group],
        )
        return plan, found
