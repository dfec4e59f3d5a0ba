"""Scenes of the twin: RGB images of one place with one class each, for scene classification without a real archive.

Each shows a main class and, in half of them, a second one that comes with it in its country; the label is the one that
covers more. Colours are Sentinel-2's B04, B03, B02, stretched. As on the twin, scores say nothing about real images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mmfl_jax.archives.base import Archive, ModalitySpec, choose_modalities
from mmfl_jax.archives.bigearthnet.nomenclature import CLASS_NAMES, S2_BANDS_12, SEASONS
from mmfl_jax.archives.images import DEVIATION, MEAN
from mmfl_jax.archives.twin.drawing import BATCH, draw_batches
from mmfl_jax.archives.twin.images import draw_labels, draw_optical, draw_place
from mmfl_jax.archives.twin.statistics import CLASS_COUNTS, COUNTRIES

# Those of the 19 that red, green and blue tell apart: of the forests, the waters and the mixed agriculture one each.
TOLD_APART = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Marine waters",
)
NUMBERS = np.array([CLASS_NAMES.index(name) for name in TOLD_APART])
RED_GREEN_BLUE = [S2_BANDS_12.index(band) for band in ("B04", "B03", "B02")]
# Reflectance x 10,000 that becomes 255; its square root is shown, or forests and water would be black.
WHITE = 4000.0
# Pixels of a side that the cover is measured on.
COVER_SIZE = 32
_SCENE = 77


class TwinScenes(Archive):
    """Make scenes on the fly; each depends on the seed and its index alone. Classes are equally frequent as mains.

    Args:
        samples: how many.
        modalities: ``rgb``, or all by default.
        image_size: height and width; the same land at coarser or finer pixels.
        seed: of labels and images.
    """

    def __init__(
        self, samples: int = 2000, *, modalities: tuple[str, ...] | None = None, image_size: int = 32, seed: int = 0
    ):
        choose_modalities(modalities, ("rgb",), "the twin's scenes")
        self.name, self.task = "twinscenes", "multiclass"
        self.class_names = tuple(short(name) for name in TOLD_APART)
        mean, std = 255 * MEAN, 255 * DEVIATION
        self.modalities = {"rgb": ModalitySpec((image_size, image_size, 3), ("red", "green", "blue"), mean, std)}
        self._key = jax.random.key(seed, impl="threefry2x32")
        mains = (np.arange(samples) % len(TOLD_APART)).astype(np.int32)
        indices = np.arange(samples)
        self._present, self._countries, self._seasons = self._draw(_scenes, indices, mains, batch=512)
        (covers,) = self._draw(_covers, indices, self._present, batch=BATCH)
        self.labels = covers[:, NUMBERS].argmax(axis=1).astype(np.int32)
        self.attributes = {
            "class": np.array(self.class_names)[self.labels],
            "country": np.array(COUNTRIES)[self._countries],
            "season": np.array(SEASONS)[self._seasons],
            "patch_id": np.array([f"TWINSCENE_{seed}_{index}" for index in range(samples)]),
        }
        self.splits = None
        self.notes = {"seed": seed}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Draw the images, ``BATCH`` at a time; values are whole numbers from 0 to 255."""
        indices, shape = self.checked(modality, indices), self.modalities[modality].shape
        if not len(indices):
            return np.empty((0, *shape), np.float32)
        columns = self._present[indices], self._countries[indices], self._seasons[indices]
        return self._draw(_images(shape[0]), indices, *columns, batch=BATCH)[0]

    def _draw(self, draw: Callable, indices: np.ndarray, *columns: np.ndarray, batch: int) -> tuple[np.ndarray, ...]:
        return draw_batches(functools.partial(draw, self._key), (indices.astype(np.int32), *columns), batch)


def short(name: str) -> str:
    """Return the first of the things that a class is named after, in lower case: a text of few tokens."""
    return name.split(",")[0].split(" and ")[0].lower()


@jax.jit
def _scenes(key: Array, indices: Array, mains: Array) -> tuple[Array, ...]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return jax.vmap(draw_scene)(keys, mains)


@jax.jit
def _covers(key: Array, indices: Array, present: Array) -> tuple[Array]:
    """Return ``[n, 19]``, the share of the scene that each class covers."""

    def one(index: Array, present: Array) -> Array:
        shares, _ = draw_place(jax.random.fold_in(key, index), present, COVER_SIZE)
        return shares.mean((0, 1))

    return (jax.vmap(one)(indices, present),)


def draw_scene(key: Array, main: Array) -> tuple[Array, Array, Array]:
    """Draw what one scene shows and where and when it lies.

    Args:
        key: of the sample.
        main: int, index in ``TOLD_APART``.

    Returns:
        bool [19], the one or two classes there are; int country, by the class's real patches; int season.
    """
    main_key, country_key, other_key = jax.random.split(jax.random.fold_in(key, _SCENE), 3)
    main = jnp.asarray(NUMBERS)[main]
    country = jax.random.categorical(country_key, jnp.log(jnp.asarray(CLASS_COUNTS, jnp.float32))[main])
    there, season = draw_labels(main_key, country)
    known = jnp.zeros(len(CLASS_NAMES), bool).at[NUMBERS].set(True)
    others = (there & known).at[main].set(False)
    alone_key, which_key = jax.random.split(other_key)
    second = jax.random.categorical(which_key, jnp.where(others, 0.0, -jnp.inf))
    joined = others.any() & jax.random.bernoulli(alone_key)
    present = jnp.zeros(len(CLASS_NAMES), bool).at[second].set(joined).at[main].set(True)
    return present, country, season


@functools.cache
def _images(size: int) -> Callable[..., tuple[Array]]:
    """Return the compiled function that draws a batch of images of one size."""

    def one(key: Array, present: Array, country: Array, season: Array) -> Array:
        reflectance = draw_optical(key, present, country, season, size)[..., RED_GREEN_BLUE]
        return jnp.round(255 * jnp.sqrt(jnp.clip(reflectance / WHITE, 0, 1)))

    @jax.jit
    def many(key: Array, indices: Array, *columns: Array) -> tuple[Array]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        return (jax.vmap(one)(keys, *columns),)

    return many
