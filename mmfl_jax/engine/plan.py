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
      slots: ``[devices, chunks, chunk]`` int32: which of the group's clients in the cohort it is, from 0.
      delays: ``[devices, chunks, chunk]`` int32: how many rounds ago it was sent its parameters.
      chunks: ``[devices]`` int32: how many of the chunks hold anybody.
    """

    clients: np.ndarray
    steps: np.ndarray
    slots: np.ndarray
    delays: np.ndarray
    chunks: np.ndarray


def local_steps(sizes: np.ndarray, epochs: float, batch_size: int, fixed: int = 0) -> np.ndarray:
    """Return the local steps of clients of ``sizes``: ``ceil(epochs * size / batch_size)``, or ``fixed`` if not 0."""
    if fixed:
        return np.full(len(sizes), fixed, dtype=np.int64)
    return np.maximum(1, np.ceil(epochs * sizes / batch_size)).astype(np.int64)


class Planner:
    """Lay the cohort of each round into chunks and deal the chunks to devices, with arrays of one shape for all rounds.

    Args:
      steps: ``[clients]`` local steps of every client, a group an entry.
      chunk: clients that one device trains at once, a group an entry.
      devices: how many.
      most: the most clients of each group in a round.
    """

    def __init__(self, steps: list[np.ndarray], chunk: list[int], devices: int, most: list[int]):
        self.steps, self.chunk, self.devices = steps, chunk, devices
        self.most = most
        totals = [-(-n // c) for n, c in zip(most, chunk)]
        # Room for an uneven deal: a device with one giant chunk leaves the small ones to the others.
        self.capacity = [t if devices == 1 else min(t, 2 * -(-t // devices) + 1) for t in totals]

    def lay(
        self,
        members: list[np.ndarray],
        steps: list[np.ndarray] | None = None,
        delays: list[np.ndarray] | None = None,
        slots: list[np.ndarray] | None = None,
    ) -> tuple[tuple[GroupPlan, ...], dict[str, float]]:
        """Return the plans of one round, and what they cost.

        Args:
          members: numbers within each group of the clients that take part.
          steps: of these clients in this round, a group an entry; None for their own.
          delays: of these clients, a group an entry; None for no delay.
          slots: of these clients in the cohort, a group an entry; None where they are the whole cohort.

        Returns:
          A plan a group, and ``client_steps``, ``clients`` and ``padding_waste``: the share of client-steps that are
          computed for nothing because a chunk runs as long as its longest client.
        """
        loads = np.zeros(self.devices, dtype=np.int64)
        plans, useful, paid = [], 0, 0
        for group, chosen in enumerate(members):
            size, todo = self.chunk[group], self.steps[group][chosen] if steps is None else steps[group]
            order = np.argsort(-todo, kind="stable")
            count = -(-len(chosen) // size)

            def chunks(values: np.ndarray, fill: int, order=order, shape=(count, size)) -> np.ndarray:
                out = np.full(shape, fill, np.int32)
                out.reshape(-1)[: len(order)] = values[order]
                return out

            local = chunks(todo, 0)
            useful += int(local.sum())
            paid += int(local.max(axis=1, initial=0).sum()) * size
            places = np.arange(len(chosen)) if slots is None else slots[group]
            late = np.zeros(len(chosen), np.int32) if delays is None else delays[group]
            columns = chunks(chosen, -1), local, chunks(places, 0), chunks(late, 0)
            plans.append(self._deal(group, columns, loads))
        return tuple(plans), {
            "clients": sum(len(m) for m in members),
            "client_steps": useful,
            "padding_waste": 1 - useful / paid if paid else 0.0,
        }

    def _deal(self, group: int, columns: tuple[np.ndarray, ...], loads: np.ndarray) -> GroupPlan:
        """Deal chunks ``[chunks, chunk]``, longest first, each to the device with least to do."""
        shape = (self.devices, self.capacity[group], self.chunk[group])
        steps = columns[1]
        device, place = self._places(steps.max(axis=1, initial=0), self.capacity[group], loads)
        dealt = [np.full(shape, -1 if i == 0 else 0, np.int32) for i in range(len(columns))]
        for out, values in zip(dealt, columns):
            out[device, place] = values
        clients, steps, slots, delays = dealt
        held = np.bincount(device, minlength=self.devices).astype(np.int32)
        return GroupPlan(clients, steps, slots, delays, held)

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
