"""The metadata of BigEarthNet v2: one row a patch, every value known before any image is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.base import SPLITS
from mmfl_jax.archives.bigearthnet import nomenclature
from mmfl_jax.errors import UserError

# Columns of text to what their values look like, and how a line says that.
TEXTS = {
    "patch_id": (nomenclature.NAMES["s2"], "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"),
    "s1_name": (nomenclature.NAMES["s1"], "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57"),
    "s2v1_name": (nomenclature.NAMES["s2_v1"], "S2A_MSIL2A_20170613T101031_26_57"),
    "split": ("|".join(SPLITS), " or ".join(SPLITS)),
    "country": ("|".join(nomenclature.COUNTRIES), ", ".join(nomenclature.COUNTRIES)),
}
COLUMNS = ("patch_id", "labels", "split", "country", "s1_name", "s2v1_name")
NAMES = ("patch_id", "s1_name", "s2v1_name")


def read_metadata(path: Path) -> Any:
    """Read the columns that are needed as a pyarrow table, once every value in them is known to be right.

    Raises:
        UserError: names the file, the column, the row (from 0) and the value that is missing, unknown or there twice.
    """
    import pyarrow
    import pyarrow.parquet

    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; v2 of BigEarthNet keeps its labels there")
    try:
        names = pyarrow.parquet.read_schema(path).names
        _check_columns(names, path)
        table = pyarrow.parquet.read_table(path, columns=list(COLUMNS))
        table.validate(full=True)
        table = table.combine_chunks()
    except UserError:
        raise
    except Exception as error:  # pyarrow has many ways to fail on damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as a parquet file ({reason})") from error
    for name, (form, example) in TEXTS.items():
        table = table.set_column(table.column_names.index(name), name, _texts(table, name, form, example, path))
    for name in NAMES:
        _refuse_twice(table[name], name, path)
    _check_pairs(table, path)
    return table.select(COLUMNS)


def _check_columns(names: list[str], path: Path) -> None:
    for name in COLUMNS:
        if names.count(name) != 1:
            found = "is missing" if name not in names else f"is there {names.count(name)} times"
            raise UserError(f"{path}: column {name!r} {found}; found: {', '.join(names)}")


def labels_of(table: Any, path: Path) -> np.ndarray:
    """Return uint8 [rows, 19] from the column of lists, by its distinct labels rather than row by row."""
    lists = table["labels"].combine_chunks()
    texts = _lists(lists, path)
    coded = texts.dictionary_encode()
    owners = np.repeat(np.arange(len(lists)), np.array(lists.value_lengths()))
    rows = np.array(coded.indices)
    codes = []
    for number, label in enumerate(coded.dictionary.to_pylist()):
        try:
            codes.append(nomenclature.classes_of([label]))
        except KeyError:
            row = owners[np.argmax(rows == number)]
            message = f"column 'labels', row {row}: label {label!r} is none of BigEarthNet's classes"
            raise UserError(f"{path}: {message}") from None
    labels = np.zeros((len(lists), len(nomenclature.CLASS_NAMES)), np.uint8)
    if codes:
        np.maximum.at(labels, owners, np.stack(codes)[rows])
    return labels


def _texts(table: Any, name: str, form: str, example: str, path: Path) -> Any:
    """Return a column as texts; refuse the first value that does not look like the others do."""
    import pyarrow
    from pyarrow import compute

    column = table[name]
    kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise UserError(f"{path}: column {name!r} holds {column.type}; texts such as {example} are needed")
    column = column.cast(pyarrow.string())
    right = compute.fill_null(compute.match_substring_regex(column, f"^(?:{form})$"), False)
    wrong = np.flatnonzero(~right.to_numpy())
    if len(wrong):
        value = column[int(wrong[0])].as_py()
        found = "nothing" if value is None else repr(value)
        more = f" ({len(wrong)} rows are wrong)" if len(wrong) > 1 else ""
        raise UserError(f"{path}: column {name!r}, row {wrong[0]}: holds {found}{more}; right is {example}")
    return column


def _lists(lists: Any, path: Path) -> Any:
    """Return the texts of a column of lists, one list after another; refuse a list or a label that is not there."""
    import pyarrow

    types = pyarrow.types
    if not (types.is_list(lists.type) or types.is_large_list(lists.type)):
        raise UserError(f"{path}: column 'labels' holds {lists.type}; lists of texts are needed")
    kind = lists.type.value_type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if lists.null_count:
        row = int(np.argmax(lists.is_null().to_numpy(zero_copy_only=False)))
        raise UserError(f"{path}: column 'labels', row {row}: holds nothing; a list of labels is needed")
    if not (types.is_string(kind) or types.is_large_string(kind)):
        # An archive all of whose lists are empty has labels of no type.
        if len(lists.flatten()):
            raise UserError(f"{path}: column 'labels' holds lists of {kind}; lists of texts are needed")
        return pyarrow.array([], pyarrow.string())
    texts = lists.flatten().cast(pyarrow.string())
    if texts.null_count:
        owners = np.repeat(np.arange(len(lists)), np.array(lists.value_lengths()))
        row = owners[np.argmax(texts.is_null().to_numpy(zero_copy_only=False))]
        raise UserError(f"{path}: column 'labels', row {row}: holds a label that is nothing; a text is needed")
    return texts


def _check_pairs(table: Any, path: Path) -> None:
    """Refuse a row whose two patches do not lie at the same place: their names end in tile, column and row."""
    from pyarrow import compute

    optical, radar = (
        compute.replace_substring_regex(table[name], r"^.*_T?(\d{2}[A-Z]{3})_0*(\d+)_0*(\d+)$", r"\1_\2_\3")
        for name in ("patch_id", "s1_name")
    )
    wrong = np.flatnonzero(compute.not_equal(optical, radar).to_numpy())
    if len(wrong):
        row = int(wrong[0])
        pair = f"{table['s1_name'][row].as_py()} is no pair of {table['patch_id'][row].as_py()}, it lies elsewhere"
        raise UserError(f"{path}: column 's1_name', row {row}: {pair} ({len(wrong)} rows are wrong)")


def _refuse_twice(column: Any, name: str, path: Path) -> None:
    """Refuse patches that several rows name: they would be samples, on both sides of a split perhaps, twice."""
    counts = column.value_counts()
    numbers = counts.field("counts").to_numpy()
    if (twice := np.flatnonzero(numbers > 1)).size:
        first = counts.field("values")[int(twice[0])].as_py()
        raise UserError(f"{path}: column {name!r}: {len(twice)} patches are named by several rows, such as {first}")
