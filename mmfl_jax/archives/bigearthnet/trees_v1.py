"""Find the patches of a tree of v1, pair them, and gather their labels, countries and splits."""

from __future__ import annotations

import csv
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.bigearthnet import nomenclature
from mmfl_jax.archives.bigearthnet.metadata import read_metadata
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

FLAGGED = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
V1_FLAGGED = ("patches_with_seasonal_snow.csv", "patches_with_cloud_and_shadow.csv")
V1_SPLITS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


def scan_v1(directory: Path, folders: dict[str, Path]) -> PatchTable:
    """Read the json of every patch; Sentinel-1's says which Sentinel-2 patch is its pair."""
    trees = {modality: _v1_patches(folder, modality) for modality, folder in folders.items()}
    check_patches(directory, trees, {modality: len(tree) for modality, tree in trees.items()})
    first = "s1" if "s1" in trees else "s2"
    with ThreadPoolExecutor(THREADS) as pool:
        records = dict(zip(trees[first], pool.map(_read_json, trees[first].values()), strict=True))
    notes: dict[str, Any] = {"version": "v1"}
    # name of the Sentinel-2 patch -> name of the patch whose json was read
    read = _pairs(records, trees[first])
    rows = [name for name in read if name in trees.get("s2", read)]
    check_pairs(directory, {modality: len(tree) for modality, tree in trees.items()}, len(rows), notes)
    rows.sort()
    countries = _v1_countries(directory)
    split = _v1_splits(directory)
    flagged = _v1_flagged(directory)
    labels = np.stack([_v1_labels(records[read[name]], trees[first][read[name]]) for name in rows])
    tiles = [nomenclature.tile_of(read[name] if first == "s1" else records[name]["tile_source"]) for name in rows]
    places = [tuple(int(number) for number in name.split("_")[-2:]) for name in rows]
    result = PatchTable(
        patches={m: [tree[read[name] if m == first else name] for name in rows] for m, tree in trees.items()},
        labels=labels,
        patch_id=rows,
        place=[nomenclature.place_of(tile, name) for tile, name in zip(tiles, rows, strict=True)],
        country=[
            countries.get(name) or nomenclature.country_of_tile(tile, *place)
            for name, tile, place in zip(rows, tiles, places, strict=True)
        ],
        season=[nomenclature.season(name.split("_")[2]) for name in rows],
        split=None if split is None else [split.get(name, "") for name in rows],
        notes=notes,
    )
    return select(
        directory,
        result,
        {
            "left_out_without_label": labels.any(1),
            "left_out_snow_cloud_shadow": np.array([name not in flagged for name in rows]),
            "left_out_not_in_split": np.array([split is None or name in split for name in rows]),
        },
    )


def _v1_patches(folder: Path, modality: str) -> dict[str, str]:
    found = list_patches(folder)
    form = re.compile(nomenclature.NAMES["s1" if modality == "s1" else "s2_v1"])
    if wrong := next((path for name, path in found.items() if not form.fullmatch(name)), None):
        raise UserError(f"{wrong!r}: no patch of v1 is called so; such as S2A_MSIL2A_20170613T101031_87_48 is right")
    return found


def _read_json(folder: str) -> dict[str, Any]:
    path = _json_path(folder)
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; every patch of v1 has one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as json ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("labels"), list):
        raise UserError(f"{path}: no list of labels; the patch's own json has one")
    for key, value in {"labels": record["labels"], "tile_source": [record.setdefault("tile_source", "")]}.items():
        if odd := [item for item in value if not isinstance(item, str)]:
            raise UserError(f"{path}: {key} holds {str(odd[0])[:80]}; a text is needed")
    return record


def _json_path(folder: str) -> str:
    return os.path.join(folder, f"{os.path.basename(folder)}_labels_metadata.json")


def _pairs(records: dict[str, dict[str, Any]], folders: dict[str, str]) -> dict[str, str]:
    """Return Sentinel-2 patch to the patch whose record was read: itself, or the Sentinel-1 patch that names it."""
    pairs: dict[str, str] = {}
    twice = 0
    for name, record in records.items():
        path = _json_path(folders[name])
        pair = record.get("corresponding_s2_patch") if name.startswith("S1") else name
        if pair is None:
            raise UserError(f"{path}: no corresponding_s2_patch; it says which patches are a pair")
        if not isinstance(pair, str) or not re.fullmatch(nomenclature.NAMES["s2_v1"], pair):
            raise UserError(f"{path}: corresponding_s2_patch is {str(pair)[:80]!r}, which no patch of v1 is called")
        if pair in pairs:
            twice += 1
            example = f"{pair} is the pair of {pairs[pair]} and of {name}"
        pairs.setdefault(pair, name)
    if twice:
        parent = os.path.dirname(next(iter(folders.values())))
        raise UserError(f"{parent}: {twice} Sentinel-2 patches are named by two Sentinel-1 patches, such as {example}")
    return pairs


def _v1_labels(record: dict[str, Any], folder: str) -> np.ndarray:
    try:
        return nomenclature.classes_of(record["labels"])
    except KeyError as error:
        raise UserError(f"{_json_path(folder)}: label {error} is none of CORINE's 43 classes in v1") from None


def _v1_countries(directory: Path) -> dict[str, str]:
    """Return Sentinel-2 patch to country from the metadata of v2, where it lies beside."""
    countries: dict[str, str] = {}
    for name in (METADATA, FLAGGED):
        if (directory / name).is_file():
            table = read_metadata(directory / name)
            countries.update(zip(table["s2v1_name"].to_pylist(), table["country"].to_pylist()))
    return countries


def _v1_splits(directory: Path) -> dict[str, str] | None:
    """Return Sentinel-2 patch to split from lines of both patches' names, None where there are no such files."""
    for folder in (directory, directory / "splits"):
        found = {split: folder / name for split, name in V1_SPLITS.items() if (folder / name).is_file()}
        if found:
            return _merge({split: (path, _first_column(path)) for split, path in found.items()})
    return None


def _merge(lists: dict[str, tuple[Path, list[str]]]) -> dict[str, str]:
    """Return the split of each patch; refuse patches that two lists hold."""
    split_of: dict[str, str] = {}
    for split, (path, patches) in lists.items():
        if shared := sorted({patch for patch in patches if patch in split_of}):
            other = lists[split_of[shared[0]]][0].name
            raise UserError(f"{path}: {len(shared)} patches are in {other} as well, such as {shared[0]}")
        split_of.update(dict.fromkeys(patches, split))
    return split_of


def _v1_flagged(directory: Path) -> set[str]:
    """Return the Sentinel-2 patches with seasonal snow, cloud or shadow, by the lists that are there."""
    paths = [folder / name for folder in (directory, directory / "splits") for name in V1_FLAGGED]
    return {patch for path in paths if path.is_file() for patch in _first_column(path)}


def _first_column(path: Path) -> list[str]:
    """Return the Sentinel-2 patches that a list names, one a line."""
    form = re.compile(nomenclature.NAMES["s2_v1"])
    patches: list[str] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for line in csv.reader(file):
                if not any(line):
                    continue
                if not form.fullmatch(name := line[0].strip()):
                    raise UserError(
                        f"{path}: row {len(patches) + 1} holds {name[:80]!r}, which no patch of v1 is called"
                    )
                patches.append(name)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path}: not in UTF-8 (byte {byte:#04x} after row {len(patches)}); save it as UTF-8"
        ) from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as csv ({error})") from error
    return patches
