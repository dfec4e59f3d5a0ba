"""Find the patches of a tree of v2, pair them, and take their labels, countries and splits from its metadata."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.bigearthnet import nomenclature
from mmfl_jax.archives.bigearthnet.metadata import labels_of, read_metadata
from mmfl_jax.archives.bigearthnet.patches import (
    METADATA,
    THREADS,
    PatchTable,
    check_pairs,
    check_patches,
    list_patches,
    select,
)
from mmfl_jax.errors import UserError


def scan_v2(directory: Path, folders: dict[str, Path]) -> PatchTable:
    """Keep the rows of ``metadata.parquet`` whose patches are in the tree; one listing a scene, none a patch."""
    return tabulate(
        directory, directory / METADATA, {modality: _scenes(folder) for modality, folder in folders.items()}
    )


def tabulate(directory: Path, path: Path, trees: dict[str, dict[str, str]]) -> PatchTable:
    """Keep the rows of v2's metadata whose patches are there.

    Args:
        directory: of the archive, for errors.
        path: of the metadata.
        trees: modality to the name of each patch that is there, and to what names it where its bands are kept.
    """
    table = read_metadata(path)
    names = {"s2": table["patch_id"].to_pylist(), "s1": table["s1_name"].to_pylist()}
    present = {modality: np.array([name in tree for name in names[modality]]) for modality, tree in trees.items()}
    keep = np.logical_and.reduce(list(present.values()))
    # Patches of the tree without a row are those flagged for snow or cloud, or strangers to the archive.
    listed = {modality: int(rows.sum()) for modality, rows in present.items()}
    notes: dict[str, Any] = {
        "version": "v2",
        "left_out_without_metadata": {modality: len(tree) - listed[modality] for modality, tree in trees.items()},
    }
    check_patches(directory, trees, listed)
    check_pairs(directory, listed, int(keep.sum()), notes)
    rows = np.flatnonzero(keep)
    labels = labels_of(table, path)[rows]
    kept = table.select(["patch_id", "country", "split"]).take(rows)
    patch_id = kept["patch_id"].to_pylist()
    result = PatchTable(
        patches={modality: [trees[modality][names[modality][row]] for row in rows] for modality in trees},
        labels=labels,
        patch_id=patch_id,
        place=[nomenclature.place_of(nomenclature.tile_of(name), name) for name in patch_id],
        country=kept["country"].to_pylist(),
        season=[nomenclature.season(name.split("_")[2]) for name in patch_id],
        split=kept["split"].to_pylist(),
        notes=notes,
    )
    return select(directory, result, {"left_out_without_label": labels.any(1)})


def _scenes(folder: Path) -> dict[str, str]:
    with ThreadPoolExecutor(THREADS) as pool:
        scenes = pool.map(list_patches, list_patches(folder).values())
        found: dict[str, str] = {}
        for name, path in (patch for scene in scenes for patch in scene.items()):
            if name in found:
                raise UserError(f"{path}: the same patch is in {os.path.dirname(found[name])}; take one away")
            found[name] = path
        return found
