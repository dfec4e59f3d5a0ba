"""Ragged arrays: rows of different lengths, one after the other in one flat array, and where each begins.

A federation is made of these: the samples of 400,000 clients are one array, not 400,000.
"""

from __future__ import annotations

import numpy as np


def offsets_of(sizes: np.ndarray) -> np.ndarray:
    """Return ``[rows + 1]`` where rows of these sizes begin, and where the last ends."""
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def row_numbers(offsets: np.ndarray) -> np.ndarray:
    """Return ``[values]``: the row of every value."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def ranks(offsets: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Return ``[values]``: how many values of the same row have their turn before each, equal turns in order."""
    rows = row_numbers(offsets)
    out = np.empty(len(rows), np.int64)
    out[np.lexsort((turns, rows))] = np.arange(len(rows)) - offsets[rows]
    return out


def positions(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return where the values of ``rows`` lie in the flat array, row after row in the order given."""
    sizes = np.diff(offsets)[rows]
    ends = np.cumsum(sizes)
    return np.arange(sizes.sum()) + np.repeat(offsets[:-1][rows] - (ends - sizes), sizes)


def stacked(rows: np.ndarray, values: np.ndarray, count: int, *, ordered: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat array and the offsets of values that know their row.

    Args:
      rows: ``[values]`` row of each.
      values: ``[values]``.
      count: of rows.
      ordered: whether values are sorted within a row; else they keep their order.
    """
    order = np.lexsort((values, rows)) if ordered else np.argsort(rows, kind="stable")
    return values[order], offsets_of(np.bincount(rows, minlength=count))
