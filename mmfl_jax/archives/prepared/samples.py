"""The table of a copy's samples: labels, attributes, splits, and where their arrays lie."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.errors import UserError, one_line
from mmfl_jax.files import writing

_ATTRIBUTE, _ABSENT, _PLACE = "attribute:", "absent:", "place:"


@dataclass
class Samples:
    """Hold a row for each sample of a copy, in the order of its source.

    Attributes:
        labels, attributes, splits, copies: as in :class:`mmfl_jax.archives.Archive`.
        absent: modality to [samples] whether a sample lacks it, where that is known.
        shard, position: int64 [samples], number of the shard and of the record in it.
        places: part to int64 [samples], where its array begins in the shard.
    """

    labels: np.ndarray
    attributes: dict[str, np.ndarray]
    splits: np.ndarray | None
    copies: np.ndarray | None
    absent: dict[str, np.ndarray]
    shard: np.ndarray
    position: np.ndarray
    places: dict[str, np.ndarray]


def known(archive: Archive) -> dict[str, np.ndarray]:
    """Return the columns that are known before images are read."""
    absent = {name: archive.absent(name) for name in archive.modalities}
    columns = {
        "labels": archive.labels,
        "splits": archive.splits,
        "copies": archive.copies,
        **{_ATTRIBUTE + name: values for name, values in archive.attributes.items()},
        **{_ABSENT + name: values for name, values in absent.items()},
    }
    return {name: np.asarray(values) for name, values in columns.items() if values is not None}


def digest(columns: dict[str, np.ndarray]) -> str:
    """Return a number that stands for all values of all columns."""
    sum_of = hashlib.sha256()
    for name, values in columns.items():
        sum_of.update(f"{name} {values.dtype} {values.shape}".encode())
        plain = np.array([repr(value) for value in values.tolist()]) if values.dtype.kind == "O" else values
        sum_of.update(np.ascontiguousarray(plain).tobytes())
    return sum_of.hexdigest()


def write_samples(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write columns to a Parquet file that is there as a whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    arrays, fields = [], []
    for name, values in columns.items():
        array = _to_arrow(values)
        shape = ",".join(map(str, values.shape[1:]))
        arrays.append(array)
        fields.append(pyarrow.field(name, array.type, metadata={"dtype": values.dtype.str, "shape": shape}))
    table = pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields))
    part = path.with_name(path.name + ".part")
    with writing(path):
        pyarrow.parquet.write_table(table, part)
        part.replace(path)


def read_samples(path: Path, parts: Any) -> Samples:
    """Read what :func:`write_samples` wrote of a copy with these parts.

    Raises:
        UserError: the file is missing or damaged.
    """
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        columns = {field.name: _from_arrow(table[field.name], field.metadata) for field in table.schema}
        under = lambda start: {n.removeprefix(start): v for n, v in columns.items() if n.startswith(start)}
        places = {part: columns[_PLACE + part] for part in parts}
        return Samples(
            columns["labels"],
            under(_ATTRIBUTE),
            columns.get("splits"),
            columns.get("copies"),
            under(_ABSENT),
            columns["shard"],
            columns["position"],
            places,
        )
    except Exception as error:  # pyarrow has many ways to fail on damaged bytes
        raise UserError(f"{path}: cannot be read ({one_line(error)}); prepare the archive again") from error


def where(shard: np.ndarray, position: np.ndarray, places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns that say where arrays lie."""
    return {"shard": shard, "position": position, **{_PLACE + part: values for part, values in places.items()}}


def _to_arrow(values: np.ndarray) -> Any:
    import pyarrow

    if values.ndim > 1:
        flat = pyarrow.array(values.reshape(-1))
        return pyarrow.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
    if values.dtype.kind == "O":
        return pyarrow.array([None if value is None or value != value else str(value) for value in values.tolist()])
    return pyarrow.array(values.tolist(), pyarrow.string()) if values.dtype.kind == "U" else pyarrow.array(values)


def _from_arrow(column: Any, metadata: dict[bytes, bytes]) -> np.ndarray:
    dtype = np.dtype(metadata[b"dtype"].decode())
    if shape := metadata[b"shape"]:
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.astype(dtype).reshape(len(column), *map(int, shape.split(b",")))
    if dtype.kind in "UO":
        return np.array(column.to_pylist(), dtype)
    return column.to_numpy().astype(dtype)
