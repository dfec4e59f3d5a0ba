"""Read the bands of patches that lie in a folder each, a GeoTIFF a band."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mmfl_jax.archives.base import FILL
from mmfl_jax.archives.bigearthnet.patches import PatchTable, Scan, pool
from mmfl_jax.errors import UserError

_thread = threading.local()


class GeoTiffs:
    """Read bands from a tree of folders.

    Args:
        directory: of the archive.
        folders: of the modalities that are there.
        scan: finds the patches of this version of the tree.
    """

    def __init__(self, directory: Any, folders: dict[str, Any], scan: Scan):
        self._directory, self._folders, self._scan = directory, folders, scan
        self.modalities = tuple(folders)

    def table(self, modalities: Sequence[str]) -> PatchTable:
        """Find the patches of these modalities."""
        return self._scan(self._directory, {name: self._folders[name] for name in modalities})

    def where(self, modality: str, patch: str, band: str) -> str:
        """Return the path of a band."""
        return os.path.join(patch, f"{os.path.basename(patch)}_{band}.tif")

    def map(self, work: Callable[[Any], Any], rows: Iterable[Any]) -> Iterator[Any]:
        """Work in threads, for disks that answer late; GDAL is set up in each once."""
        return pool().map(work, rows)

    def planes(self, modality: str, patch: str, groups: dict[int, tuple[str, ...]]) -> list[np.ndarray]:
        """Return the bands of each size, uint16 or float32 [bands, size, size]; NaN where nothing was measured."""
        _enter_environment()
        return [
            np.stack([read_band(self.where(modality, patch, band), size) for band in bands])
            for size, bands in groups.items()
        ]


def _enter_environment() -> None:
    """Set GDAL up once a thread: it lists no folders in search of side files, and reads none."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    # Of our calls alone, and on every call: others may have put the filters back.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=__name__.replace(".", r"\."))
    if not hasattr(_thread, "environment"):
        _thread.environment = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO")
        _thread.environment.__enter__()


def read_band(path: str, size: int) -> np.ndarray:
    """Read one band as uint16 or float32 [size, size]; NaN for pixels that are infinite, NaN or fill values.

    Raises:
        UserError: a file that is missing, damaged, of another size, of several bands or of complex numbers.
    """
    from rasterio.io import DatasetReader

    try:
        # Where a file lies on Earth does not matter, and working it out takes most of the time of opening it.
        with DatasetReader(path, driver="GTiff", sharing=False, GEOREF_SOURCES="NONE") as file:
            if file.shape != (size, size):
                raise UserError(f"{path}: {file.height} x {file.width} pixels, this band has {size} x {size}")
            if file.count != 1:
                raise UserError(f"{path}: {file.count} bands in the file, this is of one band")
            if np.dtype(file.dtypes[0]).kind not in "uif":
                raise UserError(f"{path}: pixels are {file.dtypes[0]}; real numbers are needed")
            pixels = file.read(1)
    except UserError:
        raise
    except Exception as error:  # GDAL has many ways to fail on damaged bytes
        if not os.path.exists(path):
            raise UserError(f"{path}: no such file; the patch lacks this band") from None
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"{path}: cannot be read as a GeoTIFF, damaged or cut short ({reason})") from error
    return measured(pixels)


def measured(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as uint16 or float32; neither NaN nor what is too large to be measured is in the archive: NaN."""
    if pixels.dtype == np.uint16:
        return pixels
    if pixels.dtype.kind != "f":
        return pixels.astype(np.float32)
    return np.where(np.abs(pixels) < np.float64(FILL), pixels, np.nan).astype(np.float32)
