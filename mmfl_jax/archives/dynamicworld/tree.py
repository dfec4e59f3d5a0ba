"""Dynamic World's labels by experts and non-experts, joined with images of the same names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

from mmfl_jax.archives.base import check_modality, choose_modalities
from mmfl_jax.archives.rasters.archive import RasterArchive, Tiles
from mmfl_jax.archives.rasters.legend import Legend
from mmfl_jax.archives.rasters.listing import add_once, by_modality, list_rasters, read_csv, subfolders
from mmfl_jax.errors import UserError

ANNOTATORS = {"experts": "expert", "non_expert": "non-expert"}
TEST = "dw_test"
# Folders that readers unpack labels into: never images.
NO_IMAGES = ("train", "val", "validation", "test", "validation_set_tiles")
# Longitude and latitude with a point, or with a p for it.
NAME = re.compile(r"dw_(-?\d+(?:[.p]\d+)?)_(-?\d+(?:[.p]\d+)?)-(\d{8})")
LEGEND = Legend(
    tuple(range(1, 10)),
    ("water", "trees", "grass", "flooded vegetation", "crops", "scrub", "built", "bare", "snow and ice"),
    ("#419bdf", "#397d49", "#88b053", "#7a87c6", "#e49635", "#dfc35a", "#c4281b", "#a59b8f", "#f0f0f0"),
    frozenset({0, 10}),
    "Dynamic World",
)


@dataclass(frozen=True)
class Label:
    """Hold what the path of a label raster says."""

    name: str
    path: str
    place: str
    annotator: str
    hemisphere: str
    biome: str


def open_dynamicworld(
    directory: str,
    *,
    modalities: tuple[str, ...] | None = None,
    image_size: int | None = None,
    resampling: str = "bilinear",
) -> RasterArchive:
    """Open Dynamic World's labels (PANGAEA 933475), joined with images.

    ``directory`` holds ``Experts/{EH,WH}/BIOME``, ``Non_expert/WorkForce/{EH,WH}/BIOME``, ``dw_test``, or some of them,
    as published, and a folder of GeoTIFFs for each modality (``S1``, ``S2``, ...), in which images have the names of
    their labels, in folders or not. The tiles of ``dw_test``, on which experts agreed, are the test split; other
    labels of their places are left out. Labels without any image are left out and counted.

    Args:
        directory: that holds the folders.
        modalities: which to read, in which order; all by default.
        image_size: height and width of blocks that tiles are cut into; None for whole tiles.
        resampling: ``bilinear`` or ``nearest``, for images on another grid than their labels.

    Raises:
        UserError: folders or files that are missing, damaged, not alike or not of one place.
    """
    if not os.path.isdir(directory):
        raise UserError(f"{directory}: no such folder; dynamicworld:DIR needs the one that holds the labels")
    folders = subfolders(directory)
    labels, notes = _labels(directory, folders)
    names = [label.name for label in labels]
    test = {label.place for label in labels if label.annotator == "consensus"}
    kept = [label for label in labels if label.annotator == "consensus" or label.place not in test]
    notes["left_out_at_test_places"] = len(labels) - len(kept)
    images = _images(directory, folders, modalities, {label.name for label in kept}, names[0])
    seen = [label for label in kept if any(label.name in found for found in images.values())]
    notes["labels_without_image"] = len(kept) - len(seen)
    return RasterArchive(
        "dynamicworld",
        Tiles(
            directory,
            [label.name for label in seen],
            [label.path for label in seen],
            {modality: [found.get(label.name, "") for label in seen] for modality, found in images.items()},
            {
                what: np.array([getattr(label, what) for label in seen])
                for what in ("place", "annotator", "hemisphere", "biome")
            },
            np.where([label.annotator == "consensus" for label in seen], "test", "train") if test else None,
            notes=notes,
        ),
        legend=LEGEND,
        image_size=image_size,
        resampling=resampling,
    )


def _labels(directory: str, folders: dict[str, str]) -> tuple[list[Label], dict[str, object]]:
    """Return the label rasters by annotator, and what is to be told."""
    labels: list[Label] = []
    notes: dict[str, object] = {}
    for folder, path in folders.items():
        if folder.lower() in ANNOTATORS:
            labels += [_label(n, p, ANNOTATORS[folder.lower()]) for n, p in list_rasters(path).items()]
        elif folder.lower() == TEST:
            found = list_rasters(path)
            table = os.path.join(path, "meta.csv")
            listed = _listed(table) if os.path.exists(table) else set(map(os.path.basename, found))
            consensus = {n: p for n, p in found.items() if os.path.basename(n) in listed}
            if found and not consensus:
                raise UserError(f"{table}: none of its {len(listed)} tiles is in {path}, which has {next(iter(found))}")
            labels += [_label(n, p, "consensus") for n, p in consensus.items()]
            notes["test_tiles_missing"] = len(listed) - len(consensus)
    if not labels:
        raise UserError(f"{directory}: no label raster; it should hold Dynamic World's Experts, Non_expert or {TEST}")
    once: dict[tuple[str, str], str] = {}
    for label in labels:
        add_once(once, (label.annotator, label.name), label.path)
    return labels, notes


def _label(name: str, path: str, annotator: str) -> Label:
    *folders, stem = name.split("/")
    if not (match := NAME.fullmatch(stem)):
        raise UserError(
            f"{path}: Dynamic World's labels are called dw_LON_LAT-YYYYMMDD, such as dw_-9.5_38.7-20190412.tif"
        )
    longitude, latitude = (number.replace("p", ".") for number in match.groups()[:2])
    known = [place for place, folder in enumerate(folders) if folder.upper() in ("EH", "WH")]
    east = "EH" if float(longitude) >= 0 else "WH"
    hemisphere = folders[known[-1]].upper() if known else east
    below = folders[known[-1] + 1 :] if known else []
    return Label(stem, path, f"{longitude}_{latitude}", annotator, hemisphere, below[0] if below else "unknown")


def _listed(path: str) -> set[str]:
    """Return the names of the tiles that ``meta.csv`` lists."""
    header, *rows = read_csv(path) or [[]]
    if "filename" not in header:
        raise UserError(f"{path}: no column filename with names of tiles; take the published file")
    names = [row[header.index("filename")] for row in rows if len(row) == len(header)]
    return {re.sub(r"\.tiff?$", "", name) for name in names}


def _images(
    directory: str, folders: dict[str, str], wanted: tuple[str, ...] | None, needed: set[str], example: str
) -> dict[str, dict[str, str]]:
    """Return by modality the paths of its images by the label's name."""
    known = by_modality(
        {name: path for name, path in folders.items() if name.lower() not in (*ANNOTATORS, TEST, *NO_IMAGES)}
    )
    if not known:
        raise UserError(
            f"{directory}: labels but no images; put Sentinel-1 and Sentinel-2 tiles of the labels' names (such as "
            f"{example}.tif) into folders S1 and S2 there"
        )
    images: dict[str, dict[str, str]] = {}
    for modality in choose_modalities(wanted, known, directory):
        check_modality(modality, directory)
        found = images[modality] = dict[str, str]()
        for name, path in list_rasters(known[modality]).items():
            add_once(found, os.path.basename(name), path)
        if not needed & set(found):
            has = f"such as {next(iter(found))}" if found else "no GeoTIFF at all"
            raise UserError(f"{known[modality]}: no image has the name of a label, such as {example}; it has {has}")
    return images
