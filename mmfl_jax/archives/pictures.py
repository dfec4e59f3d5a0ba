"""Pictures of images of any sensor: three colours that people can look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Names of red, green and blue bands: Sentinel-2's, and those of others.
_COLORS = (("B04", "B4", "red", "r"), ("B03", "B3", "green", "g"), ("B02", "B2", "blue", "b"))


def color_channels(channels: Sequence[str]) -> tuple[int, int, int] | None:
    """Return the places of red, green and blue among channel names; None where they are not all there."""
    names = [name.strip().lower() for name in channels]
    found = [next((names.index(n.lower()) for n in known if n.lower() in names), None) for known in _COLORS]
    if None in found:
        return None
    red, green, blue = (int(place) for place in found if place is not None)
    return red, green, blue


def picture(images: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """Return uint8 ``[..., height, width, 3]`` of images ``[..., height, width, channels]``.

    True colours where the channels have them; else the first channels, one as grey, two with their difference (what is
    usual for radar). The stretch is that of all images together, and clouds may be beyond it; missing values are white.
    """
    chosen = color_channels(channels)
    images = np.asarray(images, np.float32)
    if chosen is not None:
        shown = images[..., list(chosen)]
    elif images.shape[-1] == 2:
        shown = np.concatenate([images, images[..., :1] - images[..., 1:]], axis=-1)
    else:
        shown = images[..., :3] if images.shape[-1] >= 3 else np.repeat(images[..., :1], 3, axis=-1)
    flat = shown.reshape(-1, 3)
    known = np.isfinite(flat).all(axis=1)
    if not known.any():
        return np.full(shown.shape, 255, np.uint8)
    low, high = np.percentile(flat[known], (2, 98 if chosen is None else 92), axis=0)
    if chosen is not None:  # one stretch for all three, or the colours would not be true
        low, high = np.full(3, low.min()), np.full(3, high.max())
    stretched = np.clip((shown - low) / np.maximum(high - low, 1e-6), 0, 1)
    # Land reflects little: without the root most of it would be nearly black.
    stretched = stretched if chosen is None else stretched**0.7
    return np.where(np.isfinite(shown), 255 * stretched, 255).astype(np.uint8)
