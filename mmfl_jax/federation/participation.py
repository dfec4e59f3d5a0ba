"""Participation: who takes part in a round, who drops out of it, and how far each gets.

Every draw is keyed by (seed, round) alone, so a resumed run draws what an unbroken one draws, and each client's coins
are its own: whether it drops out or lags does not depend on who else was asked.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.federation import Federation
from mmfl_jax.federation.placement import deal

FORMS = "all, a share such as 0.1, a number such as 100, per-group:NUMBER, or stratified:STRATA:NUMBER"


class CohortRule(NamedTuple):
    """Say how a cohort is drawn: ``kind`` is all, share, number, per-group or stratified."""

    kind: str
    value: float = 0
    strata: int = 0

    @property
    def counts(self) -> bool:
        """Return whether ``value`` is a number of clients."""
        return self.kind in ("number", "per-group", "stratified")


def sample_cohort(clients: int, cohort: int, seed: int, round_number: int) -> np.ndarray:
    """Return the sorted numbers of the clients of a round, drawn uniformly without replacement.

    Keyed by (seed, round) alone, so a resumed run draws what an unbroken one draws. ``cohort`` 0 is everybody.
    """
    if not cohort or cohort >= clients:
        return np.arange(clients)
    return np.sort(generator(seed, Stream.COHORT, round_number).choice(clients, cohort, replace=False))


def read_participation(reference: str) -> CohortRule:
    """Return how a cohort is drawn.

    Args:
      reference: ``all``; a share such as ``0.1``, written with a point (every client tosses its own coin: Poisson
        sampling); a whole number such as ``100`` (that many, without replacement); ``per-group:5`` (that many of the
        clients of each modality set); ``stratified:8:400`` (400, of which 50 from each of 8 strata of like work: where
        8 is a multiple of the devices, each has as many to train).

    Raises:
      UserError: for anything else.
    """
    if reference == "all":
        return CohortRule("all")
    if reference.startswith("stratified:"):
        return _stratified(reference)
    text = reference.removeprefix("per-group:")
    if text.isascii() and text.isdigit():
        if int(text) == 0:
            raise UserError(f"--participation {reference!r} is nobody; {FORMS}")
        return CohortRule("number" if text == reference else "per-group", int(text))
    try:
        share = float(reference)
    except ValueError:
        raise UserError(f"--participation {reference!r} is unknown; one of {FORMS}") from None
    if not 0 < share <= 1:
        raise UserError(f"--participation {reference!r}: a share is above 0 and at most 1, a number is whole, above 0")
    return CohortRule("share", share)


def _stratified(reference: str) -> CohortRule:
    parts = reference.split(":")[1:]
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise UserError(f"--participation {reference!r}: stratified:STRATA:NUMBER, such as stratified:8:400")
    strata, number = map(int, parts)
    if number % strata:
        raise UserError(f"--participation {reference!r}: {strata} strata cannot give {number} clients in equal parts")
    return CohortRule("stratified", number, strata)


def _check_share(option: str, value: float, *, below_one: bool = False) -> None:
    if not 0 <= value <= 1 or (below_one and value == 1):
        raise UserError(f"--{option} {value:g} is no share; from 0 to {'below 1' if below_one else '1'}")


@dataclasses.dataclass(frozen=True, eq=False)
class Participation:
    """Say who takes part in each round; made by :meth:`of`.

    With a share, or with dropout, a round may have no members at all; whoever runs it must cope with that.

    Attributes:
      cohort: how the clients of a round are drawn.
      groups: ``[clients of the group]`` numbers of the clients of each group.
      dropout: chance that a client that was chosen does not report.
      stragglers: chance that a client does only some of its steps in a round.
      seed: of every draw.
      strata: ``[clients]`` the stratum of each client; empty where there are none.
    """

    cohort: CohortRule
    groups: tuple[np.ndarray, ...]
    dropout: float = 0.0
    stragglers: float = 0.0
    seed: int = 0
    strata: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))

    @classmethod
    def of(
        cls,
        federation: Federation,
        reference: str = "all",
        *,
        dropout: float = 0.0,
        stragglers: float = 0.0,
        seed: int = 0,
        steps: Sequence[np.ndarray] | None = None,
    ) -> Participation:
        """Return who takes part in the rounds of a federation.

        Args:
          federation: the clients.
          reference: see :func:`read_participation`.
          dropout: chance, drawn anew each round, that a client that was chosen drops out before it reports.
          stragglers: chance, drawn anew each round, that a client is slow: it does any share of its steps, and at
            least one (the varying local work of FedProx: Li et al., 2020).
          seed: of every draw.
          steps: ``[clients]`` local steps, a group an entry: what strata have alike; None for their samples.

        Raises:
          UserError: for an unknown reference, more clients than there are, or shares that are none.
        """
        cohort, groups = read_participation(reference), tuple(group.ids for group in federation.groups)
        there = max(len(ids) for ids in groups) if cohort.kind == "per-group" else federation.clients
        if cohort.counts and cohort.value > there:
            what = "clients of the largest group" if cohort.kind == "per-group" else "clients of the federation"
            raise UserError(f"--participation {reference!r} is more than the {there} {what}; at most {there}")
        _check_share("dropout", dropout, below_one=True)
        _check_share("stragglers", stragglers)
        strata = np.zeros(0, np.int32)
        if cohort.strata:
            sizes = [group.sizes for group in federation.groups]
            strata = np.concatenate(deal(steps or sizes, sizes, cohort.strata))
            strata[np.concatenate(groups)] = strata.copy()
            fewest = int(np.bincount(strata, minlength=cohort.strata).min())
            wanted = int(cohort.value) // cohort.strata
            if fewest < wanted:
                raise UserError(f"--participation {reference!r}: a stratum has {fewest} clients, not {wanted}")
        return cls(cohort, groups, dropout, stragglers, seed, strata)

    @property
    def clients(self) -> int:
        """Return the number of clients of the federation."""
        return sum(len(ids) for ids in self.groups)

    @property
    def most(self) -> tuple[int, ...]:
        """Return the most clients of each group that one round may have."""
        bound = int(self.cohort.value) if self.cohort.counts else self.clients
        return tuple(min(bound, len(ids)) for ids in self.groups)

    @property
    def largest(self) -> int:
        """Return the most clients that one round may have."""
        return int(self.cohort.value) if self.cohort.kind in ("number", "stratified") else sum(self.most)

    @property
    def expected(self) -> float:
        """Return how many clients a round has on average.

        Under Poisson sampling, differential privacy divides the sum of updates by what was expected (without dropout),
        as the number that came is itself private.
        """
        kind, value, _ = self.cohort
        chosen = {"all": self.clients, "share": value * self.clients, "per-group": sum(self.most)}.get(kind, value)
        return chosen * (1 - self.dropout)

    def chosen(self, round_number: int) -> np.ndarray:
        """Return the sorted numbers of the clients that a round asks: those that the server sends to."""
        kind, value, strata = self.cohort
        if kind == "share":
            return np.flatnonzero(generator(self.seed, Stream.COINS, round_number).random(self.clients) < value)
        if kind not in ("per-group", "stratified"):
            return sample_cohort(self.clients, int(value), self.seed, round_number)
        if strata:
            rng = generator(self.seed, Stream.STRATA, round_number)
            each = [rng.choice(ids, int(value) // strata, replace=False) for ids in self._by_stratum]
            return np.sort(np.concatenate(each))
        drawn = []
        for group, ids in enumerate(self.groups):
            rng = generator(self.seed, Stream.GROUPS, round_number, group)
            drawn.append(rng.choice(ids, min(int(value), len(ids)), replace=False))
        return np.sort(np.concatenate(drawn))

    def members(self, round_number: int) -> np.ndarray:
        """Return the sorted numbers of the clients that report in a round: the chosen without those that drop out."""
        chosen = self.chosen(round_number)
        if not self.dropout:
            return chosen
        coins = generator(self.seed, Stream.DROPOUT, round_number).random(self.clients)
        return chosen[coins[chosen] >= self.dropout]

    def steps(self, round_number: int, members: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return how many of its local steps each client does in a round.

        Args:
          round_number: of the round.
          members: ``[n]`` numbers of clients.
          steps: ``[n]`` steps of each when it is not slow.
        """
        steps = np.asarray(steps)
        if not self.stragglers:
            return steps
        coins, places = generator(self.seed, Stream.STRAGGLERS, round_number).random((2, self.clients))
        done = np.maximum(1, np.floor(steps * places[members])).astype(steps.dtype)
        return np.where(coins[members] < self.stragglers, np.minimum(done, steps), steps)

    def by_group(self, members: np.ndarray) -> list[np.ndarray]:
        """Return the sorted numbers within each group of clients that are given by their numbers in the federation."""
        group, place = self._homes
        return [np.sort(place[members[group[members] == g]]) for g in range(len(self.groups))]

    @functools.cached_property
    def _by_stratum(self) -> list[np.ndarray]:
        ends = np.cumsum(np.bincount(self.strata, minlength=self.cohort.strata))[:-1]
        return np.split(np.argsort(self.strata, kind="stable"), ends)

    @functools.cached_property
    def _homes(self) -> tuple[np.ndarray, np.ndarray]:
        group, place = np.zeros(self.clients, dtype=np.int64), np.zeros(self.clients, dtype=np.int64)
        for number, ids in enumerate(self.groups):
            group[ids], place[ids] = number, np.arange(len(ids))
        return group, place
