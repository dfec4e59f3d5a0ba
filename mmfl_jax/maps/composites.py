"""Show images to the eye: smaller, true colour of optical bands, false colour of radar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmfl_jax.archives.base import ModalitySpec
from mmfl_jax.maps.bands import plain

_RGB = (("b4", "b3", "b2"), ("red", "green", "blue"), ("r", "g", "b"))
# Places of red, green and blue where Sentinel-2's bands have no names, by their number.
_UNNAMED_S2 = {10: (2, 1, 0), 12: (3, 2, 1), 13: (3, 2, 1)}


class View(NamedTuple):
    """Say what to show of a scene: a modality, the places of its bands to read, and words for them."""

    modality: str
    places: tuple[int, ...]
    words: str


def choose_view(modalities: Mapping[str, ModalitySpec]) -> View:
    """Choose what to show of the modalities that a scene has, at least one: optical ones first."""
    colored = {name: _true_color(name, spec.channels) for name, spec in modalities.items()}
    if found := next((name for name, places in colored.items() if places), None):
        return View(found, colored[found], f"{found}, true colour")
    name, spec = next(iter(modalities.items()))
    if len(spec.channels) == 2:
        first, second = (plain(channel).upper() or f"band {place}" for place, channel in enumerate(spec.channels, 1))
        return View(name, (0, 1), f"{name}, {first} · {second} · their ratio")
    return View(name, (0, 1, 2) if len(spec.channels) > 2 else (0,), name)


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


def composite(bands: np.ndarray) -> np.ndarray:
    """Return what the eye sees, each colour between its percentiles 2 and 98.

    Args:
        bands: [height, width, bands] of three bands, of one in grey, or of radar's two, whose ratio (difference, where
            they are in decibels) is the third colour; NaN for missing values.

    Returns:
        float32 [height, width, 4] from 0 to 1, transparent where nothing is known.
    """
    if bands.shape[-1] == 2:
        bands = np.dstack([bands, _ratio(*np.moveaxis(bands, -1, 0))])
    known = np.isfinite(bands)
    seen = np.zeros((*bands.shape[:2], 4), np.float32)
    seen[..., 3] = known.any(axis=-1)
    for place in range(3):
        band = bands[..., place % bands.shape[-1]]
        if (values := band[np.isfinite(band)]).size:
            low, high = np.percentile(values, (2, 98))
            seen[..., place] = np.clip(np.nan_to_num((band - low) / max(high - low, 1e-12)), 0, 1)
    return seen


def _ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the ratio of radar's bands; of decibels, which lie below zero mostly, their difference."""
    values = first[np.isfinite(first)]
    if not values.size or np.median(values) < 0:
        return first - second
    return np.divide(first, second, out=np.full_like(first, np.nan), where=second > 0)


def _true_color(name: str, channels: Sequence[str]) -> tuple[int, ...]:
    """Return the places of red, green and blue, empty where a modality has none."""
    names = [plain(channel) for channel in channels]
    for wanted in _RGB:
        if set(wanted) <= set(names):
            return tuple(names.index(color) for color in wanted)
    if any(names):
        return ()
    if name.casefold().startswith("s2"):
        return _UNNAMED_S2.get(len(channels), ())
    return (0, 1, 2) if len(channels) == 3 else ()
