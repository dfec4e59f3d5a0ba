"""Write the probabilities of patches as a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.files import write_whole

ID = "id"


def write_table(path: Path, ids: Sequence[str], class_names: Sequence[str], probabilities: np.ndarray) -> None:
    """Write a row for each patch: its id, and the probability of each class.

    Args:
        path: ends in ``.parquet`` or ``.csv``, which says the format.
        ids: of the patches.
        class_names: names of the columns.
        probabilities: float32 [patches, classes].

    Raises:
        UserError: another ending, classes that cannot be columns, a file that cannot be written.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    names = [ID, *class_names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: two columns would be called {twice!r}; class names must differ, and none be {ID!r}")
    columns = [pa.array([str(name) for name in ids], pa.string())]
    columns += [pa.array(np.ascontiguousarray(column, np.float32)) for column in probabilities.T]
    table = pa.Table.from_arrays(columns, names=names).replace_schema_metadata({"software": "mmfl_jax"})
    content = pa.BufferOutputStream()
    match re.sub(r".*\.", "", path.name).lower():
        case "parquet":
            pyarrow.parquet.write_table(table, content)
        case "csv":
            pyarrow.csv.write_csv(table, content)
        case _:
            raise UserError(f"{path}: a table ends in .parquet or .csv")
    write_whole(path, content.getvalue().to_pybytes())
