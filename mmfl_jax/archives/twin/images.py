"""Draw the twin's labels and images: pure functions of a key and an index, for ``jit`` and ``vmap``.

One place is a map of its classes (smooth random fields, the highest shows) with five textures. The optical image
mixes materials by class and season; the radar image takes a backscatter level by class and multiplies speckle in.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mmfl_jax.archives.bigearthnet.nomenclature import S1_CHANNELS, S2_BANDS_12
from mmfl_jax.archives.twin import physics
from mmfl_jax.archives.twin.drawing import Chance, einsum, pixel_axis
from mmfl_jax.archives.twin.statistics import (
    CLASS_COUNTS,
    COUNTRY_SIZES,
    SEASON_COUNTS,
    label_correlations,
)

_LABELS, _PLACE, _OPTICAL, _GRAIN, _RADAR, _SPECKLE = range(6)
CLASSES = len(CLASS_COUNTS)
_FLOOR = 60.0


def draw_labels(key: Array, country: Array) -> tuple[Array, Array]:
    """Draw the classes and the season of one place in a country.

    Labels are thresholds of correlated normal variables: each class has the country's real frequency, and pairs of
    classes come together as often as they really do. Where none passes, the nearest to its threshold does.

    Args:
        key: of the sample.
        country: int, index in ``COUNTRIES``.

    Returns:
        bool [19] labels, int season.
    """
    frequency = np.clip(CLASS_COUNTS / COUNTRY_SIZES, 0, 1 - 1e-6)
    thresholds = -jax.scipy.special.ndtri(jnp.asarray(frequency, jnp.float32))[:, country]
    root = jnp.asarray(np.linalg.cholesky(label_correlations()), jnp.float32)
    chance = Chance(jax.random.fold_in(key, _LABELS), CLASSES + 1)
    variables = jnp.matmul(root, chance.normal(CLASSES), precision="highest")
    above = variables - thresholds
    labels = (above > 0) | (~(above > 0).any() & (jnp.arange(CLASSES) == above.argmax()))
    ends = jnp.asarray(np.cumsum(SEASON_COUNTS / COUNTRY_SIZES[:, None], axis=1)[:, :-1], jnp.float32)[country]
    season = (chance.uniform() >= ends).sum()
    return labels, season


def draw_place(key: Array, labels: Array, size: int) -> tuple[Array, Array]:
    """Draw the land of one place, the same for every sensor.

    Returns:
        class shares [size, size, 19] that sum to one (soft borders), and textures [size, size, 4] of mean
        zero: clumps, parcels, rows, blocks.
    """
    chance = Chance(jax.random.fold_in(key, _PLACE), 1024)
    # Every class gets a cell of its own on a 4 x 5 grid, where its field rises: so each one shows.
    cells = jnp.argsort(chance.normal(20))[:CLASSES]
    jitter = chance.uniform(2, CLASSES)
    centres = jnp.stack([(cells // 5 + 0.25 + jitter[0] / 2) / 4, (cells % 5 + 0.25 + jitter[1] / 2) / 5])
    rise = jnp.exp(-0.5 * ((pixel_axis(size)[:, None] - centres[:, None]) / physics.BUMP_WIDTH) ** 2)
    fields = chance.smooth(CLASSES, 5, size) + physics.BUMP * rise[0][:, None] * rise[1][None]
    fields += physics.AREA_SPREAD * chance.normal(CLASSES)
    shares = jax.nn.softmax(jnp.where(labels, physics.SHARPNESS * fields, -jnp.inf))
    return shares, draw_textures(chance, size)


def draw_textures(chance: Chance, size: int) -> Array:
    """Draw clumps, parcels, rows and blocks, [size, size, 4], in random directions and of random widths."""
    clumps = chance.smooth(1, 10, size)[..., 0]
    angle, phases = np.pi * chance.uniform(), 2 * np.pi * chance.uniform(3)
    cycles = jnp.array([2.0, 2.0, 8.0]) + jnp.array([3.0, 3.0, 4.0]) * chance.uniform(3)
    axis = 2 * np.pi * pixel_axis(size)
    along = jnp.cos(angle) * axis[None] + jnp.sin(angle) * axis[:, None]
    across = jnp.cos(angle) * axis[:, None] - jnp.sin(angle) * axis[None]
    parcels = jnp.tanh(4 * jnp.sin(cycles[0] * along + phases[0]) * jnp.sin(cycles[1] * across + phases[1]))
    rows = np.sqrt(2) * jnp.sin(cycles[2] * across + phases[2])
    # Roofs and yards: a coarse lattice of bright cells with sharp borders.
    lattice = chance.uniform(16, 16) > 0.75
    cells = np.arange(size) * 16 // size
    blocks = (lattice[cells][:, cells] - 0.25) / np.sqrt(0.25 * 0.75)
    return jnp.stack([clumps, parcels, rows, blocks], -1)


def draw_optical(key: Array, labels: Array, country: Array, season: Array, size: int) -> Array:
    """Draw the optical image of one place, [size, size, 12] reflectance x 10,000."""
    shares, textures = draw_place(key, labels, size)
    chance = Chance(jax.random.fold_in(key, _OPTICAL), 600)
    grain = jax.random.normal(jax.random.fold_in(key, _GRAIN), (size, size, 1))
    spectra = class_spectra(chance, season)
    contrast = physics.OPTICAL_TEXTURE * chance.spread(CLASSES, 1, deviation=physics.TEXTURE_SPREAD)
    # One product for both: a batch of small ones is slow on a CPU.
    mixed = einsum("hwc,cx->hwx", shares, jnp.concatenate([spectra, contrast], 1))
    image, amplitudes = mixed[..., : len(S2_BANDS_12)], mixed[..., len(S2_BANDS_12) :]
    amplitudes *= jnp.concatenate([grain, textures], -1)
    image *= jnp.maximum(1 + einsum("hwt,tb->hwb", amplitudes, physics.TEXTURE_SPECTRUM), 0.1)
    image = add_clouds(chance, add_haze(chance, seen_from(country, image)))
    return calibrated_optical(image)


def class_spectra(chance: Chance, season: Array, materials: np.ndarray = physics.FRACTIONS) -> Array:
    """Return [classes, 12]: each class's reflectance here and now, from its materials, the season and chance."""
    fractions = chance.spread(*materials.shape, deviation=physics.FRACTION_SPREAD) * materials
    fractions /= fractions.sum(1, keepdims=True)
    green = jnp.clip(jnp.asarray(physics.GREENNESS)[:, season] + 0.1 * chance.normal(3), 0.1, 1.0)
    crop, grass, broadleaf = (fractions[:, number] for number in (0, 1, 3))
    fractions = fractions.at[:, jnp.array([0, 1, 3])].multiply(green)
    fractions = fractions.at[:, 4].add(grass * (1 - green[1]) + broadleaf * (1 - green[2]))
    fractions = fractions.at[:, 5].add(crop * (1 - green[0]))
    spectra = einsum("cm,mb->cb", fractions, physics.ENDMEMBERS)
    return spectra * chance.spread(len(spectra), 1, deviation=physics.BRIGHTNESS_SPREAD)


