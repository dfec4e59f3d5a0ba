"""Show images to the eye: true colour of optical bands, false colour of radar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmfl_jax.archives.base import ModalitySpec
from mmfl_jax.maps.bands import plain

_RGB = (("b4", "b3", "b2"), ("red", "green", "blue"), ("r", "g", "b"))
# Places of red, green and blue where Sentinel-2's bands have no names, by their number.
_UNNAMED_S2 = {10: (2, 1, 0), 12: (3, 2, 1), 13: (3, 2, 1)}


def choose_view(modalities: Mapping[str, ModalitySpec]) -> tuple[str, tuple[int, ...], str]:
    """Return which modality to show, the places of its bands to read, and words for it; optical ones first.

    Args:
        modalities: that a scene has, at least one.
    """
    colored = {name: _true_color(name, spec.channels) for name, spec in modalities.items()}
    if found := next((name for name, places in colored.items() if places), None):
        return found, colored[found], f"{found}, true colour"
    name, spec = next(iter(modalities.items()))
    if len(spec.channels) == 2:
        first, second = (plain(channel).upper() or f"band {place}" for place, channel in enumerate(spec.channels, 1))
        return name, (0, 1), f"{name}, {first} · {second} · their ratio"
    return name, (0, 1, 2) if len(spec.channels) > 2 else (0,), name


def composite(bands: np.ndarray) -> np.ndarray:
    """Return what the eye sees, each colour between its percentiles 2 and 98.

    Args:
        bands: [height, width, bands] of three bands, of one in grey, or of radar's two, whose ratio (difference, where
            they are in decibels) is the third colour; NaN for missing values.

    Returns:
        float32 [height, width, 4] from 0 to 1, transparent where nothing is known.
    """
    if bands.shape[-1] == 2:
        first, second = np.moveaxis(bands, -1, 0)
        decibels = not (np.nan_to_num(bands) > 0).mean() > 0.5
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = first - second if decibels else first / second
        bands = np.dstack([first, second, np.where(np.isfinite(ratio), ratio, np.nan)])
    known = np.isfinite(bands).any(axis=-1)
    seen = np.zeros((*bands.shape[:2], 4), np.float32)
    seen[..., 3] = known
    if known.any():
        low, high = np.nanpercentile(bands[known], (2, 98), axis=0)
        seen[..., :3] = np.clip(np.nan_to_num((bands - low) / np.maximum(high - low, 1e-12)), 0, 1)
    return seen


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
