"""Choose what to show of a scene beside its map, and gather it while the scene is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mmfl_jax.archives.base import ModalitySpec
from mmfl_jax.archives.pictures import plain, shown_bands, true_color


class View(NamedTuple):
    """Say what to show of a scene: a modality, places of its bands, words for them, whether their colours are true."""

    modality: str
    places: tuple[int, ...]
    words: str
    true: bool = False


def choose_view(modalities: Mapping[str, ModalitySpec]) -> View:
    """Choose what to show of the modalities that a scene has, at least one: optical ones first."""
    colored = (name for name, spec in modalities.items() if true_color(name, spec.channels))
    name = next(colored, next(iter(modalities)))
    spec = modalities[name]
    places = shown_bands(name, spec.channels)
    if true_color(name, spec.channels):
        return View(name, places, f"{name}, true colour", true=True)
    if len(spec.channels) == 2:
        first, second = (plain(channel).upper() or f"band {place}" for place, channel in enumerate(spec.channels, 1))
        return View(name, places, f"{name}, {first} · {second} · their ratio")
    return View(name, places, name)


class Thumbnail:
    """Gather a small image from the parts of a large one: means of squares of pixels.

    Args:
        shape: (height, width) of the large one.
        view: says which bands to keep.
        most: pixels of the longer side.
    """

    def __init__(self, shape: tuple[int, int], view: View, most: int):
        self.view, self._step = view, math.ceil(max(shape) / most)
        small = (math.ceil(shape[0] / self._step), math.ceil(shape[1] / self._step))
        self._sums = np.zeros((*small, len(view.places)), np.float32)
        self._counts = np.zeros_like(self._sums)

    def add(self, rows: slice, columns: slice, values: np.ndarray) -> None:
        """Add [rows, columns, bands] at their place; what comes twice counts twice in its mean."""
        kept = values[..., list(self.view.places)]
        known = np.isfinite(kept)
        for total, part in ((self._sums, np.where(known, kept, 0)), (self._counts, known.astype(np.float32))):
            for axis, span in enumerate((rows, columns)):
                squares = np.arange(span.start, span.stop) // self._step
                part = np.add.reduceat(part, np.flatnonzero(np.diff(squares, prepend=-1)), axis=axis)
            top, left = rows.start // self._step, columns.start // self._step
            total[top : top + part.shape[0], left : left + part.shape[1]] += part

    @property
    def image(self) -> np.ndarray:
        """Return float32 [height, width, bands], NaN where nothing is known."""
        return np.divide(self._sums, self._counts, out=np.full_like(self._sums, np.nan), where=self._counts > 0)
