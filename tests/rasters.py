"""Write small GeoTIFFs of images and labels, for tests."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from mmfl_jax import archives
from mmfl_jax.errors import UserError

UTM = "EPSG:32633"
NAMES = ("north", "east", "south", "west")


def write(path, pixels, *, crs=UTM, origin=(500000, 5000000), step=10.0, nodata=None, names=None, mask=None, **more):
    """Write ``[height, width]`` or ``[bands, height, width]`` pixels; without georeference where ``origin`` is None."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    bands, height, width = pixels.shape
    options = {"crs": crs, "transform": rasterio.Affine(step, 0, origin[0], 0, -step, origin[1])} if origin else {}
    options |= more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path,
                "w",
                height=height,
                width=width,
                count=bands,
                dtype=pixels.dtype,
                nodata=nodata,
                **({"driver": "GTiff"} | options),
            ) as file,
        ):
            file.write(pixels)
            if mask is not None:
                file.write_mask(mask)
            for band, name in enumerate(names or (), 1):
                file.set_band_description(band, name)
    return path


def image(seed, bands=2, height=16, width=16, dtype="float32"):
    """Return random pixels ``[bands, height, width]``, none of them 0."""
    values = np.random.default_rng(seed).integers(1, 200, (bands, height, width))
    return (values - 210.5).astype(dtype) if np.dtype(dtype).kind == "f" else values.astype(dtype)


def labels(seed, height=16, width=16, values=(1, 2, 4), dtype="uint8"):
    """Return random values ``[height, width]``, each of them at least once."""
    pixels = np.random.default_rng(seed).choice(values, (height, width)).astype(dtype)
    pixels.flat[: len(values)] = values
    return pixels


def own(path):
    """Return what rasterio reads, ``[height, width, bands]``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return np.moveaxis(file.read(), 0, -1)


def cut_short(path, keep=0.6):
    """Leave the first part of a file."""
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(keep * len(data))])


def tree(root, names=NAMES, size=16):
    """Write a folder of tiles with two modalities, and return it."""
    for number, name in enumerate(names):
        place = {"origin": (500000 + 1000 * number, 5000000)}
        write(root / "S1" / f"{name}.tif", image(number, 2, size, size), **place)
        write(root / "S2" / f"{name}.tif", image(10 + number, 3, size, size, "uint16"), **place)
        write(root / "labels" / f"{name}.tif", labels(20 + number, size, size), **place)
    return root


def refusal(reference, **options):
    """Return the line by which an archive is refused."""
    with pytest.raises(UserError) as caught:
        archives.open(reference, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