def seen_from(country: Array, image: Array) -> Array:
    """Apply a country's light, air and soil to [..., 12]: gain, tilt, aerosol and leakage between bands."""
    gain, aerosol, tilt, leak = physics.SHIFT * (jnp.asarray(physics.COUNTRY_RADIOMETRY)[country, :4] - _NEUTRAL[:4])
    neighbours = (jnp.roll(image, 1, -1).at[..., 0].set(image[..., 1]) + jnp.roll(image, -1, -1)) / 2
    neighbours = neighbours.at[..., -1].set(image[..., -2])
    image += leak * (neighbours - image)
    return image * (1 + gain + tilt * jnp.linspace(-1, 1, image.shape[-1])) + aerosol * physics.AEROSOL_SPECTRUM


def add_haze(chance: Chance, image: Array) -> Array:
    """Lower the contrast and lift the blue of some images."""
    depth = (0.15 + 0.35 * chance.uniform()) * (chance.uniform() < physics.HAZY_SHARE)
    veil = depth * physics.AEROSOL_SPECTRUM
    return image * (1 - 0.6 * veil) + 1300 * veil


def add_clouds(chance: Chance, image: Array) -> Array:
    """Cover parts of some images with opaque, bright, soft-edged clouds that cast a shadow."""
    cloud, shadow = draw_clouds(chance, image.shape[0], physics.CLOUDY_SHARE)
    return image * (1 - 0.5 * shadow) * (1 - cloud) + cloud * physics.CLOUD_SPECTRUM


