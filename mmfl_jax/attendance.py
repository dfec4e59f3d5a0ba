"""The clients of every round: who takes part and how late, what travels, and how long it would take them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmfl_jax import costs
from mmfl_jax.engine.batches import GroupData
from mmfl_jax.engine.execution import Cohort
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.state import ServerState
from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.federation.asynchronous import AsynchronousRound, Schedule
from mmfl_jax.federation.clock import Clock
from mmfl_jax.federation.participation import Participation
from mmfl_jax.study import Study


class Attendance:
    """Say of every round who takes part in it, what they send and receive, and how long it would take them.

    Args:
        study: the options.
        clients: the federation as it trains.
        participation: who is asked, and who of them reports.
        steps: ``[clients of the group]`` local steps of each client, a group an entry.
        program: what is computed.
        state: gives the shapes.
        examples: the data of each group, as a round receives them; they give the shapes.

    Raises:
        UserError: for an algorithm with delays in a study without speeds.
    """

    def __init__(
        self,
        study: Study,
        clients: Federation,
        participation: Participation,
        steps: list[np.ndarray],
        program: Program,
        state: ServerState,
        examples: Sequence[GroupData],
    ):
        self._clients, self._participation, self._steps, self._program = clients, participation, steps, program
        # Of shapes alone: a state that is held would keep its arrays.
        self._state, self._examples = jax.tree.map(costs.shape_of, (state, tuple(examples)))
        # Clients of one size send alike, round after round.
        self.client_bytes = functools.cache(self._client_bytes)
        who = study.federation
        speeds = who.speed, who.bandwidth_up, who.bandwidth_down
        self._clock = Clock.of(clients, *speeds, study.data_seed) if who.speed else None
        self._late = self._schedule(study).rounds() if program.algorithm.buffer else None
        self._played: list[AsynchronousRound] = []

    def _client_bytes(self, group: int, places: int = 0) -> tuple[int, int]:
        """Return the bytes up and down of a client of a group, with so many places where objectives go by them."""
        return costs.client_bytes(self._program, self._state, self._examples[group], group, places)

    def _schedule(self, study: Study) -> Schedule:
        algorithm, who = self._program.algorithm, study.federation
        if self._clock is None:
            raise UserError(
                f"--algorithm {study.algorithm.algorithm}: who is late follows from --speed, such as lognormal:10:1"
            )
        steps, up, down = (np.zeros(self._clients.clients) for _ in range(3))
        for g, group in enumerate(self._clients.groups):
            steps[group.ids] = self._steps[g]
            up[group.ids], down[group.ids] = self.client_bytes(g)
        return Schedule.of(
            self._clock.seconds(np.arange(len(steps)), steps, up, down),
            who.concurrency or algorithm.buffer,
            algorithm.buffer,
            algorithm.most_delay,
            dropout=who.dropout,
            seed=study.training.seed,
        )

    def _asynchronous(self, round_number: int) -> AsynchronousRound:
        """Return a round of the schedule; it is played once, however many rounds ask for it."""
        assert self._late is not None
        missing = max(0, round_number + 1 - len(self._played))
        self._played.extend(itertools.islice(self._late, missing))
        return self._played[round_number]

    def cohort(self, round_number: int) -> Cohort:
        """Return who takes part in a round, with their local steps and delays."""
        part = self._participation
        if self._late is not None:
            found = self._asynchronous(round_number)
            drawn, late = found.members, np.asarray(found.delays)
        else:
            drawn = part.members(round_number)
            late = np.zeros(len(drawn), np.int32)
        members = part.by_group(drawn)
        delay = np.zeros(self._clients.clients, np.int32)
        delay[drawn] = late
        steps, delays = [], []
        for group, chosen, own in zip(self._clients.groups, members, self._steps):
            steps.append(part.steps(round_number, group.ids[chosen], own[chosen]))
            delays.append(delay[group.ids[chosen]])
        return Cohort(members, steps, delays)

    def traffic(self, group: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes up and down, ``[n]`` each, of the chosen clients of a group."""
        if self._program.by_place:
            each = [self.client_bytes(group, int(n)) for n in self._clients.groups[group].sizes[chosen]]
        else:
            each = [self.client_bytes(group)] * len(chosen)
        table = np.array(each, np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def sent(self, round_number: int, cohort: Cohort) -> dict[str, Any]:
        """Return the bytes of a round, and the simulated seconds that it would take its clients where they have speeds.

        Args:
            round_number: of the round, from 0.
            cohort: who took part in it.
        """
        if self._program.algorithm.pooled or self._program.algorithm.isolated:
            return {"bytes_up": 0, "bytes_down": 0}
        traffic = [self.traffic(g, chosen) for g, chosen in enumerate(cohort.members)]
        part = self._participation
        late = self._late is not None
        asked = part.by_group(self._asynchronous(round_number).begun if late else part.chosen(round_number))
        down = sum(int(self.traffic(g, chosen)[1].sum()) for g, chosen in enumerate(asked))
        row: dict[str, Any] = {"bytes_up": sum(int(up.sum()) for up, _ in traffic), "bytes_down": down}
        if self._program.algorithm.servers:
            row["bytes_between_servers"] = costs.server_bytes(self._program, self._state, round_number + 1)
        if late:
            before = self._asynchronous(round_number - 1).time if round_number else 0.0
            row["simulated_seconds"] = self._asynchronous(round_number).time - before
        elif self._clock is not None:
            slowest = [0.0]
            for group, chosen, steps, (up, low) in zip(self._clients.groups, cohort.members, cohort.steps, traffic):
                slowest.append(self._clock.round_seconds(group.ids[chosen], steps, up, low))
            row["simulated_seconds"] = max(slowest)
        return row
