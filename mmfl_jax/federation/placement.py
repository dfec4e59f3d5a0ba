"""Placement: which device is the home of a client, where its samples and what it keeps live.

Clients are dealt once, the largest first, each to the device that has least; nothing of a client is anywhere else. They
may be dealt to strata first, of which each device is home to as many: cohorts drawn stratum by stratum are then the
same on any number of devices that divides theirs, and each device has an equal part of them. A device holds its clients
in rows, in the order of their numbers, and has as many rows as the fullest device needs.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Homes:
    """Hold where the clients of one group live.

    Attributes:
      device: ``[clients]`` int32: the home of each.
      row: ``[clients]`` int32: its place there.
      devices: how many there are.
    """

    device: np.ndarray
    row: np.ndarray
    devices: int

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Return ``[devices]``: how many clients each device has."""
        return np.bincount(self.device, minlength=self.devices)

    @property
    def rows(self) -> int:
        """Return the rows that every device has: as many as the most clients of one."""
        return int(self.counts.max(initial=0))

    @property
    def there(self) -> np.ndarray:
        """Return ``[devices * rows]``: whether a row is anybody's."""
        return (np.arange(self.rows) < self.counts[:, None]).reshape(-1)

    @property
    def positions(self) -> np.ndarray:
        """Return ``[clients]``: the place of each client among the rows of all devices."""
        return self.device.astype(np.int64) * self.rows + self.row

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.device, kind="stable")

    def clients(self, device: int) -> np.ndarray:
        """Return the clients of a device, in the order of its rows."""
        begin = int(self.counts[:device].sum())
        return self._order[begin : begin + int(self.counts[device])]


@dataclasses.dataclass(frozen=True, eq=False)
class Placement:
    """Hold where the clients of every group live."""

    groups: tuple[Homes, ...]
    devices: int

    @classmethod
    def of(cls, steps: Sequence[np.ndarray], sizes: Sequence[np.ndarray], devices: int, strata: int = 0) -> Placement:
        """Deal clients to devices.

        Args:
          steps: ``[clients]`` local steps in a round, a group an entry.
          sizes: ``[clients]`` samples, a group an entry.
          devices: how many.
          strata: how many strata (:func:`deal`) the devices share evenly; 0 for none.
        """
        each = strata // devices or 1
        dealt = [stratum // each for stratum in deal(steps, sizes, strata or devices)]
        return cls(tuple(Homes(device, _ranks(device, devices), devices) for device in dealt), devices)


def deal(steps: Sequence[np.ndarray], sizes: Sequence[np.ndarray], parts: int) -> list[np.ndarray]:
    """Return the part of each client, ``[clients]`` int32 a group; parts have like work and like many samples."""
    # Both at once: they mostly go together.
    each = [np.concatenate(values).astype(np.float64) for values in (steps, sizes)]
    load = sum(values / max(values.sum(), 1) for values in each)
    ends = np.cumsum([len(values) for values in sizes])[:-1]
    return np.split(_dealt(np.asarray(load), parts), ends)


def best_span(
    steps: Sequence[np.ndarray], sizes: Sequence[np.ndarray], devices: int, batch_size: int, cohort: int
) -> int:
    """Return how many devices a client should span, so that a round of all or of a cohort ends soonest.

    One, unless there are few clients for the devices: ten countries of any size on 256 chips would leave 246 idle.

    Args:
      steps: ``[clients]`` local steps in a round, a group an entry.
      sizes: ``[clients]`` samples, a group an entry.
      devices: how many there are.
      batch_size: of a local step, which a home's devices share evenly.
      cohort: clients of a round.
    """
    clients = sum(map(len, steps))
    if devices == 1 or cohort >= 4 * devices:
        return 1
    seconds = {}
    for span in range(1, devices + 1):
        if devices % span or batch_size % span:
            continue
        homes = devices // span
        if cohort < clients:
            longest = -(-cohort // homes) * sum(int(s.sum()) for s in steps) / clients
        else:
            placement = Placement.of(steps, sizes, homes)
            loads = [np.bincount(h.device, s, homes) for h, s in zip(placement.groups, steps)]
            longest = float(np.sum(loads, axis=0).max())
        seconds[span] = longest / span
    # The smallest that is nearly the best: what spans devices talks in every step.
    return min(span for span, time in seconds.items() if time <= 1.1 * min(seconds.values()))


def _dealt(load: np.ndarray, devices: int) -> np.ndarray:
    """Return the device of each client: the largest first, each to the device with least so far."""
    device = np.zeros(len(load), np.int32)
    if devices == 1:
        return device
    queue = [(0.0, d) for d in range(devices)]
    order = np.argsort(-load, kind="stable")
    for client, one in zip(order.tolist(), load[order].tolist()):
        whole, d = queue[0]
        device[client] = d
        heapq.heapreplace(queue, (whole + one, d))
    return device


def _ranks(device: np.ndarray, devices: int) -> np.ndarray:
    """Return how many clients of the same device come before each."""
    order = np.argsort(device, kind="stable")
    begins = np.concatenate([[0], np.cumsum(np.bincount(device, minlength=devices))])
    ranks = np.empty(len(device), np.int32)
    ranks[order] = np.arange(len(device)) - begins[device[order]]
    return ranks
