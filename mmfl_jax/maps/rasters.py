"""Read scenes: the files of all modalities on one grid, window by window."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from mmfl_jax.archives.base import FILL, ModalitySpec
from mmfl_jax.errors import UserError, one_line
from mmfl_jax.maps.bands import choose_bands
from mmfl_jax.maps.scenes import Scene

# GDAL would take a twentieth of the machine's memory for blocks that it has read.
SETTINGS = {"GDAL_CACHEMAX": 128, "GDAL_NUM_THREADS": "ALL_CPUS"}


class Grid(NamedTuple):
    """Say where the pixels of a scene lie; ``crs`` is None where nobody knows."""

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @classmethod
    def of(cls, file: Any) -> Grid:
        """Return the grid of an open file."""
        return cls(file.crs, file.transform, file.height, file.width)

    def at(self, column: float, row: float) -> tuple[float, float]:
        """Return x and y of a place in pixels; affine's own operator differs between its versions."""
        a, b, c, d, e, f = self.transform[:6]
        return a * column + b * row + c, d * column + e * row + f

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Return the least and the greatest x and y: left, bottom, right, top."""
        xs, ys = zip(*(self.at(x, y) for x in (0, self.width) for y in (0, self.height)))
        return min(xs), min(ys), max(xs), max(ys)

    def same(self, other: Grid) -> bool:
        """Return whether pixels lie at the same places, up to a thousandth of one."""
        most = 1e-3 * math.sqrt(abs(self.transform.determinant))
        corners = [(0, 0), (self.width, 0), (0, self.height)]
        return (self.crs, self.height, self.width) == (other.crs, other.height, other.width) and all(
            math.dist(self.at(*corner), other.at(*corner)) <= most for corner in corners
        )


@dataclass(frozen=True)
class Source:
    """Hold an open file of one modality, as it lies on the scene's grid.

    Attributes:
        path: of the file.
        file: open, or warped to the grid.
        bands: numbers of those that the run knows.
        masked: whether some pixels are marked as no data.
        tags: of the file.
    """

    path: Path
    file: Any
    bands: list[int]
    masked: bool
    tags: dict[str, str]

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Return float32 [rows, columns, bands], NaN where there is no value."""
        window = Window.from_slices(rows, columns)  # type: ignore[no-untyped-call]
        with reading(self.path):
            values = self.file.read(self.bands, window=window, out_dtype="float32")
            if self.masked:
                values[self.file.read_masks(self.bands, window=window) == 0] = np.nan
        # Infinite ones and fill values are no measurements.
        values[~(np.abs(values) < FILL)] = np.nan
        return np.ascontiguousarray(np.moveaxis(values, 0, -1))


@dataclass(frozen=True)
class OpenScene:
    """Hold the open files of a scene, by modality, and their common grid."""

    name: str
    grid: Grid
    sources: dict[str, Source]

    @property
    def shape(self) -> tuple[int, int]:
        """Return height and width."""
        return self.grid.height, self.grid.width

    @property
    def channels(self) -> int:
        """Return the channels of all modalities together."""
        return sum(len(source.bands) for source in self.sources.values())

    def read(self, rows: slice, columns: slice) -> dict[str, np.ndarray]:
        """Return float32 [rows, columns, channels] by modality."""
        return {modality: source.read(rows, columns) for modality, source in self.sources.items()}


