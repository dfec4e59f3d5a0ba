"""Archives of tiles: a label raster each, and an image file for every modality that saw the place."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmfl_jax.archives.base import Archive, ModalitySpec
from mmfl_jax.archives.rasters.gdal import Damaged, Window, mapped, opened
from mmfl_jax.archives.rasters.grids import Grid
from mmfl_jax.archives.rasters.images import Image, check_alike, look, read_windows
from mmfl_jax.archives.rasters.labels import (
    Counted,
    blocks_of,
    choose_legend,
    count_classes,
    count_labels,
    occurring,
    read_labels,
    window_of,
)
from mmfl_jax.archives.rasters.legend import Legend
from mmfl_jax.errors import UserError

LISTED = 20


@dataclass
class Tiles:
    """Hold which files are tiles, a row each, before any is opened.

    Attributes:
        directory: that they are in, for lines about all of them.
        names: of the tiles.
        labels: paths of the label rasters.
        images: by modality the path of each tile's image; empty where there is none.
        attributes: by name [tiles] values.
        splits: [tiles], or None.
        channels: by modality the names of its bands, where the archive knows them better than the files.
        notes: what else is to be told.
    """

    directory: str
    names: list[str]
    labels: list[str]
    images: dict[str, list[str]]
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    splits: np.ndarray | None = None
    channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class RasterArchive(Archive):
    """Read tiles with labels by pixel; images are brought to the grid of their label raster.

    A sample is a tile, or a block of one: where ``image_size`` is given, a tile is cut from its upper left corner into
    blocks that do not overlap, and what is left at its right and lower edge is no sample. Samples without a label, and
    those without a value in any modality, are left out and counted in ``notes``; so are files that cannot be read.
    The attribute ``tile`` is the tile's name, ``block`` the row and column of the block in it.

    Args:
        name: of the kind of archive.
        tiles: the files.
        legend: of the labels; None to find one.
        assumed: a legend that is taken where there is no other and all values fit.
        image_size: height and width of blocks; None for whole tiles, which then have to be of one size.
        resampling: ``bilinear`` or ``nearest``, for images on another grid than their labels.

    Raises:
        UserError: files that are not alike, labels that the legend does not know, nothing that can be read.
    """

    def __init__(
        self,
        name: str,
        tiles: Tiles,
        *,
        legend: Legend | None = None,
        assumed: Legend | None = None,
        image_size: int | None = None,
        resampling: str = "bilinear",
    ):
        self.name, self.task, self._method = name, "pixel", resampling
        damaged: list[str] = []
        counts = _attempted(lambda path: count_labels(path, image_size, legend), tiles.labels, damaged, "label rasters")
        read = [number for number, one in enumerate(counts) if one is not None]
        counted = [counts[number] for number in read]
        self._paths = [tiles.labels[number] for number in read]
        self._grids = [one.grid for one in counted]
        self._size = _common_size(self._grids, self._paths, image_size)
        self._blocks = [blocks_of(grid, image_size) for grid in self._grids]
        self._legend = choose_legend(counted, legend, assumed, tiles.directory)
        labels, place = _samples(counted, self._legend, self._paths, self._blocks)
        self._images: dict[str, list[Image | None]] = {}
        self.modalities = {}
        present = np.zeros((len(tiles.images), len(labels)), bool)
        for row, (modality, paths) in enumerate(tiles.images.items()):
            present[row] = self._look(modality, [paths[number] for number in read], tiles.channels, damaged)
        self._place = self._keep(labels, place, present, tiles.directory)
        if legend is None:
            self._legend, self.labels = occurring(self._legend, self.labels, tiles.directory)
        self.class_names, self.class_colors = self._legend.names, self._legend.colors
        origin = np.array(read)[self._place[:, 0]]
        self.attributes = {
            "tile": np.array(tiles.names)[origin],
            "block": np.array([f"{row}_{column}" for _, row, column in self._place.tolist()]),
            **{name: values[origin] for name, values in tiles.attributes.items()},
        }
        self.splits = None if tiles.splits is None else tiles.splits[origin]
        beside = 1 - len(labels) * math.prod(self._size) / sum(grid.height * grid.width for grid in self._grids)
        self.notes = {
            "path": tiles.directory,
            **tiles.notes,
            **self.notes,
            "pixels_beside_blocks": round(beside, 4),
            "left_out_damaged": len(damaged),
            "damaged": damaged[:LISTED],
        }
        if damaged:
            files = sum(sum(map(bool, paths)) for paths in (tiles.labels, *tiles.images.values()))
            lines = f"{len(damaged)} of {files} files cannot be read and are left out, first {damaged[0]}"
            warnings.warn(f"{tiles.directory}: {lines}", stacklevel=3)

    def _look(
        self, modality: str, paths: list[str], channels: Mapping[str, tuple[str, ...]], damaged: list[str]
    ) -> np.ndarray:
        """Look at the images of a modality, and return [samples] whether there is any value."""

        def see(number: int) -> Image | None:
            rows, columns = self._blocks[number]
            windows = [window_of(r, c, *self._size) for r in range(rows) for c in range(columns)]
            if not paths[number] or not windows:
                return None
            return look(paths[number], self._paths[number], self._grids[number], windows, self._method)

        found = _attempted(see, list(range(len(paths))), damaged, f"images of {modality}")
        known = [image for image in found if image is not None]
        if not known:
            raise UserError(f"modality {modality!r}: no image has the name of a label raster, such as {self._paths[0]}")
        names = check_alike(known)
        wanted = channels.get(modality, names)
        if len(names) != len(wanted):
            raise UserError(
                f"{known[0].path}: {len(names)} bands; {modality} of {self.name} has {len(wanted)}: {', '.join(wanted)}"
            )
        self._images[modality] = found
        self.modalities[modality] = ModalitySpec((*self._size, len(wanted)), wanted)
        return np.concatenate(
            [np.zeros(r * c, bool) if image is None else image.present for image, (r, c) in zip(found, self._blocks)]
        )

    def _keep(self, labels: np.ndarray, place: np.ndarray, present: np.ndarray, directory: str) -> np.ndarray:
        """Keep samples with a label and a value; return their tile, row and column."""
        labelled, seen = labels.any(axis=1), present.any(axis=0)
        rows = np.flatnonzero(labelled & seen)
        if not len(rows):
            raise UserError(
                f"{directory}: no sample is left of {len(labels)}: {int((~labelled).sum())} have no label, "
                f"{int((~seen).sum())} no value in any of {', '.join(self.modalities)}"
            )
        self.labels = labels[rows]
        self._absent = {modality: ~there[rows] for modality, there in zip(self.modalities, present)}
        if nothing := [modality for modality, absent in self._absent.items() if absent.all()]:
            raise UserError(
                f"{directory}: modality {nothing[0]!r} has no value in any of {len(rows)} samples; leave it out by "
                "modalities"
            )
        self.notes = {
            "left_out_without_label": int((~labelled).sum()),
            "left_out_without_image": int((labelled & ~seen).sum()),
            "missing_images": {m: int(absent.sum()) for m, absent in self._absent.items() if absent.any()},
        }
        return place[rows]

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Read images on the grid of their labels, several files at a time, each file once."""
        indices = self.checked(modality, indices)
        images = np.empty((len(indices), *self.modalities[modality].shape), np.float32)

        def fill(group: tuple[int, np.ndarray]) -> None:
            tile, places = group
            image = self._images[modality][tile]
            if image is None:
                images[places] = np.nan
                return
            windows = [self._window(index) for index in indices[places]]
            pixels = read_windows(image, self._grids[tile], windows, self._method)
            for place, one in zip(places, pixels):
                images[place] = np.moveaxis(one, 0, -1)

        mapped(fill, self._by_tile(indices))
        return images

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Read label rasters, several files at a time, each file once."""
        indices = self.checked(next(iter(self.modalities)), indices)
        labels = np.empty((len(indices), *self._size), np.uint8)

        def fill(group: tuple[int, np.ndarray]) -> None:
            tile, places = group
            with opened(self._paths[tile]) as file:
                for place in places:
                    labels[place] = read_labels(file, self._legend, self._window(indices[place]))

        mapped(fill, self._by_tile(indices))
        return labels

    def absent(self, modality: str) -> np.ndarray:
        """Return [samples] whether a sample has no file of a modality, or nothing but missing values in it."""
        return self._absent[modality]

    def _window(self, index: int) -> Window:
        _, row, column = self._place[index].tolist()
        return window_of(row, column, *self._size)

    def _by_tile(self, indices: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Return each tile that samples are of, with the samples' places in ``indices``."""
        tiles = self._place[indices, 0]
        order = np.argsort(tiles, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(tiles[order])) + 1) if len(order) else []
        return [(int(tiles[group[0]]), group) for group in groups]


