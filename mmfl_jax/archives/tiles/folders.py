"""Folders of tiles: a folder for each modality and one for label rasters, equal file names."""

from __future__ import annotations

import os

import numpy as np

from mmfl_jax.archives.base import check_modality, choose_modalities
from mmfl_jax.archives.rasters.archive import RasterArchive, Tiles
from mmfl_jax.archives.rasters.legend import LEGEND, Legend, read_legend
from mmfl_jax.archives.rasters.listing import by_modality, list_rasters, subfolders
from mmfl_jax.archives.tiles.table import read_table
from mmfl_jax.errors import UserError

LABELS = ("labels", "label", "lulc", "mask", "masks")
# What the land cover of TerraMesh and TerraMind is believed to be; taken where a folder is called LULC.
LULC = Legend(
    tuple(range(1, 10)),
    ("water", "trees", "flooded vegetation", "crops", "built", "bare", "snow and ice", "cloud", "rangeland"),
    ("#419bdf", "#397d49", "#7a87c6", "#e49635", "#c4281b", "#a59b8f", "#f0f0f0", "#616161", "#e3e2c3"),
    frozenset({0}),
    keeps_nodata=False,
)


def open_tiles(
    directory: str,
    *,
    modalities: tuple[str, ...] | None = None,
    image_size: int | None = None,
    resampling: str = "bilinear",
) -> RasterArchive:
    """Open a folder of tiles.

    ``directory`` holds a folder of GeoTIFFs for each modality, whose name in lower case is the modality's, and one of
    label rasters, called ``labels``, ``label``, ``LULC``, ``mask`` or ``masks`` in any case. Files of one name (within
    their folder, less ``.tif``) are one tile; a tile need not have every modality. ``classes.csv`` beside the folders
    may say what the labels mean (``value,name,color``; a value without a name is ignored). Without it every value but
    the file's nodata, 255 and negative ones is a class; the values 1 to 9 of a folder ``LULC`` are assumed to be
    TerraMesh's land cover. ``metadata.csv`` or ``metadata.parquet`` may give attributes by ``tile``, and a ``split``.

    Args:
        directory: that holds the folders.
        modalities: which to read, in which order; all by default.
        image_size: height and width of blocks that tiles are cut into; None for whole tiles.
        resampling: ``bilinear`` or ``nearest``, for images on another grid than their labels.

    Raises:
        UserError: folders or files that are missing, damaged, not alike or not of one place.
    """
    if not os.path.isdir(directory):
        raise UserError(f"{directory}: no such folder; tiles:DIR needs the one with a folder for each modality")
    folders = subfolders(directory)
    label_folder = _label_folder(directory, list(folders))
    labels = list_rasters(folders.pop(label_folder))
    if not labels:
        raise UserError(f"{os.path.join(directory, label_folder)}: no GeoTIFF in it; it should hold the label rasters")
    names = list(labels)
    images, notes = _images(directory, folders, modalities, names)
    legend = os.path.join(directory, LEGEND)
    attributes, splits, strangers = read_table(directory, names)
    if strangers:
        notes["rows_without_tile"] = strangers
    return RasterArchive(
        "tiles",
        Tiles(directory, names, list(labels.values()), images, attributes, splits, notes=notes),
        legend=read_legend(legend) if os.path.exists(legend) else None,
        assumed=LULC if label_folder.lower() == "lulc" else None,
        image_size=image_size,
        resampling=resampling,
    )


def _label_folder(directory: str, folders: list[str]) -> str:
    found = [name for name in folders if name.lower() in LABELS]
    if len(found) == 1:
        return found[0]
    if not found:
        there = ", ".join(folders) or "nothing"
        raise UserError(f"{directory}: no folder of label rasters ({', '.join(LABELS)}); folders there: {there}")
    raise UserError(f"{directory}: {' and '.join(found)} are both folders of label rasters; keep one")


def _images(
    directory: str, folders: dict[str, str], wanted: tuple[str, ...] | None, names: list[str]
) -> tuple[dict[str, list[str]], dict[str, object]]:
    """Return by modality the path of each tile's image, empty where there is none, and what is to be told."""
    known = by_modality(folders)
    if not known:
        raise UserError(f"{directory}: no folder of images beside the labels; a folder for each modality is needed")
    chosen = choose_modalities(wanted, known, directory)
    images, notes = {}, dict[str, object]()
    for modality in chosen:
        check_modality(modality, directory)
        found = list_rasters(known[modality])
        if not found:
            raise UserError(
                f"{known[modality]}: no GeoTIFF in it; put images there, take the folder away, or name the "
                "others by modalities"
            )
        images[modality] = [found.get(name, "") for name in names]
        if strangers := len(found) - np.count_nonzero(images[modality]):
            notes.setdefault("left_out_without_label_raster", {})[modality] = int(strangers)  # type: ignore[index]
        if not any(images[modality]):
            raise UserError(
                f"{known[modality]}: none of its {len(found)} images has the name of a label raster; images are "
                f"called such as {next(iter(found))}, labels such as {names[0]}"
            )
    return images, notes
