"""Legends: which values of label rasters are which classes, and which are no label."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass

import numpy as np

from mmfl_jax.archives.base import IGNORED
from mmfl_jax.archives.rasters.listing import read_csv
from mmfl_jax.errors import UserError

# Values of a raster may lie so far apart; class numbers are far closer.
WIDEST = 1 << 16
LEGEND = "classes.csv"


@dataclass(frozen=True)
class Legend:
    """Say what the values of label rasters mean.

    Attributes:
        values: of the classes, ascending.
        names: of the classes.
        colors: ``#rrggbb`` of the classes, or None.
        ignored: values that are no label.
        source: what says so, for lines about values that are neither.
        keeps_nodata: whether a class is one also where a file calls its value nodata: a legend that was written names
            its classes on purpose.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[str, ...] | None
    ignored: frozenset[int] = frozenset()
    source: str = ""
    keeps_nodata: bool = True

    def only(self, values: np.ndarray) -> Legend:
        """Return the legend of the classes among ``values``."""
        rows = [row for row, value in enumerate(self.values) if value in values]
        colors = None if self.colors is None else tuple(self.colors[row] for row in rows)
        names = tuple(self.names[row] for row in rows)
        return Legend(
            tuple(self.values[row] for row in rows), names, colors, self.ignored, self.source, self.keeps_nodata
        )

    def encode(self, pixels: np.ndarray, nodata: float | None) -> np.ndarray:
        """Return the class number of each pixel.

        Args:
            pixels: integers of any shape.
            nodata: of the file.

        Returns:
            uint8 in the shape of ``pixels``; ``IGNORED`` where there is no class.
        """
        low, high, table = self._table
        if nodata is not None and not (self.keeps_nodata and nodata in self.values) and low <= nodata <= high:
            table = table.copy()
            table[int(nodata) - low] = IGNORED
        return table[np.clip(pixels.astype(np.int64), low, high) - low]

    @functools.cached_property
    def _table(self) -> tuple[int, int, np.ndarray]:
        """Return the values just below and above those of the classes, and the class numbers in between."""
        low, high = self.values[0] - 1, self.values[-1] + 1
        table = np.full(high - low + 1, IGNORED, np.uint8)
        table[np.array(self.values) - low] = np.arange(len(self.values))
        return low, high, table


def found_legend(values: np.ndarray) -> Legend:
    """Return the legend of rasters of which nothing is known but the values that occur."""
    kept = [value for value in values.tolist() if 0 <= value != IGNORED]
    return Legend(
        tuple(kept),
        tuple(f"class {value}" for value in kept),
        None,
        frozenset(set(values.tolist()) - set(kept)),
        keeps_nodata=False,
    )


def read_legend(path: str) -> Legend:
    """Read a legend: a CSV file with the columns ``value``, ``name`` and perhaps ``color`` (``#rrggbb``).

    A value without a name is ignored.

    Raises:
        UserError: a file that cannot be read, a column, value or colour that is missing or wrong, a value or a name
            that is there twice.
    """
    header, *rows = read_csv(path) or [[]]
    columns = [name.lower() for name in header]
    if not {"value", "name"} <= set(columns):
        raise UserError(f"{path}: columns {', '.join(columns) or 'none'}; value, name and perhaps color are needed")
    classes: dict[int, tuple[str, str]] = {}
    for number, row in enumerate(rows, 1):
        cells = dict.fromkeys(columns, "") | dict(zip(columns, row))
        try:
            value = int(cells["value"])
        except ValueError:
            raise UserError(f"{path}: row {number} has value {cells['value']!r}; a whole number is needed") from None
        if value in classes:
            raise UserError(f"{path}: value {value} is there twice")
        color = cells.get("color", "").lower()
        if color and not re.fullmatch("#[0-9a-f]{6}", color):
            raise UserError(f"{path}: value {value} has the colour {color!r}; #rrggbb is needed, such as #419bdf")
        classes[value] = cells["name"], color
    return _legend(path, classes)


def _legend(path: str, classes: dict[int, tuple[str, str]]) -> Legend:
    values = sorted(value for value, (name, _) in classes.items() if name)
    names = [classes[value][0] for value in values]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: two values are called {twice!r}; every class needs a name of its own")
    if odd := next((name for name in names if not name.isprintable()), None):
        raise UserError(f"{path}: a class is called {odd!r}, which cannot be shown")
    if not 2 <= len(values) <= IGNORED or values[-1] - values[0] >= WIDEST:
        raise UserError(f"{path}: {len(values)} classes; 2 to {IGNORED} are needed, values less than {WIDEST} apart")
    colors = [classes[value][1] for value in values]
    if missing := [value for value, color in zip(values, colors) if not color]:
        if any(colors):
            raise UserError(f"{path}: value {missing[0]} has no colour, others have one; give all or none")
        colors = []
    ignored = frozenset(value for value, (name, _) in classes.items() if not name)
    return Legend(tuple(values), tuple(names), tuple(colors) or None, ignored, os.path.basename(path))
