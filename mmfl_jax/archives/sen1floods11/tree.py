"""Sen1Floods11: hand-labelled floods with Sentinel-1 and Sentinel-2, by country."""

from __future__ import annotations

import os

import numpy as np

from mmfl_jax.archives.base import choose_modalities
from mmfl_jax.archives.rasters.archive import RasterArchive, Tiles
from mmfl_jax.archives.rasters.legend import Legend
from mmfl_jax.archives.rasters.listing import add_once, list_rasters, read_csv
from mmfl_jax.errors import UserError

FOLDERS = {"s1": "S1Hand", "s2": "S2Hand"}
LABELS = "LabelHand"
# Where the folders of chips may lie, from the published root or from deeper within.
HOMES = ("v1.1/data/flood_events/HandLabeled", "data/flood_events/HandLabeled", "HandLabeled", ".")
LISTS = {"train": "flood_train_data.csv", "validation": "flood_valid_data.csv", "test": "flood_test_data.csv"}
LIST_HOMES = ("v1.1/splits/flood_handlabeled", "splits/flood_handlabeled", "splits", ".")
CHANNELS = {
    "s1": ("VV", "VH"),
    "s2": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"),
}
LEGEND = Legend((0, 1), ("land", "water"), ("#c9b58f", "#419bdf"), frozenset({-1}), "Sen1Floods11")


def open_sen1floods11(
    directory: str,
    *,
    modalities: tuple[str, ...] | None = None,
    image_size: int | None = None,
    resampling: str = "bilinear",
) -> RasterArchive:
    """Open the hand-labelled chips of Sen1Floods11 v1.1.

    The three lists of ``splits/flood_handlabeled`` are the official splits where they are there. Chips that none of
    them names are left out then and counted: those of Bolivia, which the authors keep for a test of their own.

    Args:
        directory: the published root, its ``v1.1``, or the folder that holds ``S1Hand``, ``S2Hand`` and ``LabelHand``.
        modalities: of ``s1`` (VV and VH in dB) and ``s2`` (13 bands, reflectance x 10,000); those that are there by
            default.
        image_size: height and width of blocks that chips are cut into; None for whole chips.
        resampling: ``bilinear`` or ``nearest``, for images on another grid than their labels.

    Raises:
        UserError: folders, lists or files that are missing, damaged, not alike or not of one place.
    """
    if not os.path.isdir(directory):
        raise UserError(f"{directory}: no such folder; sen1floods11:DIR needs the one that holds v1.1")
    places = [os.path.normpath(os.path.join(directory, home)) for home in HOMES]
    home = next((place for place in places if os.path.isdir(os.path.join(place, LABELS))), None)
    if home is None:
        raise UserError(f"{directory}: no {LABELS} in it, nor in {HOMES[0]}; not a tree of Sen1Floods11")
    labels = _chips(os.path.join(home, LABELS), LABELS)
    present = {m: folder for m, folder in FOLDERS.items() if os.path.isdir(os.path.join(home, folder))}
    if not present:
        raise UserError(f"{home}: neither {' nor '.join(FOLDERS.values())} in it; at least one has to be there")
    chosen = choose_modalities(modalities, present, directory)
    images = {modality: _chips(os.path.join(home, present[modality]), present[modality]) for modality in chosen}
    splits = _splits(directory)
    names = [name for name in labels if splits is None or name in splits]
    if not names:
        raise UserError(
            f"{directory}: the lists of splits name none of its {len(labels)} chips, such as {next(iter(labels))}"
        )
    notes = {"left_out_not_in_split": len(labels) - len(names)}
    if splits is not None:
        notes["listed_but_missing"] = len(splits) - len(names)
    return RasterArchive(
        "sen1floods11",
        Tiles(
            directory,
            names,
            [labels[name] for name in names],
            {modality: [found.get(name, "") for name in names] for modality, found in images.items()},
            {"country": np.array([name.rpartition("_")[0] for name in names])},
            None if splits is None else np.array([splits[name] for name in names]),
            CHANNELS,
            notes,
        ),
        legend=LEGEND,
        image_size=image_size,
        resampling=resampling,
    )


def _chips(folder: str, ending: str) -> dict[str, str]:
    """Return path by PLACE_ID of the files in a folder, which are called PLACE_ID_ENDING."""
    found: dict[str, str] = {}
    for name, path in list_rasters(folder).items():
        chip, _, last = os.path.basename(name).rpartition("_")
        if last != ending or not all(chip.rpartition("_")):
            raise UserError(f"{path}: chips are called PLACE_ID_{ending}.tif, such as Ghana_103272_{ending}.tif")
        add_once(found, chip, path)
    if not found:
        raise UserError(f"{folder}: no GeoTIFF in it")
    return found


def _splits(directory: str) -> dict[str, str] | None:
    """Return the split of each chip that the lists name, None where there are no lists."""
    for home in LIST_HOMES:
        paths = {split: os.path.normpath(os.path.join(directory, home, name)) for split, name in LISTS.items()}
        there = [path for path in paths.values() if os.path.exists(path)]
        if there and len(there) < len(paths):
            missing = next(path for path in paths.values() if path not in there)
            raise UserError(f"{missing}: no such file, while {os.path.basename(there[0])} is there; add it")
        if there:
            break
    else:
        return None
    splits: dict[str, str] = {}
    for split, path in paths.items():
        for chip in _listed(path):
            if splits.setdefault(chip, split) != split:
                raise UserError(f"{path}: chip {chip} is in {LISTS[splits[chip]]} as well")
    return splits


def _listed(path: str) -> list[str]:
    """Return the chips of a list, whose lines are the names of an image and of a label raster."""
    chips = []
    for number, row in enumerate(read_csv(path), 1):
        chip, found, _ = row[0].partition("_S1Hand")
        if not found:
            raise UserError(
                f"{path}: line {number} begins with {row[0][:80]!r}; lines are such as "
                "Ghana_103272_S1Hand.tif,Ghana_103272_LabelHand.tif"
            )
        chips.append(chip)
    return chips
