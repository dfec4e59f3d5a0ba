"""Buffered asynchronous rounds: who reports when, and how stale what they report is.

FedBuff (Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS 2022): ``concurrency``
clients train at any time, each from the model it was sent when it began; the server steps once ``buffer`` of them have
reported. An update's delay is how many steps the server took since its client began.

What the schedule promises, so that an engine can hold rounds of one shape and a bounded history of models:

- Each round has exactly ``buffer`` members, all different, and no delay is above ``max_delay``.
- A client holds one update at a time: until it is aggregated (or lost), the client is not asked again.
- Clients that end in the same instant are all heard before anybody begins, and begin from what comes out of it.
  Equally fast clients, as many as the buffer, so make synchronous rounds without delay.
- **Nothing is thrown away to keep delays down: the server waits**, as in stale synchronous parallel (Ho et al.,
  NeurIPS 2013). It takes the oldest updates first, and steps only if all that are then still under way can be
  aggregated in time. New clients begin only while at most ``buffer * (max_delay + 1)`` updates are under way, for more
  could not be aggregated in time. With a large ``max_delay`` it never waits: that is FedBuff.
- ``max_delay`` 0 and ``concurrency`` equal to ``buffer`` are synchronous rounds, whatever the clients' speeds, and of
  the very clients that :func:`mmfl_jax.federation.participation.sample_cohort` draws: FedAvg.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.participation import sample_cohort


class AsynchronousRound(NamedTuple):
    """Say what one step of the server aggregates.

    Attributes:
      members: ``[buffer]`` sorted numbers of clients.
      delays: ``[buffer]`` steps that the server took since each of them began, 0 to ``max_delay``.
      time: simulated seconds since the first round began.
      begun: numbers of the clients that began, and so received the model, since the step before; of any delay.
    """

    members: np.ndarray
    delays: np.ndarray
    time: float
    begun: np.ndarray


class _Update(NamedTuple):
    """An update under way; the order is that of aggregation: oldest first, then as they began."""

    version: int
    number: int
    client: int


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Hold the options of a schedule; made by :meth:`of`.

    Attributes:
      seconds: ``[clients]`` how long each takes from being asked to reporting.
      concurrency: clients that train at any time.
      buffer: updates in one step of the server.
      max_delay: the greatest delay.
      dropout: chance that a client that has begun never reports.
      seed: of every draw.
    """

    seconds: np.ndarray
    concurrency: int
    buffer: int
    max_delay: int
    dropout: float = 0.0
    seed: int = 0

    @classmethod
    def of(
        cls,
        seconds: np.ndarray,
        concurrency: int,
        buffer: int,
        max_delay: int,
        *,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> Schedule:
        """Return the schedule of clients that take these times.

        Args:
          seconds: ``[clients]`` how long each takes (:meth:`mmfl_jax.federation.clock.Clock.seconds` of all).
          concurrency: clients that train at any time.
          buffer: updates in one step of the server.
          max_delay: the greatest delay; large for FedBuff without waiting.
          dropout: chance that a client that has begun never reports; its place is taken when it would have.
          seed: of every draw.

        Raises:
          UserError: for numbers that cannot be.
        """
        seconds = np.asarray(seconds, dtype=np.float64)
        if not (np.isfinite(seconds) & (seconds >= 0)).all():
            wrong = int(np.flatnonzero(~(np.isfinite(seconds) & (seconds >= 0)))[0])
            raise UserError(f"client {wrong} takes {seconds[wrong]:g} seconds; a finite time of 0 or more is needed")
        for option, value in (("concurrency", concurrency), ("buffer", buffer)):
            if not 1 <= value <= len(seconds):
                raise UserError(f"--{option} {value}: needs 1 to {len(seconds)}, the clients of the federation")
        if max_delay < 0:
            raise UserError(f"--max-delay {max_delay}: needs 0 or more")
        if concurrency > buffer * (max_delay + 1):
            raise UserError(
                f"--concurrency {concurrency}: at most {buffer * (max_delay + 1)} clients can be aggregated within "
                f"--max-delay {max_delay} by a buffer of {buffer}"
            )
        if not 0 <= dropout < 1:
            raise UserError(f"--dropout {dropout:g} is no share; from 0 to below 1")
        return cls(seconds, concurrency, buffer, max_delay, dropout, seed)

    def rounds(self, first: int = 0) -> Iterator[AsynchronousRound]:
        """Yield the rounds from number ``first`` on, without end.

        A schedule depends on its options alone. Rounds before ``first`` are played again without being yielded: some
        ten microseconds for each update in them.
        """
        return itertools.islice(_Server(self).play(), first, None)


class _Server:
    """Play a schedule: an event queue of clients that train, and what the server has heard."""

    def __init__(self, schedule: Schedule):
        self.options, self.clients = schedule, len(schedule.seconds)
        self.seconds: list[float] = schedule.seconds.tolist()
        self.version, self.begun, self.now = 0, 0, 0.0
        self.queue: list[tuple[float, int, _Update]] = []  # that train, by when they end
        self.heard: list[_Update] = []  # a heap
        # Updates by delay so far: all that are under way, and those of them that were heard.
        self.counts = np.zeros((2, schedule.max_delay + 1), dtype=np.int64)
        self.limits = schedule.buffer * np.arange(schedule.max_delay + 1)
        self.most = schedule.buffer * (schedule.max_delay + 1)
        # Those who hold no update, in any order, and where each of them is, so that one is drawn and taken out at once.
        self.idle = list(range(self.clients))
        self.place = list(range(self.clients))
        self.coins = generator(schedule.seed, Stream.UPDATES)
        self.asked: list[int] = []  # since the last step

    def play(self) -> Iterator[AsynchronousRound]:
        self._invite()
        self._begin()
        while True:
            self.now = self.queue[0][0]
            while self.queue and self.queue[0][0] == self.now:
                update = heapq.heappop(self.queue)[-1]
                if self.options.dropout and self.coins.random() < self.options.dropout:
                    self.counts[0, self.version - update.version] -= 1
                    self._free(update.client)
                else:
                    self.counts[1, self.version - update.version] += 1
                    heapq.heappush(self.heard, update)
            while self._may_step():
                yield self._step()
            self._begin()

    def _invite(self) -> None:
        """Draw who is asked at this version: first the cohort of a synchronous round, then anybody."""
        seed, version = self.options.seed, self.version
        self.rng = generator(seed, Stream.INVITATIONS, version)
        cohort = sample_cohort(self.clients, self.options.buffer, seed, version)
        self.invited = self.rng.permutation(cohort).tolist()

    def _begin(self) -> None:
        """Let clients begin while there is room for them."""
        room = min(self.options.concurrency, self.most - len(self.heard)) - len(self.queue)
        for _ in range(min(room, len(self.idle))):
            client = self._draw()
            update = _Update(self.version, self.begun, client)
            heapq.heappush(self.queue, (self.now + self.seconds[client], self.begun, update))
            self.counts[0, 0] += 1
            self.begun += 1
            self.asked.append(client)

    def _draw(self) -> int:
        """Take somebody out of those who hold no update."""
        while self.invited:
            client = self.invited.pop()
            if self.place[client] >= 0:
                break
        else:
            client = self.idle[int(self.rng.integers(len(self.idle)))]
        last, place = self.idle.pop(), self.place[client]
        if last != client:
            self.idle[place], self.place[last] = last, place
        self.place[client] = -1
        return client

    def _free(self, client: int) -> None:
        self.place[client] = len(self.idle)
        self.idle.append(client)

    def _may_step(self) -> bool:
        """Return whether the buffer is full, and all else under way can still be aggregated in time after a step.

        After a step, what was of delay a must be in one of the next ``max_delay - a`` steps: so many buffers is the
        most that may be left of delay a or more. Taking the oldest first always gets there, once all have been heard.
        """
        buffer = self.options.buffer
        if len(self.heard) < buffer:
            return False
        # Of the greatest delay, of that or one less, and so on.
        under_way, heard = np.cumsum(self.counts[:, ::-1], axis=1)
        return bool((under_way - np.minimum(heard, buffer) <= self.limits).all())

    def _step(self) -> AsynchronousRound:
        taken = [heapq.heappop(self.heard) for _ in range(self.options.buffer)]
        members = np.array([update.client for update in taken])
        delays = np.array([self.version - update.version for update in taken])
        self.counts -= np.bincount(delays, minlength=self.counts.shape[1])
        # All that is left is older by a step; nothing of the greatest delay is.
        self.counts = np.roll(self.counts, 1, axis=1)
        for update in taken:
            self._free(update.client)
        self.version += 1
        self._invite()
        order = np.argsort(members)
        asked, self.asked = np.array(self.asked, np.int64), []
        return AsynchronousRound(members[order], delays[order], self.now, asked)
