"""What is known of BigEarthNet's patches before any image is read: a table, and the rules that choose its rows."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.errors import UserError

METADATA = "metadata.parquet"
THREADS = min(16, 4 * (os.cpu_count() or 1))


@dataclass
class PatchTable:
    """Hold what is known of the patches of a tree, a row each, before any image is read."""

    patches: dict[str, Sequence[Any]]
    """Modality to what names each patch where its bands are kept: its folder, its key, its row."""
    labels: np.ndarray
    patch_id: list[str]
    place: list[str]
    country: list[str]
    season: list[str]
    split: list[str] | None
    notes: dict[str, int | str]


Scan = Callable[[Path, dict[str, Path]], PatchTable]


@functools.cache
def pool() -> ThreadPoolExecutor:
    """Return the threads that files are read in."""
    return ThreadPoolExecutor(THREADS)


if hasattr(os, "register_at_fork"):  # a fork has the pool, and none of its threads
    os.register_at_fork(after_in_child=pool.cache_clear)


def select(directory: Path, table: PatchTable, rules: dict[str, Any]) -> PatchTable:
    """Keep the rows that every rule keeps, and note how many each rule left out."""
    table.notes.update({name: int((~keep).sum()) for name, keep in rules.items()})
    rows = np.flatnonzero(np.logical_and.reduce(list(rules.values())))
    if not len(rows):
        raise UserError(f"{directory}: no patch is left of {len(table.labels)} ({table.notes}); the archive is empty")

    def take(column: Sequence[str]) -> list[str]:
        return [column[row] for row in rows.tolist()]

    return PatchTable(
        {modality: take(column) for modality, column in table.patches.items()},
        table.labels[rows],
        take(table.patch_id),
        take(table.place),
        take(table.country),
        take(table.season),
        None if table.split is None else take(table.split),
        table.notes,
    )


def check_patches(directory: Path, trees: dict[str, dict[str, str]], listed: dict[str, int]) -> None:
    """Refuse an archive without patches, or whose patches no row of the metadata knows."""
    for modality, tree in trees.items():
        if not tree:
            raise UserError(f"{directory}: the archive is empty, no {modality} patch was found")
        if not listed[modality]:
            raise UserError(
                f"{directory}: none of the {len(tree)} {modality} patches has a row in metadata.parquet, "
                f"such as {next(iter(tree))}; snow and cloud patches have none"
            )


def check_pairs(directory: Path, counts: dict[str, int], pairs: int, notes: dict[str, Any]) -> None:
    """Note how many patches are left out because the other sensor's is not there; refuse where all are."""
    if len(counts) < 2:
        return
    unpaired = sum(counts.values()) - 2 * pairs
    notes["left_out_unpaired"] = unpaired
    if not pairs:
        alone = {modality: count - pairs for modality, count in counts.items()}
        raise UserError(
            f"{directory}: unpaired, 100 % of its patches ({alone['s1']} of s1, {alone['s2']} of s2) lack their "
            "counterpart; add it, or read one modality alone (modalities s1 or s2)"
        )
    notes["unpaired_share"] = round(unpaired / sum(counts.values()), 4)


def list_patches(folder: Path | str) -> dict[str, str]:
    """Return name to path of a folder's patches or scenes, by name; what else lies there is passed over."""
    try:
        with os.scandir(folder) as entries:
            found = [(e.name, e.path) for e in entries if e.name.startswith(("S1", "S2")) and e.is_dir()]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
    return dict(sorted(found))
