"""The twin: a synthetic BigEarthNet-MM, made on the fly from a seed.

It stands in for the real archive where that is not at hand: ten countries with their real relative sizes, class
frequencies and seasons, the 19 classes, Sentinel-1 and Sentinel-2 images of the real archive's size, means and
standard deviations. What it shows is stylised (``physics``); scores on it say nothing about real images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax import Array

from mmfl_jax.archives.base import Archive, choose_modalities
from mmfl_jax.archives.bigearthnet.nomenclature import CLASS_NAMES, S1_CHANNELS, S2_BANDS_12, SEASONS, specify
from mmfl_jax.archives.twin.drawing import BATCH, draw_batches
from mmfl_jax.archives.twin.images import draw_labels, draw_optical, draw_radar
from mmfl_jax.archives.twin.owners import countries_and_ranks, splits
from mmfl_jax.archives.twin.statistics import COUNTRIES

_SEASON_MONTHS = ("01", "04", "07", "10")

#: Some 8,200 of them train, and 4,100 test. A quarter of them starve every method alike.
SAMPLES = 16_500


class Twin(Archive):
    """Make samples on the fly; each depends on the seed and its index alone, so a larger twin begins with a smaller.

    Args:
        samples: how many.
        modalities: of ``s1`` and ``s2``, in which order; both by default.
        image_size: height and width; the same land at coarser or finer pixels.
        bands: of Sentinel-2: 10 or 12.
        seed: of labels and images. Countries and splits are the same for every seed.
    """

    def __init__(
        self,
        samples: int = SAMPLES,
        *,
        modalities: tuple[str, ...] | None = None,
        image_size: int = 120,
        bands: int = 10,
        seed: int = 0,
    ):
        self.name, self.task, self.class_names = "twin", "multilabel", CLASS_NAMES
        chosen = choose_modalities(modalities, ("s1", "s2"), "the twin")
        self.modalities = {name: specify(name, image_size, bands) for name in chosen}
        self._key = jax.random.key(seed, impl="threefry2x32")
        self._countries, rank = countries_and_ranks(samples)
        self.labels, self._seasons = self._draw(_labels, np.arange(samples), batch=4096)
        self.labels = self.labels.astype(np.uint8)
        self.attributes = {
            "country": np.array(COUNTRIES)[self._countries],
            "season": np.array(SEASONS)[self._seasons],
            "patch_id": np.array(
                [f"TWIN_{seed}_2017{_SEASON_MONTHS[season]}15_{index}" for index, season in enumerate(self._seasons)]
            ),
        }
        self.splits = splits(rank, self._countries)
        self.notes = {"seed": seed}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Draw the images of the samples, ``BATCH`` at a time."""
        indices, shape = self.checked(modality, indices), self.modalities[modality].shape
        if not len(indices):
            return np.empty((0, *shape), np.float32)
        draw = _image(modality, shape[0])
        (images,) = self._draw(draw, indices, self.labels[indices], self._seasons[indices], batch=BATCH)
        known, wanted = S1_CHANNELS if modality == "s1" else S2_BANDS_12, self.modalities[modality].channels
        return images if known == wanted else images[..., [known.index(channel) for channel in wanted]]

    def _draw(self, draw: Callable, indices: np.ndarray, *columns: np.ndarray, batch: int) -> tuple[np.ndarray, ...]:
        columns = (indices.astype(np.int32), self._countries[indices], *columns)
        return draw_batches(functools.partial(draw, self._key), columns, batch)


@jax.jit
def _labels(key: Array, indices: Array, countries: Array) -> tuple[Array, Array]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return jax.vmap(draw_labels)(keys, countries)


@functools.cache
def _image(modality: str, size: int) -> Callable[..., tuple[Array]]:
    """Return the compiled function that draws a batch of images of one modality and size."""

    def one(key: Array, country: Array, labels: Array, season: Array) -> Array:
        labels = labels.astype(bool)
        if modality == "s1":
            return draw_radar(key, labels, country, size)
        return draw_optical(key, labels, country, season, size)

    @jax.jit
    def many(key: Array, indices: Array, countries: Array, labels: Array, seasons: Array) -> tuple[Array]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        return (jax.vmap(one)(keys, countries, labels, seasons),)

    return many
