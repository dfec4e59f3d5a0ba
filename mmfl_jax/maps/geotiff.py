"""Write Cloud-Optimised GeoTIFFs block by block; they stand under their names once they are complete."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from mmfl_jax import __version__
from mmfl_jax.errors import UserError, one_line
from mmfl_jax.maps.legend import NODATA, Legend
from mmfl_jax.maps.rasters import SETTINGS, Grid

_BLOCK = 512
#: What all that this command writes carries, to be known again.
MARK = "mmfl_jax"


def check_space(folder: Path, scene: str, grid: Grid, bands: int) -> None:
    """Refuse a disk that files of so many bands might fill: the plain raster, its copy and a third of that again.

    Raises:
        UserError: where there is less.
    """
    pixels = math.ceil(grid.height / _BLOCK) * math.ceil(grid.width / _BLOCK) * _BLOCK**2
    need, free = pixels * bands * 7 / 3e6, shutil.disk_usage(folder).free / 1e6
    if free < need:
        raise UserError(f"{folder}: {free:,.0f} MB are free, the maps of {scene} may need {need:,.0f} MB meanwhile")


class CloudGeoTiff:
    """Write bytes into a raster in any order of blocks; leave nothing where that fails.

    GDAL makes such files as copies of others only: blocks go into a plain raster beside it first.

    Args:
        path: of the file.
        grid: where its pixels lie.
        bands: their names.
        tags: of the file.
        colors: by value, of one band.
        scale: what values have to be multiplied with.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        bands: Sequence[str],
        tags: Mapping[str, str],
        *,
        colors: Mapping[int, tuple[int, int, int, int]] | None = None,
        scale: float = 1.0,
    ):
        self._path, self._grid, self._bands, self._tags = path, grid, bands, tags
        self._colors, self._scale = colors, scale
        self._part = path.with_name(path.name + ".part")
        self._raw = path.with_name(path.name + ".part.raw")
        self._sum = 0

    def __enter__(self) -> CloudGeoTiff:
        self._stack = contextlib.ExitStack()
        # Without side files: what GDAL would put there is not ours.
        self._stack.enter_context(rasterio.Env(**SETTINGS, GDAL_PAM_ENABLED="NO"))
        with self._stack:
            with self._writing():
                self._file = self._open()
            self._stack = self._stack.pop_all()
        return self

    def write(self, rows: slice, columns: slice, values: np.ndarray) -> None:
        """Write uint8 [bands, rows, columns] at their place."""
        self._sum += int(values.sum(dtype=np.int64))
        with self._writing():
            self._file.write(values, window=Window.from_slices(rows, columns))  # type: ignore[no-untyped-call]

    def __exit__(self, kind: Any, *error: Any) -> None:
        with self._stack:
            try:
                if kind is None:
                    self._finish()
                else:
                    with contextlib.suppress(Exception):
                        self._file.close()
            finally:
                # GDAL leaves its own parts as well, such as overviews.
                for left in self._path.parent.iterdir():
                    if left.name.startswith(self._part.name) and left.name.endswith((".part", ".raw", ".tmp")):
                        left.unlink(missing_ok=True)

    def _open(self) -> DatasetWriter:
        grid, bands = self._grid, self._bands
        file = rasterio.open(
            self._raw,
            "w",
            driver="GTiff",
            dtype="uint8",
            count=len(bands),
            height=grid.height,
            width=grid.width,
            crs=grid.crs,
            transform=None if grid.transform.is_identity else grid.transform,
            nodata=NODATA,
            tiled=True,
            blockxsize=_BLOCK,
            blockysize=_BLOCK,
            interleave="band",
            BIGTIFF="IF_SAFER",
        )
        if self._colors is not None:
            file.write_colormap(1, dict(self._colors))
        file.update_tags(**self._tags, TIFFTAG_SOFTWARE=f"{MARK} {__version__}")
        file.descriptions = tuple(bands)
        file.scales = (self._scale,) * len(bands)
        return file

    def _finish(self) -> None:
        whole = self._colors is not None
        with self._writing():
            self._file.close()
            # Left to itself, GDAL makes those of many bands in a compressed file, slowly and many times as large.
            smaller = [2**power for power in range(1, 32) if max(self._grid[2:]) > _BLOCK * 2 ** (power - 1)]
            with rasterio.open(self._raw, "r+") as file:
                file.build_overviews(smaller, Resampling.mode if whole else Resampling.average)
            rasterio.shutil.copy(
                self._raw,
                self._part,
                driver="COG",
                COMPRESS="DEFLATE",
                BLOCKSIZE=_BLOCK,
                PREDICTOR="NO" if whole else "YES",
                BIGTIFF="IF_SAFER",
            )
            # Of a full disk GDAL may tell nobody when it writes its last blocks.
            with rasterio.open(self._part) as file:
                windows = (
                    Window(0, top, file.width, min(_BLOCK, file.height - top)) for top in range(0, file.height, _BLOCK)
                )
                found = sum(int(file.read(window=window).sum(dtype=np.int64)) for window in windows)
            if found != self._sum:
                raise OSError("what was written is not what can be read")
            os.replace(self._part, self._path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (RasterioError, OSError, CPLE_BaseError) as error:
            free = shutil.disk_usage(self._path.parent).free / 1e6
            reason = one_line(error.__cause__ or error)
            raise UserError(f"{self._path}: cannot be written ({reason}); {free:,.0f} MB are free there") from error


def side_file(legend: Legend) -> str:
    """Return what stands beside a map for GDAL, in its ``.aux.xml``: the names of the classes by number."""
    names = [legend.names[number] if number < len(legend.names) else "" for number in range(NODATA)]
    rows = "".join(f"      <Category>{escape(name)}</Category>\n" for name in [*names, "no data"])
    return (
        f"<PAMDataset>\n  <!-- {MARK} -->\n"
        f'  <PAMRasterBand band="1">\n    <CategoryNames>\n{rows}    </CategoryNames>\n  </PAMRasterBand>\n'
        "</PAMDataset>\n"
    )
