"""Label rasters: read, cut into blocks, and counted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfl_jax.archives.base import IGNORED
from mmfl_jax.archives.rasters.gdal import Window, opened
from mmfl_jax.archives.rasters.grids import Grid
from mmfl_jax.archives.rasters.legend import WIDEST, Legend, found_legend
from mmfl_jax.errors import UserError


@dataclass(frozen=True)
class Counted:
    """Hold what one label raster has.

    Attributes:
        grid: its pixels.
        nodata: the value that it calls so.
        block, value, count: [entries] how often which value is in which block; nodata apart, unless a legend has it.
    """

    grid: Grid
    nodata: float | None
    block: np.ndarray
    value: np.ndarray
    count: np.ndarray


def blocks_of(grid: Grid, size: int | None) -> tuple[int, int]:
    """Return how many rows and columns of blocks a tile has; the whole tile is one where ``size`` is None."""
    return (1, 1) if size is None else (grid.height // size, grid.width // size)


def window_of(row: int, column: int, height: int, width: int) -> Window:
    """Return the rows and columns of a block."""
    return (row * height, (row + 1) * height), (column * width, (column + 1) * width)


def count_labels(path: str, size: int | None, legend: Legend | None) -> Counted:
    """Count the values of a label raster, block by block.

    Raises:
        Damaged: a file that cannot be read.
        UserError: more than one band, or numbers that are no integers.
    """
    with opened(path) as file:
        if file.count != 1:
            raise UserError(f"{path}: {file.count} bands; labels are one band of class numbers")
        if np.dtype(file.dtypes[0]).kind not in "iu":
            raise UserError(f"{path}: labels are {file.dtypes[0]}; class numbers are integers")
        grid, nodata, pixels = Grid.of(file), file.nodata, file.read(1)
    none = np.zeros(0, np.int64)
    entries: list[tuple[np.ndarray, ...]] = [(none, none, none)]
    for number, block in enumerate(_blocks(pixels, grid, size)):
        value, count = _tally(block)
        if nodata is not None and not (legend is not None and nodata in legend.values):
            value, count = value[value != nodata], count[value != nodata]
        entries.append((np.full(len(value), number), value, count))
    return Counted(grid, nodata, *(np.concatenate(part).astype(np.int64) for part in zip(*entries)))


def _blocks(pixels: np.ndarray, grid: Grid, size: int | None) -> Iterator[np.ndarray]:
    rows, columns = blocks_of(grid, size)
    for row in range(rows):
        for column in range(columns):
            high, wide = window_of(row, column, size or grid.height, size or grid.width)
            yield pixels[slice(*high), slice(*wide)]


def _tally(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that occur and how often."""
    low, high = int(pixels.min()), int(pixels.max())
    if high - low >= WIDEST:
        return np.unique(pixels, return_counts=True)
    counts = np.bincount(pixels.ravel().astype(np.int64) - low)
    present = np.flatnonzero(counts)
    return present + low, counts[present]


def choose_legend(counted: list[Counted], given: Legend | None, assumed: Legend | None, where: str) -> Legend:
    """Return the legend: the given one, the assumed one where all values fit it, or one of the values that occur.

    Raises:
        UserError: all labels ignored, fewer than two classes, or too many.
    """
    values = np.unique(np.concatenate([one.value for one in counted]))
    legend = given
    if legend is None:
        fits = assumed is not None and set(values.tolist()) <= {*assumed.values, *assumed.ignored}
        legend = assumed.only(values) if assumed is not None and fits else found_legend(values)
    if not np.isin(values, legend.values).any() and set(values.tolist()) <= legend.ignored:
        found = ", ".join(map(str, values.tolist())) or "nodata"
        raise UserError(
            f"{where}: all pixels of {len(counted)} label rasters are ignored ({found}); two classes are needed"
        )
    _check_two(legend, where)
    if len(legend.values) > IGNORED or legend.values[-1] - legend.values[0] >= WIDEST:
        raise UserError(
            f"{where}: {len(legend.values)} different values from {legend.values[0]} to {legend.values[-1]} in label "
            f"rasters; there may be {IGNORED} classes, are these labels?"
        )
    return legend


def occurring(legend: Legend, labels: np.ndarray, where: str) -> tuple[Legend, np.ndarray]:
    """Return the legend and the numbers of pixels, [samples, classes], of the classes that samples have.

    Raises:
        UserError: fewer than two.
    """
    used = labels.any(axis=0)
    legend = legend.only(np.array(legend.values)[used])
    _check_two(legend, where)
    return legend, labels[:, used]


def _check_two(legend: Legend, where: str) -> None:
    if len(legend.values) < 2:
        raise UserError(f"{where}: one class alone in the label rasters, {legend.names[0]!r}; two are needed")


def count_classes(one: Counted, legend: Legend, path: str) -> np.ndarray:
    """Return int64 [blocks, classes] numbers of pixels of a label raster, rows up to its last block with a label.

    Raises:
        UserError: a value that is neither a class nor ignored.
    """
    column = np.searchsorted(legend.values, one.value)
    known = np.array(legend.values)[np.minimum(column, len(legend.values) - 1)] == one.value
    if (strange := ~known & ~np.isin(one.value, sorted(legend.ignored))).any():
        value = int(one.value[strange][0])
        count = int(one.count[one.value == value].sum())
        raise UserError(
            f"{path}: {count} pixels have the label {value}, which {legend.source} does not know; it has "
            f"{', '.join(map(str, legend.values))}, and ignores {', '.join(map(str, sorted(legend.ignored))) or 'none'}"
        )
    counts = np.zeros((int(one.block.max(initial=-1)) + 1, len(legend.values)), np.int64)
    counts[one.block[known], column[known]] = one.count[known]
    return counts


def read_labels(file: Any, legend: Legend, window: Window | None) -> np.ndarray:
    """Read the class numbers of an open label raster, uint8 [height, width]."""
    return legend.encode(file.read(1, window=window), file.nodata)
