"""The twin's owners: ten countries of the real relative sizes, and how their samples are split."""

from __future__ import annotations

import numpy as np

from mmfl_jax.archives.twin.statistics import COUNTRIES, COUNTRY_SIZES, SPLIT_SHARES

FLOOR = 16
"""Samples that each country has before sizes follow the real ones, so that the smallest can still be split."""


def countries_and_ranks(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 [samples] country of each sample and its rank among the country's own.

    The first ``FLOOR`` samples of every country come first, in turn; after that countries follow each other such
    that at every length their numbers are as close to the real shares as whole numbers allow.
    """
    shares = COUNTRY_SIZES / COUNTRY_SIZES.sum()
    numbers = np.ceil(samples * shares).astype(int) + FLOOR
    countries = np.repeat(np.arange(len(shares)), numbers)
    ranks = np.concatenate([np.arange(number) for number in numbers])
    turn = np.where(ranks < FLOOR, ranks, FLOOR + (ranks + 0.5) / shares[countries])
    order = np.lexsort((countries, turn))[:samples]
    return countries[order].astype(np.int32), ranks[order]


def splits(ranks: np.ndarray, countries: np.ndarray) -> np.ndarray:
    """Return [samples] of train, validation, test in the real proportions within each country.

    The golden ratio's multiples are spread evenly at every length, so that small countries have all three.
    """
    place = ((ranks + 1) * ((np.sqrt(5) - 1) / 2) + countries / len(COUNTRIES)) % 1
    ends = np.cumsum(list(SPLIT_SHARES.values()))
    return np.array(list(SPLIT_SHARES))[np.minimum(np.searchsorted(ends, place, side="right"), 2)]
