"""Random draws of the federation: a stream for each thing that is drawn, so that none repeats another's numbers."""

from __future__ import annotations

import enum

import numpy as np


class Stream(enum.IntEnum):
    """Name what is drawn; numbers are part of every published result, and never change."""

    TEST = 0
    PARTITION = 1
    MODALITIES = 2
    COHORT = 3
    COINS = 4
    GROUPS = 5
    DROPOUT = 6
    STRAGGLERS = 7
    LABELS = 8
    CHOSEN = 9
    LOST = 10
    CLOCK = 11
    INVITATIONS = 12
    UPDATES = 13
    STRATA = 14
    VALIDATION = 15
    OWNERS = 16
    SENSORS = 17
    LABELLED = 18


def generator(seed: int, stream: Stream, *more: int) -> np.random.Generator:
    """Return the generator of one stream of a seed; ``more`` (the round, say) are streams within it."""
    return np.random.default_rng([seed, int(stream), *more])
