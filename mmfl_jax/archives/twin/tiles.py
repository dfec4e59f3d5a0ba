"""Tiles of the twin: land cover by pixel, made on the fly from a seed, for a map without a real archive.

Fields, woods, waters and towns lie as regions, and radar and optical images show the same land (``land``, ``views``);
what confuses each sensor is told in ``surfaces``. As on the twin, scores say nothing about real images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mmfl_jax.archives.base import Archive, ModalitySpec, choose_modalities
from mmfl_jax.archives.bigearthnet.nomenclature import S1_CHANNELS, S2_BANDS_10, S2_BANDS_12, SEASONS
from mmfl_jax.archives.twin.drawing import BATCH, draw_batches
from mmfl_jax.archives.twin.land import Land, draw_land, labels_of
from mmfl_jax.archives.twin.owners import countries_and_ranks, splits
from mmfl_jax.archives.twin.statistics import COUNTRIES, COUNTRY_SIZES, SEASON_COUNTS
from mmfl_jax.archives.twin.surfaces import CLASSES, STATISTICS
from mmfl_jax.archives.twin.views import blurred, draw_optical, draw_radar
from mmfl_jax.errors import UserError

SMALLEST = 16
_TILE = 78


class TwinTiles(Archive):
    """Make tiles on the fly; each depends on the seed and its index alone, so a larger archive begins with a smaller.

    Args:
        samples: how many.
        modalities: of ``s1`` and ``s2``, in which order; both by default.
        image_size: height and width, 16 at least; the same land at coarser or finer pixels.
        bands: of Sentinel-2: 10 or 12.
        seed: of land and images. Countries and splits are the same for every seed.

    Raises:
        UserError: an unknown modality, or pixels too coarse to show streets and rivers.
    """

    def __init__(
        self,
        samples: int = 2000,
        *,
        modalities: tuple[str, ...] | None = None,
        image_size: int = 64,
        bands: int = 10,
        seed: int = 0,
    ):
        if image_size < SMALLEST:
            raise UserError(f"image_size {image_size}: tiles of the twin have at least {SMALLEST} pixels a side")
        self.name, self.task, self.class_names = "twintiles", "pixel", tuple(CLASSES)
        self.class_colors = tuple(CLASSES.values())
        chosen = choose_modalities(modalities, ("s1", "s2"), "the twin's tiles")
        self.modalities = {name: _specify(name, image_size, bands) for name in chosen}
        self._size, self._key = image_size, jax.random.key(seed, impl="threefry2x32")
        self._countries, rank = countries_and_ranks(samples)
        columns = np.arange(samples, dtype=np.int32), self._countries
        (self._seasons,) = draw_batches(functools.partial(_seasons, self._key), columns, batch=4096)
        (labels,) = self._draw(lambda land, *_: _mapped(land)[1:], np.arange(samples))
        self.labels = labels.astype(np.int64)
        self.attributes = {
            "country": np.array(COUNTRIES)[self._countries],
            "season": np.array(SEASONS)[self._seasons],
            "patch_id": np.array([f"TWINTILE_{seed}_{index}" for index in range(samples)]),
        }
        self.splits = splits(rank, self._countries)
        self.notes = {"seed": seed}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Draw the images of the samples, in batches."""
        indices, spec = self.checked(modality, indices), self.modalities[modality]
        bands = tuple(S2_BANDS_12.index(band) for band in spec.channels) if modality == "s2" else ()

        def images(land: Land, *batch: Array) -> tuple[Array]:
            key, indices, countries, seasons = batch
            if modality == "s1":
                return (_radar(land, key, indices, countries),)
            return (_blurred(_optical(bands, land, key, indices, countries, seasons)),)

        return self._draw(images, indices)[0] if len(indices) else np.empty((0, *spec.shape), np.float32)

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Draw the maps of the samples, in batches."""
        indices = self.checked(next(iter(self.modalities)), indices)
        if not len(indices):
            return np.empty((0, self._size, self._size), np.uint8)
        return self._draw(lambda land, *_: _mapped(land)[:1], indices)[0]

    def _draw(self, view: Callable[..., tuple[Array, ...]], indices: np.ndarray) -> tuple[np.ndarray, ...]:
        def draw(*batch: np.ndarray) -> tuple[Array, ...]:
            return view(_lands(self._size, self._key, *batch), self._key, *batch)

        columns = indices.astype(np.int32), self._countries[indices], self._seasons[indices]
        # Fewer at once where tiles are large, so that a batch takes no more memory.
        return draw_batches(draw, columns, max(1, min(BATCH, BATCH * 64**2 // self._size**2)))


def _specify(modality: str, image_size: int, bands: int) -> ModalitySpec:
    channels = S1_CHANNELS if modality == "s1" else S2_BANDS_10 if bands == 10 else S2_BANDS_12
    mean, std = np.array([STATISTICS[channel] for channel in channels], np.float32).T
    return ModalitySpec((image_size, image_size, len(channels)), channels, mean, std)


# Land, view and blur are compiled apart: in one program XLA would compute all of the land again for every band.
@functools.partial(jax.jit, static_argnums=0)
def _lands(size: int, key: Array, indices: Array, countries: Array, seasons: Array) -> Land:
    return jax.vmap(functools.partial(draw_land, size=size))(_tile_keys(key, indices), countries, seasons)


@jax.jit
def _mapped(land: Land) -> tuple[Array, Array]:
    """Return uint8 [n, size, size] maps and int32 [n, classes] numbers of pixels."""
    labels = labels_of(land)
    return labels, jnp.stack([(labels == number).sum((1, 2)) for number in range(len(CLASSES))], -1)


@jax.jit
def _radar(land: Land, key: Array, indices: Array, countries: Array) -> Array:
    return jax.vmap(draw_radar)(land, _tile_keys(key, indices), countries)


@functools.partial(jax.jit, static_argnums=0)
def _optical(bands: tuple[int, ...], land: Land, key: Array, indices: Array, countries: Array, seasons: Array) -> Array:
    draw = functools.partial(draw_optical, bands=np.array(bands))
    return jax.vmap(draw)(land, _tile_keys(key, indices), countries, seasons)


_blurred = jax.jit(jax.vmap(blurred))


@jax.jit
def _seasons(key: Array, indices: Array, countries: Array) -> tuple[Array]:
    """Return int32 [n] seasons, as frequent as they are in the real archive's countries."""
    chances = jnp.log(jnp.asarray(SEASON_COUNTS / COUNTRY_SIZES[:, None], jnp.float32))[countries]
    return (jax.vmap(jax.random.categorical)(_tile_keys(key, indices), chances),)


def _tile_keys(key: Array, indices: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, _TILE), indices)
