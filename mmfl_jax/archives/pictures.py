"""Pictures of images of any sensor: three colours that people can look at."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_RGB = (("b4", "b3", "b2"), ("red", "green", "blue"), ("r", "g", "b"))
# Places of red, green and blue where Sentinel-2's bands have no names, by their number.
_UNNAMED_S2 = {10: (2, 1, 0), 12: (3, 2, 1), 13: (3, 2, 1)}
# How many times as bright as half of an image clouds are; a tenth of clouds would leave land nearly black.
_CLOUDS = 3.5
# What writers call bands that have no name.
_NUMBERED = re.compile(r"((band|channel|layer)s?)?[ _-]*\d*")
_SENTINEL = re.compile(r"b0*(\d+a?)")


def plain(name: str | None) -> str:
    """Return a band's name as all write it (B2 and b02 are one band), empty where it says nothing but a number."""
    text = (name or "").strip().casefold()
    if _NUMBERED.fullmatch(text):
        return ""
    sentinel = _SENTINEL.fullmatch(text)
    return f"b{sentinel[1]}" if sentinel else text


def true_color(modality: str, channels: Sequence[str]) -> tuple[int, ...]:
    """Return the places of red, green and blue, empty where a modality has none."""
    names = [plain(channel) for channel in channels]
    for wanted in _RGB:
        if set(wanted) <= set(names):
            return tuple(names.index(color) for color in wanted)
    if any(names):
        return ()
    if modality.casefold().startswith("s2"):
        return _UNNAMED_S2.get(len(channels), ())
    return (0, 1, 2) if len(channels) == 3 else ()


def shown_bands(modality: str, channels: Sequence[str]) -> tuple[int, ...]:
    """Return the places of the bands to show: true colours, else the first three, both of two, or the only one."""
    return true_color(modality, channels) or (tuple(range(len(channels))) if len(channels) <= 2 else (0, 1, 2))


def composite(bands: np.ndarray, true: bool) -> np.ndarray:
    """Return what the eye sees; the stretch is that of all pixels together.

    Args:
        bands: [..., bands] of three bands, of one in grey, or of radar's two, whose ratio (difference, where they are
            in decibels) is the third colour; NaN for missing values.
        true: whether they are red, green and blue: one stretch for all three then, up to what is brighter than land,
            and a root, as land reflects little. Else each lies between its percentiles 2 and 98.

    Returns:
        float32 [..., 4] from 0 to 1, transparent where a band is unknown.
    """
    bands = np.asarray(bands, np.float32)
    if bands.shape[-1] == 2:
        bands = np.concatenate([bands, _ratio(bands[..., :1], bands[..., 1:])], axis=-1)
    bands = np.broadcast_to(bands, (*bands.shape[:-1], 3))
    known = np.isfinite(bands).all(axis=-1)
    seen = np.zeros((*known.shape, 4), np.float32)
    if not known.any():
        return seen
    low, middle, most, high = np.percentile(bands[known], (2, 50, 75, 98), axis=0)
    if true:
        low = low.min()
        high = np.clip(low + _CLOUDS * (middle.max() - low), most.max(), high.max())
    stretched = np.clip((np.where(known[..., None], bands, 0) - low) / np.maximum(high - low, 1e-12), 0, 1)
    seen[..., :3] = np.where(known[..., None], stretched**0.7 if true else stretched, 0)
    seen[..., 3] = known
    return seen


def picture(images: np.ndarray, modality: str, channels: Sequence[str]) -> np.ndarray:
    """Return uint8 ``[samples, height, width, 3]`` of images ``[samples, height, width, channels]``.

    True colours are stretched image by image, or one of snow would leave all others black; else the stretch is that of
    all together, as radar's brightness can be compared. Missing values are white.
    """
    bands, true = images[..., list(shown_bands(modality, channels))], bool(true_color(modality, channels))
    seen = np.stack([composite(image, true) for image in bands]) if true else composite(bands, true)
    return (255 * np.where(seen[..., 3:] > 0, seen[..., :3], 1)).astype(np.uint8)


def _ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the ratio of radar's bands; of decibels, which lie below zero mostly, their difference."""
    values = first[np.isfinite(first)]
    if not values.size or np.median(values) < 0:
        return first - second
    return np.divide(first, second, out=np.full_like(first, np.nan), where=second > 0)
