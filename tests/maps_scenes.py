"""Scenes and models for tests of maps: small GeoTIFFs, and predictors that NumPy can check."""

from __future__ import annotations

import warnings

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning

from mmfl_jax.archives.base import ModalitySpec

UTM = "EPSG:32633"
NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_400_000)
S1, S2 = ("VV", "VH"), ("B02", "B03", "B04", "B08")


def write_raster(path, values, *, crs=UTM, transform=NORTH_UP, names=None, **profile):
    """Write [height, width, bands] with these names of bands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = values.shape
    shape = {"height": height, "width": width, "count": bands, "dtype": values.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape, **profile) as file:
            if names is not None:
                file.descriptions = names
            file.write(np.moveaxis(values, -1, 0))
    return path


def radar(shape, seed=0):
    """Return decibels, float32 [*shape, 2]."""
    return np.random.default_rng(seed).normal((-12, -19), 4, (*shape, 2)).astype(np.float32)


def optical(shape, seed=1):
    """Return reflectances, uint16 [*shape, 4]."""
    return np.random.default_rng(seed).integers(1, 6000, (*shape, 4)).astype(np.uint16)


def write_scene(folder, name="place", shape=(70, 90), **profile):
    """Write a scene of both sensors; return its values by modality."""
    values = {"s1": radar(shape), "s2": optical(shape)}
    write_raster(folder / "S1" / f"{name}.tif", values["s1"], names=S1, **profile)
    write_raster(folder / "S2" / f"{name}.tif", values["s2"], names=S2, **profile)
    return values


class Local:
    """Classify each pixel on its own: softmax of a linear function of its bands, missing ones zero."""

    class_names = ("Wald", "Wasser & Eis", "Äcker", "urban")
    class_colors = ("#397d49", "#419bdf", "#e49635", "#c4281b")

    def __init__(self, tile=32, held=("s1", "s2")):
        channels = {"s1": S1, "s2": S2}
        self.tile = tile
        self.modalities = {m: ModalitySpec((tile, tile, len(channels[m])), channels[m]) for m in held}
        rng = np.random.default_rng(7)
        scale = {"s1": 20, "s2": 6000}
        self.weights = {m: rng.normal(size=(len(channels[m]), 4)) * 5 / scale[m] for m in held}
        self.calls = []

    def probabilities(self, inputs):
        self.calls.append({m: images.shape for m, images in inputs.items()})
        logits = sum(np.nan_to_num(self.seen(images)) @ self.weights[m] for m, images in inputs.items())
        raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return (raised / raised.sum(axis=-1, keepdims=True)).astype(np.float32)

    def seen(self, images):
        return images

    def classes(self, **values):
        """Return [height, width] of the class that the whole scene would get at once."""
        return self.probabilities({m: image[None].astype(np.float32) for m, image in values.items()})[0].argmax(-1)


class Box(Local):
    """Classify by the mean of a square of ``2 * radius + 1`` pixels, zeros beyond the border: as a convolution pads."""

    def __init__(self, radius, **options):
        super().__init__(**options)
        self.radius = radius

    def seen(self, images):
        side = 2 * self.radius + 1
        wide = [(0, 0), (self.radius, self.radius), (self.radius, self.radius), (0, 0)]
        padded = np.pad(np.nan_to_num(images), wide)
        squares = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
        return squares.mean(axis=(-2, -1))
