"""Turns: how the clients of a home take the seats of a chunk.

Clients wait in a queue, the longest first, and as many as there are seats train side by side. A turn is the local steps
between two changes: after it, those who come next take the seats whose clients have ended. Beginning and ending cost
something in every seat, whoever begins or ends; so a turn may be asked to take a multiple of some steps, and seats
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


class Seats(NamedTuple):
    """Hold who trains in a chunk.

    Attributes:
      place: ``[..., seats]`` int32: the place in the queue of a seat's client, -1 for nobody.
      steps: ``[..., seats]`` int32: the local steps of that client, 0 for nobody.
      done: ``[..., seats]`` int32: how many of them are done.
      waiting: ``[...]`` int32: the first place in the queue whose client has not begun.
    """

    place: Array
    steps: Array
    done: Array
    waiting: Array

    @property
    def left(self) -> Array:
        """Return the local steps that each seat has before it."""
        return self.steps - self.done


def empty(seats: int, homes: tuple[int, ...] = (), *, xp: Any = jnp) -> Seats:
    """Return seats of nobody; ``xp`` is the module of their arrays."""
    nothing = xp.zeros((*homes, seats), xp.int32)
    return Seats(nothing - 1, nothing, nothing, xp.zeros(homes, xp.int32))


def go_on(seats: Seats, count: Array) -> Array:
    """Return whether any client, of ``count [...]`` in the queue, has not ended."""
    return (seats.waiting < count) | (seats.left > 0).any(-1)


def seated(seats: Seats, steps: Array, count: Array, *, xp: Any = jnp) -> Seats:
    """Return the seats after clients that have ended gave way to the next ones.

    Args:
      seats: after a turn.
      steps: ``[..., places]`` int32: local steps of every place in the queue.
      count: ``[...]`` int32: how many places are anybody's.
      xp: the module of the arrays.
    """
    free = seats.left <= 0
    coming = seats.waiting[..., None] + xp.cumsum(free, -1, dtype=xp.int32) - 1
    taken = free & (coming < count[..., None])
    place = xp.where(taken, coming, xp.where(free, -1, seats.place))
    of = xp.take_along_axis(steps, xp.maximum(place, 0), -1)
    return Seats(
        place,
        xp.where(place < 0, 0, of),
        xp.where(free, 0, seats.done),
        seats.waiting + taken.sum(-1, dtype=xp.int32),
    )


def length(seats: Seats, count: Array, multiple: Array, *, xp: Any = jnp) -> Array:
    """Return ``[...]``: the local steps of the next turn, until the first client ends if others wait, else the last.

    Args:
      seats: as :func:`seated` leaves them.
      count: ``[...]`` int32: how many places in the queue are anybody's.
      multiple: ``[...]`` int32: what it is a multiple of, unless all have ended before.
      xp: the module of the arrays.
    """
    left = seats.left
    first, last = left.min(-1), left.max(-1)  # where others wait, no seat is empty
    return xp.where(seats.waiting < count, xp.minimum(-(-first // multiple) * multiple, last), last)


class Schedule(NamedTuple):
    """Hold what the turns of homes come to, ``[homes]`` each.

    Attributes:
      multiple: of which the steps of a turn are.
      turns: how many there are.
      steps: local steps of all turns: what each seat takes.
    """

    multiple: np.ndarray
    turns: np.ndarray
    steps: np.ndarray


def scheduled(steps: np.ndarray, count: np.ndarray, seats: int) -> Schedule:
    """Return the turns of homes that end soonest, of a few ways to cut their time.

    Args:
      steps: ``[homes, places]`` int32 local steps of the clients in each home's queue, the longest first, then zeros.
      count: ``[homes]`` how many clients there are.
      seats: of a chunk.
    """
    whole = np.full(len(steps), WHOLE, np.int32)
    if seats == 1:
        return Schedule(whole, count, steps.sum(axis=1, dtype=np.int64))
    # Until all have ended: chunk after chunk, and the first is the longest of each.
    best = Schedule(whole, -(-count // seats), steps[:, ::seats].sum(axis=1, dtype=np.int64))
    soonest = np.maximum(steps.max(axis=1, initial=0), -(-steps.sum(axis=1, dtype=np.int64) // seats))
    if best.steps.sum() <= _ENOUGH * soonest.sum():
        return best
    middle = np.take_along_axis(steps, count[:, None] // 2, 1)[:, 0]
    for multiple in (soonest // 16, soonest // 64, middle):
        other = _counted(steps, count, seats, np.maximum(multiple, 1).astype(np.int32))
        sooner = _cost(other) < _cost(best)
        best = Schedule(*(np.where(sooner, new, old) for new, old in zip(other, best)))
    return best


def _cost(found: Schedule) -> np.ndarray:
    return found.steps + found.turns * _CHANGE


def _counted(steps: np.ndarray, count: np.ndarray, seats: int, multiple: np.ndarray) -> Schedule:
    """Return the turns of homes, taken one after another."""
    now = empty(seats, (len(steps),), xp=np)
    turns, total = np.zeros(len(steps), np.int32), np.zeros(len(steps), np.int64)
    while (going := go_on(now, count)).any():
        now = seated(now, steps, count, xp=np)
        taken = np.where(going, length(now, count, multiple, xp=np), 0)
        turns, total = turns + going, total + taken
        now = now._replace(done=now.done + taken[:, None])
    return Schedule(multiple, turns, total)
