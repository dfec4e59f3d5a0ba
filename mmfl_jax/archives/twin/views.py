"""Draw what the sensors see of a tile's land: the twin's materials, light, clouds and speckle, by surface.

The optical image is a table of spectra, one a surface, read at each pixel, with crops by field and season; clouds hide
parts of some. The radar image is a table of levels with the wetness of each field, and speckle multiplied in.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mmfl_jax.archives.twin import images, physics, surfaces
from mmfl_jax.archives.twin.drawing import Chance
from mmfl_jax.archives.twin.land import Land

_OPTICAL, _RADAR = range(1, 3)
_COUNT = len(surfaces.SURFACES)


def draw_optical(land: Land, key: Array, country: Array, season: Array, bands: np.ndarray) -> Array:
    """Draw the optical image of a tile, [size, size, bands] reflectance x 10,000, before its pixels are blurred.

    Air and calibration are the same all over a tile, so they are applied to the table of spectra, not to pixels.
    """
    shape = land.surface.shape
    # One draw for all: the generator is what takes longest to compile.
    chance = Chance(jax.random.fold_in(key, _OPTICAL), 600 + 2 * math.prod(shape))
    grain = chance.normal(2, *shape)
    spectra = images.seen_from(country, images.class_spectra(chance, season, surfaces.FRACTIONS))
    spectra = images.calibrated_optical(images.add_haze(chance, spectra))[:, bands]
    crops = spectra[_COUNT:] - spectra[surfaces.SOIL]
    contrast = surfaces.OPTICAL_TEXTURE * chance.spread(_COUNT, 1, deviation=physics.TEXTURE_SPREAD)
    rough, clumped = jnp.moveaxis(contrast[land.surface], -1, 0)
    light = 1 + rough * grain[0] + clumped * land.clumps + 0.12 * land.slope - 0.16 * land.wet
    cloud, shadow = images.draw_clouds(chance, len(light), surfaces.CLOUDY_SHARE)
    image = spectra[land.surface] + land.green[..., None] * crops[0] + land.ripe[..., None] * crops[1]
    tint = 0.5 * (rough * grain[1])[..., None] * physics.TEXTURE_SPECTRUM[2, bands]
    image *= jnp.maximum(light[..., None] + tint, 0.1) * (1 - 0.5 * shadow)
    return image + cloud * (images.calibrated_optical(physics.CLOUD_SPECTRUM)[bands] - image)


def draw_radar(land: Land, key: Array, country: Array) -> Array:
    """Draw the radar image of a tile, [size, size, 2] backscatter of VV and VH in dB."""
    shape = land.surface.shape
    chance = Chance(jax.random.fold_in(key, _RADAR), 4 * _COUNT + 3 * math.prod(shape))
    noise = chance.normal(*shape, 3)
    correlation = physics.POLARISATION_CORRELATION
    deviations = chance.normal(_COUNT, 3)
    deviations = np.sqrt(correlation) * deviations[:, :1] + np.sqrt(1 - correlation) * deviations[:, 1:]
    levels = surfaces.BACKSCATTER[:, :2] + surfaces.BACKSCATTER_SPREAD * deviations
    contrast = surfaces.BACKSCATTER[:, 2:] * chance.spread(_COUNT, 1, deviation=physics.TEXTURE_SPREAD)
    rough, clumped = jnp.moveaxis(contrast[land.surface], -1, 0)
    texture = rough * noise[..., 0] + clumped * land.clumps + surfaces.FIELD_SPREAD * land.wet + land.slope
    image = (
        levels[land.surface] + land.green[..., None] * surfaces.GREEN_CROP + land.ripe[..., None] * surfaces.RIPE_CROP
    )
    image = images.heard_from(country, image + texture[..., None])
    return images.calibrated_radar(image + images.speckle(noise[..., 1:]))


def blurred(image: Array) -> Array:
    """Let each pixel of [size, size, bands] see a little of its neighbours, so that borders mix what meets there."""
    for axis in (0, 1):
        padded = jnp.pad(image, [(int(axis == a), int(axis == a)) for a in range(3)], mode="edge")
        before, after = (jax.lax.slice_in_dim(padded, s, s + image.shape[axis], axis=axis) for s in (0, 2))
        image = 0.7 * image + 0.15 * (before + after)
    return image