def _attempted(function: Callable[[Any], Any], items: list[Any], damaged: list[str], what: str) -> list[Any]:
    """Return what a function gives for each item, None for files that cannot be read, which are noted.

    Raises:
        UserError: when none can be read.
    """

    def attempt(item: Any) -> Any:
        try:
            return function(item)
        except Damaged as error:
            return error

    results = mapped(attempt, items)
    faults = [result for result in results if isinstance(result, Damaged)]
    if faults and not any(result is not None and not isinstance(result, Damaged) for result in results):
        raise UserError(f"none of {len(faults)} {what} can be read, first {faults[0]}")
    damaged += map(str, faults)
    return [None if isinstance(result, Damaged) else result for result in results]


def _common_size(grids: list[Grid], paths: list[str], image_size: int | None) -> tuple[int, int]:
    """Return the height and width of samples."""
    first = grids[0]
    if image_size is not None:
        if all(not all(blocks_of(grid, image_size)) for grid in grids):
            raise UserError(
                f"{paths[0]}: {first.height} x {first.width} pixels, as small as or smaller than all label rasters; "
                f"blocks of {image_size} (image_size) do not fit, at most {min(first.height, first.width)} do"
            )
        return image_size, image_size
    for grid, path in zip(grids, paths):
        if (grid.height, grid.width) != (first.height, first.width):
            raise UserError(
                f"{path}: {grid.height} x {grid.width} pixels, but {first.height} x {first.width} in {paths[0]}; tiles "
                f"of several sizes have to be cut into blocks, such as image_size {_block(grids)}"
            )
    return first.height, first.width


def _block(grids: list[Grid]) -> int:
    """Return the largest power of two that fits into all tiles."""
    return 1 << (min(min(grid.height, grid.width) for grid in grids).bit_length() - 1)


def _samples(
    counted: list[Counted], legend: Legend, paths: list[str], blocks: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 [samples, classes] numbers of pixels, and int64 [samples, 3] tile, row and column."""
    labels, places = [], []
    for tile, (one, path, (rows, columns)) in enumerate(zip(counted, paths, blocks)):
        counts = np.zeros((rows * columns, len(legend.values)), np.int64)
        found = count_classes(one, legend, path)
        counts[: len(found)] = found
        labels.append(counts)
        row, column = np.divmod(np.arange(rows * columns), max(columns, 1))
        places.append(np.stack([np.full(rows * columns, tile), row, column], axis=1))
    return np.concatenate(labels), np.concatenate(places)
