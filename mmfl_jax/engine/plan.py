"""The plan of a round: which clients take part, in which chunk, on which device.

All of it is host arithmetic on small integers; the jitted round receives the result as arrays of fixed shape.
"""

from __future__ import annotations

import dataclasses
import heapq

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """Hold one group's share of a round, ready to be sharded over devices.

    Attributes:
      clients: ``[devices, chunks, chunk]`` int32 numbers within the group, -1 where there is none.
      steps: ``[devices, chunks, chunk]`` int32 local steps, 0 where there is none.
      chunks: ``[devices]`` int32: how many of the chunks hold anybody.
    """

    clients: np.ndarray
    steps: np.ndarray
    chunks: np.ndarray


def local_steps(sizes: np.ndarray, epochs: float, batch_size: int, fixed: int = 0) -> np.ndarray:
    """Return the local steps of clients of ``sizes``: ``ceil(epochs * size / batch_size)``, or ``fixed`` if not 0."""
    if fixed:
        return np.full(len(sizes), fixed, dtype=np.int64)
    return np.maximum(1, np.ceil(epochs * sizes / batch_size)).astype(np.int64)


def sample_cohort(clients: int, cohort: int, seed: int, round_number: int) -> np.ndarray:
    """Return the sorted numbers of the clients of a round, drawn uniformly without replacement.

    Keyed by (seed, round) alone, so a resumed run draws what an unbroken one draws. ``cohort`` 0 is everybody.
    """
    if not cohort or cohort >= clients:
        return np.arange(clients)
    return np.sort(np.random.default_rng([seed, 3, round_number]).choice(clients, cohort, replace=False))


class Planner:
    """Lay the cohort of each round into chunks and deal the chunks to devices, with arrays of one shape for all rounds.

    Args:
      steps: ``[clients]`` local steps of every client, a group an entry.
      chunk: clients that one device trains at once, a group an entry.
      devices: how many.
      cohort: the most clients in a round, 0 for all.
    """

    def __init__(self, steps: list[np.ndarray], chunk: list[int], devices: int, cohort: int):
        self.steps, self.chunk, self.devices = steps, chunk, devices
        most = [min(len(s), cohort or len(s)) for s in steps]
        totals = [-(-n // c) for n, c in zip(most, chunk)]
        # Room for an uneven deal: a device with one giant chunk leaves the small ones to the others.
        self.capacity = [t if devices == 1 else min(t, 2 * -(-t // devices) + 1) for t in totals]

    def lay(self, members: list[np.ndarray]) -> tuple[tuple[GroupPlan, ...], dict[str, float]]:
        """Return the plans of one round, and what they cost.

        Args:
          members: numbers within each group of the clients that take part.

        Returns:
          A plan a group, and ``client_steps``, ``clients`` and ``padding_waste``: the share of client-steps that are
          computed for nothing because a chunk runs as long as its longest client.
        """
        loads = np.zeros(self.devices, dtype=np.int64)
        plans, useful, paid = [], 0, 0
        for group, chosen in enumerate(members):
            size, steps = self.chunk[group], self.steps[group]
            by_steps = chosen[np.argsort(-steps[chosen], kind="stable")]
            count = -(-len(by_steps) // size)
            clients = np.full((count, size), -1, np.int32)
            clients.reshape(-1)[: len(by_steps)] = by_steps
            local = np.where(clients < 0, 0, steps[clients])
            useful += int(local.sum())
            paid += int(local.max(axis=1, initial=0).sum()) * size
            plans.append(self._deal(group, clients, local, loads))
        return tuple(plans), {
            "clients": sum(len(m) for m in members),
            "client_steps": useful,
            "padding_waste": 1 - useful / paid if paid else 0.0,
        }

    def _deal(self, group: int, clients: np.ndarray, steps: np.ndarray, loads: np.ndarray) -> GroupPlan:
        """Deal chunks ``[chunks, chunk]``, longest first, each to the device with least to do."""
        shape = (self.devices, self.capacity[group], self.chunk[group])
        dealt, dealt_steps = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
        device, place = self._places(steps.max(axis=1, initial=0), self.capacity[group], loads)
        dealt[device, place], dealt_steps[device, place] = clients, steps
        return GroupPlan(dealt, dealt_steps, np.bincount(device, minlength=self.devices).astype(np.int32))

    def _places(self, lengths: np.ndarray, capacity: int, loads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the device of each chunk and its place there; add the chunks' lengths to ``loads``."""
        if self.devices == 1:
            loads += lengths.sum()
            return np.zeros(len(lengths), np.int64), np.arange(len(lengths))
        device, place = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
        used = [0] * self.devices
        queue = [(int(load), d) for d, load in enumerate(loads)]
        heapq.heapify(queue)
        for chunk, length in enumerate(lengths.tolist()):
            load, d = heapq.heappop(queue)
            while used[d] == capacity:  # full: it gets no more of this group
                load, d = heapq.heappop(queue)
            device[chunk], place[chunk] = d, used[d]
            used[d] += 1
            loads[d] += length
            heapq.heappush(queue, (load + length, d))
        return device, place
