"""What a table beside the folders says of tiles: attributes and splits."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from mmfl_jax.archives.base import SPLITS, first_missing
from mmfl_jax.archives.rasters.listing import SUFFIXES
from mmfl_jax.errors import UserError, one_line

TABLES = ("metadata.csv", "metadata.parquet")
KEYS = ("tile", "file", "filename")
RESERVED = ("tile", "block")


def read_table(directory: str, names: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray | None, int]:
    """Read ``metadata.csv`` or ``metadata.parquet``, where there is one.

    The column ``tile``, ``file`` or ``filename`` names the tile, with or without ``.tif``; ``split`` is ``train``,
    ``validation`` or ``test``; all others are attributes.

    Args:
        directory: that the table is in.
        names: of the tiles.

    Returns:
        Attributes by name, [tiles] each; the split of each tile, or None; how many rows are of no tile.

    Raises:
        UserError: a table that cannot be read, a tile without a row or with two, a value that is missing.
    """
    paths = [path for name in TABLES if os.path.exists(path := os.path.join(directory, name))]
    if not paths:
        return {}, None, 0
    if len(paths) > 1:
        raise UserError(f"{directory}: {' and '.join(TABLES)} are both there; keep one")
    path = paths[0]
    table = _read(path)
    key = next((name for name in KEYS if name in table.column_names), None)
    if key is None:
        raise UserError(f"{path}: columns {', '.join(table.column_names)}; one has to name the tile: {', '.join(KEYS)}")
    keys = [_name_of(value) for value in table[key].to_pylist()]
    row_of = {name: row for row, name in enumerate(keys)}
    if len(row_of) < len(keys):
        twice = next(name for row, name in enumerate(keys) if row_of[name] != row)
        raise UserError(f"{path}: tile {twice!r} has two rows; each has one")
    if lacking := [name for name in names if name not in row_of]:
        raise UserError(
            f"{path}: {len(lacking)} of {len(names)} tiles have no row in column {key}, first {lacking[0]!r}"
        )
    rows = [row_of[name] for name in names]
    columns = {name: _column(path, name, table[name], rows) for name in table.column_names if name != key}
    if odd := next((name for name in columns if name in RESERVED or not name.strip()), None):
        raise UserError(f"{path}: a column is called {odd!r}, which is taken; rename it")
    return columns, _splits(path, columns.pop("split", None)), len(keys) - len(names)


def _read(path: str) -> Any:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.endswith(".parquet"):
            return pyarrow.parquet.read_table(path)
        texts = dict.fromkeys((*KEYS, "split"), pyarrow.string())  # 007 is a name, and no number
        return pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=texts))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as a table ({one_line(error)[:200]})") from error


def _name_of(value: Any) -> str:
    name, suffix = os.path.splitext(str(value).strip())
    return name if suffix.lower() in SUFFIXES else name + suffix


def _column(path: str, name: str, column: Any, rows: list[int]) -> np.ndarray:
    values = column.take(rows)
    texts = np.array([None if value is None else str(value) for value in values.to_pylist()], object)
    if (row := first_missing(texts)) is not None:
        raise UserError(f"{path}: column {name!r} has no value in row {rows[row] + 1}; every tile needs one")
    array = values.to_numpy()
    return array if array.dtype.kind in "iufM" else texts.astype(str)


def _splits(path: str, splits: np.ndarray | None) -> np.ndarray | None:
    if splits is None:
        return None
    if unknown := sorted(set(splits.astype(str).tolist()) - set(SPLITS)):
        raise UserError(f"{path}: split holds {unknown[:3]}; each must be one of: {', '.join(SPLITS)}")
    return splits.astype(str)
