"""What an algorithm is run in: the facts by which it can tell that it does not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Setting:
    """Hold facts of a study and its federation.

    Attributes:
      client_optimizer: name.
      weighting: of clients, as the study asks for it.
      clients: in the federation.
      cohort: of a round, at most.
      steps: local steps of a client in a round, at most.
      holders: how many clients hold each exchanged parameter, by name.
      rate: the probability that a client takes part in a round; None where cohorts are of a fixed size below all.
      rounds: of the study.
      features: whether the model tells its fused representation.
      statistics: whether running moments travel.
      sums: names of the objectives whose sums travel.
    """

    client_optimizer: str
    weighting: str
    clients: int
    cohort: int
    steps: int
    holders: Mapping[str, int]
    rate: float | None
    rounds: int
    features: bool
    statistics: bool
    sums: tuple[str, ...]
