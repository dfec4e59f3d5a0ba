"""Read GeoTIFFs by GDAL: several files at a time, one environment a thread, and errors on one line."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from mmfl_jax.archives.base import FILL
from mmfl_jax.errors import UserError, one_line

THREADS = min(16, 2 * (os.cpu_count() or 1))

Item = TypeVar("Item")
Result = TypeVar("Result")
Window = tuple[tuple[int, int], tuple[int, int]]


class Damaged(UserError):
    """Say that a file cannot be read: an archive leaves it out when it is opened, a read ends with it."""


def mapped(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return what a function that reads files gives for each item, several items at a time."""
    from rasterio.errors import NotGeoreferencedWarning

    # Set here and not in the threads: the warning filter belongs to the whole process.
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS, initializer=_enter) as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return list(pool.map(function, items))


def _enter() -> None:
    import rasterio

    # A thread without one makes and leaves an environment for every file. The folder of a file is not listed in
    # search of side files: those that GDAL knows (masks, world files) are asked for by name.
    rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE").__enter__()


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open a raster for reading.

    Raises:
        Damaged: a file that is missing, empty, damaged or cut short, also where this shows when pixels are read.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as file:
            yield file
    except (RasterioError, OSError) as error:
        if not os.path.exists(path):
            raise Damaged(f"{path}: no such file") from None
        if not os.path.getsize(path):
            raise Damaged(f"{path}: the file is empty") from None
        reason = one_line(error.__cause__ or error)
        raise Damaged(f"{path}: cannot be read as a GeoTIFF, damaged or cut short ({reason})") from error


def check_whole(file: Any, path: str) -> None:
    """Raise Damaged where the last block of a band is not there.

    GDAL opens a file that was cut short: only reading its last pixels would tell.
    """
    size = os.path.getsize(path)
    height, width = file.block_shapes[0]
    last = f"{(file.width - 1) // width}_{(file.height - 1) // height}"
    for band in file.indexes:
        offset, length = (file.get_tag_item(f"BLOCK_{what}_{last}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE"))
        if offset is None or length is None:  # all of one value and not stored, or damaged
            file.read(band, window=((file.height - 1, file.height), (file.width - 1, file.width)))
        elif int(offset) + int(length) > size:
            raise Damaged(f"{path}: damaged or cut short, {size} bytes of at least {int(offset) + int(length)}")


def may_miss(file: Any) -> bool:
    """Return whether pixels of an open raster can be without a value."""
    return np.dtype(file.dtypes[0]).kind == "f" or not all(_is_valid(flags) for flags in file.mask_flag_enums)


def read_image(file: Any, window: Window | None = None, gaps: bool = True) -> np.ndarray:
    """Read all bands of an open raster.

    Args:
        file: from :func:`opened`.
        window: (first row, end), (first column, end); None for the whole.
        gaps: what :func:`may_miss` says; asking each file again costs a tenth of reading it.

    Returns:
        float32 [bands, height, width] as stored; NaN for the file's nodata value, what its mask leaves out, and
        numbers that are infinite or fill values.
    """
    pixels = file.read(window=window)
    image = pixels.astype(np.float32, copy=False)
    if not gaps:
        return image
    missing = np.zeros(0, bool)
    if pixels.dtype.kind == "f":
        missing = ~(np.abs(pixels) < np.float64(FILL))
    for band, (nodata, flags) in enumerate(zip(file.nodatavals, file.mask_flag_enums)):
        if nodata is None and _is_valid(flags):
            continue
        if not missing.size:
            missing = np.zeros(pixels.shape, bool)
        if nodata is None:
            missing[band] |= file.read_masks(band + 1, window=window) == 0
        else:
            missing[band] |= pixels[band] == exact(nodata, pixels.dtype)
    if missing.any():
        image[missing] = np.nan  # of integers, `image` is a copy; of float32, `pixels` is not used any more
    return image


def exact(nodata: float, dtype: np.dtype) -> Any:
    """Return a nodata value as pixels have it: comparing integers as floats is slow, and wrong beyond 2**53."""
    if dtype.kind == "f":
        return dtype.type(nodata)
    return int(nodata) if float(nodata).is_integer() else np.nan


def _is_valid(flags: list[Any]) -> bool:
    return any(flag.name == "all_valid" for flag in flags)
