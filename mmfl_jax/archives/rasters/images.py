"""Images beside label rasters: looked at once when an archive is opened, and read on the labels' grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfl_jax.archives.rasters import grids
from mmfl_jax.archives.rasters.gdal import Window, check_whole, may_miss, opened, read_image
from mmfl_jax.archives.rasters.grids import Grid
from mmfl_jax.errors import UserError


@dataclass(frozen=True)
class Image:
    """Hold what is known of one image file.

    Attributes:
        path: of the file.
        bands: how many.
        dtype: of its pixels.
        names: the bands' descriptions; None where not every band has one of its own.
        direct: whether its pixels are those of the labels.
        gaps: whether pixels can be without a value.
        present: [windows] whether there is any value.
    """

    path: str
    bands: int
    dtype: str
    names: tuple[str, ...] | None
    direct: bool
    gaps: bool
    present: np.ndarray


def look(path: str, label_path: str, label: Grid, windows: list[Window], method: str) -> Image:
    """Look at an image file once: that it can be read, lies where its labels lie, and has values.

    Raises:
        Damaged: a file that cannot be read.
        UserError: complex numbers, or an image that cannot be brought to the labels' grid.
    """
    with opened(path) as file:
        if np.dtype(file.dtypes[0]).kind not in "iuf":
            raise UserError(f"{path}: pixels are {file.dtypes[0]}; real numbers are needed")
        check_whole(file, path)
        own = Grid.of(file)
        where = grids.extent(own, label)
        if isinstance(where, str):
            raise UserError(f"{path}: cannot be brought to its labels in {label_path}: {where}")
        if not grids.overlaps(own, where):
            raise UserError(f"{path}: does not overlap with its labels in {label_path}; are the files of one place?")
        direct, gaps = grids.is_same(own, label, where), may_miss(file)
        if not gaps and (direct or grids.covers(own, where)):
            present = np.ones(len(windows), bool)
        elif direct:
            present = np.array([_has_value(file, window) for window in windows], bool)
        else:
            whole = grids.align(read_image(file, None, gaps), own, label, method)
            present = np.array([not np.isnan(_cut(whole, window)).all() for window in windows], bool)
        names = tuple(str(name or "").strip() for name in file.descriptions)
        told = all(name and name.isprintable() for name in names) and len(set(names)) == len(names)
        return Image(path, file.count, file.dtypes[0], names if told else None, direct, gaps, present)


def read_windows(image: Image, label: Grid, windows: list[Window], method: str) -> list[np.ndarray]:
    """Read the windows of an image on the labels' grid, float32 [bands, height, width] each."""
    with opened(image.path) as file:
        if image.direct:
            whole_tile = ((0, label.height), (0, label.width))
            return [read_image(file, None if window == whole_tile else window, image.gaps) for window in windows]
        whole = grids.align(read_image(file, None, image.gaps), Grid.of(file), label, method)
        return [_cut(whole, window) for window in windows]


def _has_value(file: Any, window: Window) -> bool:
    """Return whether a window has a value: its middle row mostly tells, and the whole is read where it has none."""
    (top, bottom), columns = window
    middle = (top + bottom) // 2
    return any(not np.isnan(read_image(file, (rows, columns))).all() for rows in ((middle, middle + 1), (top, bottom)))


def _cut(image: np.ndarray, window: Window) -> np.ndarray:
    (top, bottom), (left, right) = window
    return image[:, top:bottom, left:right]


def check_alike(images: list[Image]) -> tuple[str, ...]:
    """Return the names of the bands of a modality: the files' own where all agree, else 1, 2, ...

    Raises:
        UserError: files of other numbers of bands, or of other types of pixels.
    """
    first = images[0]
    for image in images:
        for what, found, wanted in (("bands", image.bands, first.bands), ("pixels", image.dtype, first.dtype)):
            if found != wanted:
                raise UserError(
                    f"{image.path}: {what} {found}, but {wanted} in {first.path}; all files of a modality are alike"
                )
    names = {image.names for image in images}
    told = names.pop() if len(names) == 1 else None
    return told or tuple(str(number) for number in range(1, first.bands + 1))
