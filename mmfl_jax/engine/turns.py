"""Turns: how the clients of a home take the lanes of a chunk.

Clients wait in a queue, the longest first, and as many as there are lanes train side by side. A turn is the local steps
between two changes: after it, those who come next take the lanes whose clients have ended. Beginning and ending cost
something in every lane, whoever begins or ends; so a turn may be asked to take a multiple of some steps, and lanes
whose clients end before it wait.

The same lines count turns on the host, of all homes at once, and take them on a device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

Array = Any
#: A turn that lasts until all of its clients have ended.
WHOLE = 2**30
# What the beginning and the end of clients take, in local steps (``mmfl-jax plan``: "turns" beside "local steps").
_CHANGE = 1
# How much longer than the soonest possible a round may take before other ways are tried.
_ENOUGH = 1.02


class Lanes(NamedTuple):
    """Hold who trains in a chunk.

    Attributes:
      place: ``[..., lanes]`` int32: the place in the queue of a lane's client, -1 for nobody.
      steps: ``[..., lanes]`` int32: the local steps of that client, 0 for nobody.
      done: ``[..., lanes]`` int32: how many of them are done.
      waiting: ``[...]`` int32: the first place in the queue whose client has not begun.
    """

    place: Array
    steps: Array
    done: Array
    waiting: Array

    @property
    def left(self) -> Array:
        """Return the local steps that each lane has before it."""
        return self.steps - self.done


def empty(lanes: int, homes: tuple[int, ...] = (), *, xp: Any = jnp) -> Lanes:
    """Return lanes of nobody; ``xp`` is the module of their arrays."""
    nothing = xp.zeros((*homes, lanes), xp.int32)
    return Lanes(nothing - 1, nothing, nothing, xp.zeros(homes, xp.int32))


def go_on(lanes: Lanes, count: Array) -> Array:
    """Return whether any client, of ``count [...]`` in the queue, has not ended."""
    return (lanes.waiting < count) | (lanes.left > 0).any(-1)


def seated(lanes: Lanes, steps: Array, count: Array, *, xp: Any = jnp) -> Lanes:
    """Return the lanes after clients that have ended gave way to the next ones.

    Args:
      lanes: after a turn.
      steps: ``[..., places]`` int32: local steps of every place in the queue.
      count: ``[...]`` int32: how many places are anybody's.
      xp: the module of the arrays.
    """
    free = lanes.left <= 0
    coming = lanes.waiting[..., None] + xp.cumsum(free, -1, dtype=xp.int32) - 1
    taken = free & (coming < count[..., None])
    place = xp.where(taken, coming, xp.where(free, -1, lanes.place))
    of = xp.take_along_axis(steps, xp.maximum(place, 0), -1)
    return Lanes(
        place,
        xp.where(place < 0, 0, of),
        xp.where(free, 0, lanes.done),
        lanes.waiting + taken.sum(-1, dtype=xp.int32),
    )


def length(lanes: Lanes, count: Array, multiple: Array, *, xp: Any = jnp) -> Array:
    """Return ``[...]``: the local steps of the next turn, until the first client ends if others wait, else the last.

    Args:
      lanes: as :func:`seated` leaves them.
      count: ``[...]`` int32: how many places in the queue are anybody's.
      multiple: ``[...]`` int32: what it is a multiple of, unless all have ended before.
      xp: the module of the arrays.
    """
    left = lanes.left
    first, last = left.min(-1), left.max(-1)  # where others wait, no lane is empty
    return xp.where(lanes.waiting < count, xp.minimum(-(-first // multiple) * multiple, last), last)


class Schedule(NamedTuple):
    """Hold what the turns of homes come to, ``[homes]`` each.

    Attributes:
      multiple: of which the steps of a turn are.
      turns: how many there are.
      steps: local steps of all turns: what each lane takes.
    """

    multiple: np.ndarray
    turns: np.ndarray
    steps: np.ndarray


def scheduled(steps: np.ndarray, count: np.ndarray, lanes: int) -> Schedule:
    """Return the turns of homes that end soonest, of a few ways to cut their time.

    Args:
      steps: ``[homes, places]`` int32 local steps of the clients in each home's queue, the longest first, then zeros.
      count: ``[homes]`` how many clients there are.
      lanes: of a chunk.
    """
    whole = np.full(len(steps), WHOLE, np.int32)
    if lanes == 1:
        return Schedule(whole, count, steps.sum(axis=1, dtype=np.int64))
    # Until all have ended: chunk after chunk, and the first is the longest of each.
    best = Schedule(whole, -(-count // lanes), steps[:, ::lanes].sum(axis=1, dtype=np.int64))
    soonest = np.maximum(steps.max(axis=1, initial=0), -(-steps.sum(axis=1, dtype=np.int64) // lanes))
    if best.steps.sum() <= _ENOUGH * soonest.sum():
        return best
    middle = np.take_along_axis(steps, count[:, None] // 2, 1)[:, 0]
    for multiple in (soonest // 16, soonest // 64, middle):
        other = _counted(steps, count, lanes, np.maximum(multiple, 1).astype(np.int32))
        sooner = _cost(other) < _cost(best)
        best = Schedule(*(np.where(sooner, new, old) for new, old in zip(other, best)))
    return best


def _cost(found: Schedule) -> np.ndarray:
    return found.steps + found.turns * _CHANGE


def _counted(steps: np.ndarray, count: np.ndarray, lanes: int, multiple: np.ndarray) -> Schedule:
    """Return the turns of homes, taken one after another."""
    now = empty(lanes, (len(steps),), xp=np)
    turns, total = np.zeros(len(steps), np.int32), np.zeros(len(steps), np.int64)
    while (going := go_on(now, count)).any():
        now = seated(now, steps, count, xp=np)
        taken = np.where(going, length(now, count, multiple, xp=np), 0)
        turns, total = turns + going, total + taken
        now = now._replace(done=now.done + taken[:, None])
    return Schedule(multiple, turns, total)