@contextlib.contextmanager
def open_scene(scene: Scene, modalities: Mapping[str, ModalitySpec]) -> Iterator[OpenScene]:
    """Open the files of a scene on the grid of the finest, of equals that of the run's first modality.

    Raises:
        UserError: a file that cannot be read, without the run's bands, of complex numbers, or elsewhere on Earth; one
            with a place on Earth beside one without.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(rasterio.Env(**SETTINGS))
        files = {m: stack.enter_context(open_raster(scene.files[m])) for m in modalities if m in scene.files}
        bands = {
            m: choose_bands(scene.files[m], file.descriptions, modalities[m].channels) for m, file in files.items()
        }
        grid, first = _finest({scene.files[m]: Grid.of(file) for m, file in files.items()})
        sources = {}
        for modality, file in files.items():
            path = scene.files[modality]
            masked = any(flags != [MaskFlags.all_valid] for flags in file.mask_flag_enums)
            if grid.same(Grid.of(file)):
                source = Source(path, file, bands[modality], masked, file.tags())
            else:
                warped = stack.enter_context(_warped(path, file, grid, first))
                source = Source(path, warped, bands[modality], False, file.tags())
            sources[modality] = source
        yield OpenScene(scene.name, grid, sources)


def open_raster(path: Path) -> DatasetReader:
    """Open a file of real numbers.

    Raises:
        UserError: a file that is missing, empty, damaged, without bands or of complex numbers.
    """
    if path.is_file() and not os.path.getsize(path):
        raise UserError(f"{path}: an empty file (0 bytes); copy it again, or take it away")
    with reading(path):
        file = rasterio.open(path)
    if odd := next((kind for kind in file.dtypes if np.dtype(_numpy(kind)).kind not in "uif"), None):
        file.close()
        raise UserError(f"{path}: pixels are {odd}; real numbers are needed")
    if not file.count:
        file.close()
        raise UserError(f"{path}: has no bands; name one of the rasters in it")
    return file


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what GDAL meets in a damaged file into a :class:`UserError`."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read, damaged or cut short ({one_line(error.__cause__ or error)})"
        ) from error


def _numpy(kind: str) -> str:
    """Return NumPy's name of a type; GDAL has complex integers, which NumPy has not."""
    return "complex64" if kind.startswith("complex") else kind


def _finest(grids: Mapping[Path, Grid]) -> tuple[Grid, Path]:
    """Return the grid with the smallest pixels, the first of equals, and its file."""
    (anchor, base), *others = grids.items()
    finest, size = anchor, abs(base.transform.determinant)
    for path, grid in others:
        if (grid.crs is None) != (base.crs is None):
            without, other = (path, anchor) if grid.crs is None else (anchor, path)
            raise UserError(
                f"{without}: no coordinate reference system, but {other} has one; give it one to be matched by"
            )
        if grid.crs is None and not base.same(grid):
            raise UserError(
                f"{path}: {grid.height} x {grid.width} pixels, {anchor} has {base.height} x {base.width} or lies "
                "elsewhere; without a coordinate reference system they must be alike"
            )
        left, bottom, right, top = _bounds_in(base.crs, path, grid)
        own = (right - left) * (top - bottom) / (grid.height * grid.width)
        if own < 0.99 * size:
            finest, size = path, own
    return grids[finest], finest


def _bounds_in(crs: CRS | None, path: Path, grid: Grid) -> tuple[float, float, float, float]:
    if crs == grid.crs:
        return grid.bounds
    try:
        bounds = transform_bounds(grid.crs, crs, *grid.bounds)
    except Exception as error:  # PROJ has many ways to fail outside of a system's area
        raise UserError(f"{path}: {grid.crs} cannot be brought to {crs} ({one_line(error)})") from error
    if not np.isfinite(bounds).all():
        raise UserError(f"{path}: {grid.crs} cannot be brought to {crs} here")
    return bounds


def _warped(path: Path, file: DatasetReader, grid: Grid, other: Path) -> WarpedVRT:
    """Return a file as it lies on a grid, bilinear; NaN where it has no value."""
    left, bottom, right, top = _bounds_in(grid.crs, path, Grid.of(file))
    x0, y0, x1, y1 = grid.bounds
    if min(right, x1) <= max(left, x0) or min(top, y1) <= max(bottom, y0):
        raise UserError(f"{path}: does not overlap {other}; files of one name must show one place")
    nodata: float | None = file.nodata
    if nodata is None and np.dtype(file.dtypes[0]).kind == "f":
        nodata = math.nan
    with reading(path):
        return WarpedVRT(
            file,
            crs=grid.crs,
            transform=grid.transform,
            height=grid.height,
            width=grid.width,
            resampling=Resampling.bilinear,
            dtype="float32",
            src_nodata=nodata,
            nodata=math.nan,
        )