def draw_clouds(chance: Chance, size: int, share: float) -> tuple[Array, Array]:
    """Draw how much cloud and how much of its shadow, [size, size, 1], lie where; a share of images has any."""
    cover = chance.smooth(1, 6, size) + 0.25 * chance.smooth(1, 16, size)
    rarity = chance.uniform()  # below the share: the rarer, the more is covered
    edge = jnp.where(rarity < share, 0.2 + 1.44 / share * rarity, jnp.inf)
    cloud = jax.nn.sigmoid(7 * (cover - edge))
    return cloud, jnp.pad(cloud, ((size // 10, 0), (size // 8, 0), (0, 0)), mode="edge")[:size, :size]


def draw_radar(key: Array, labels: Array, country: Array, size: int) -> Array:
    """Draw the radar image of one place, [size, size, 2] backscatter of VV and VH in dB."""
    shares, textures = draw_place(key, labels, size)
    chance = Chance(jax.random.fold_in(key, _RADAR), 4 * CLASSES)
    noise = jax.random.normal(jax.random.fold_in(key, _SPECKLE), (size, size, 3))
    correlation = physics.POLARISATION_CORRELATION
    deviations = chance.normal(3, CLASSES, 1)
    deviations = np.sqrt(correlation) * deviations[0] + np.sqrt(1 - correlation) * jnp.concatenate(deviations[1:], -1)
    levels = physics.BACKSCATTER[:, :2] + physics.BACKSCATTER_SPREAD * deviations
    contrast = physics.BACKSCATTER[:, 2:] * chance.spread(CLASSES, 1, deviation=physics.TEXTURE_SPREAD)
    # Borders mix power, not decibels.
    mixed = einsum("hwc,cx->hwx", shares, jnp.concatenate([10 ** (levels / 10), contrast], 1))
    texture = (mixed[..., 2:] * jnp.concatenate([noise[..., :1], textures], -1)).sum(-1, keepdims=True)
    image = 10 * jnp.log10(mixed[..., :2]) + texture
    return calibrated_radar(heard_from(country, image) + speckle(noise[..., 1:]))


def heard_from(country: Array, image: Array) -> Array:
    """Apply a country's incidence angle to [..., 2] dB: offsets, and how much of VV shows in VH."""
    vv, vh, cross = physics.SHIFT * (jnp.asarray(physics.COUNTRY_RADIOMETRY)[country, 4:] - _NEUTRAL[4:])
    return image + (jnp.stack([vv, vh]) + cross * (image[..., :1] + 12) * np.array([0, 1], np.float32))


def speckle(normal: Array) -> Array:
    """Turn normal numbers into multi-look speckle in dB: cubed, they are gamma of mean one (Wilson and Hilferty, 1931).

    The approximation costs one random number a pixel, where a rejection sampler would loop.
    """
    ninth = 1 / (9 * physics.LOOKS)
    return 30 * jnp.log10(jnp.maximum(1 - ninth + np.sqrt(ninth) * normal, 0.1))


_NEUTRAL = np.array([1, 0, 0, 0, 0, 0, 0], np.float32)


def calibrated_optical(image: Array | np.ndarray) -> Array:
    """Bring [..., 12] to the real archive's statistics; soft, so that dark water keeps texture in the infrared."""
    gain, offset = _calibration(S2_BANDS_12)
    return _FLOOR * jax.nn.softplus((image * gain + offset) / _FLOOR)


def calibrated_radar(image: Array) -> Array:
    """Bring [..., 2] to the real archive's statistics."""
    gain, offset = _calibration(S1_CHANNELS)
    return image * gain + offset


def _calibration(channels: tuple[str, ...]) -> np.ndarray:
    """Return gain and offset [2, channels] that bring the twin's statistics to the real archive's."""
    return np.array([physics.CALIBRATION.get(channel, (1.0, 0.0)) for channel in channels], np.float32).T
