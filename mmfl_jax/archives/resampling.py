"""Bring images to another size by two small matrix products."""

from __future__ import annotations

import functools

import numpy as np


@functools.cache
def weights(source: int, target: int, method: str) -> np.ndarray:
    """Return the matrix that brings ``source`` pixels to ``target`` pixels of the same extent.

    Args:
        source, target: numbers of pixels along one axis.
        method: ``area`` (mean over the source pixels that a target pixel covers, by overlap), ``bilinear``
            (between pixel centres, the border repeated) or ``nearest``.

    Returns:
        float32 [target, source], rows that sum to one.
    """
    scale = source / target
    pixels = np.arange(source)
    if method == "area":
        first = np.arange(target)[:, None] * scale
        overlap = np.minimum(first + scale, pixels + 1) - np.maximum(first, pixels)
        matrix = np.clip(overlap, 0, None) / scale
    else:
        centres = np.clip((np.arange(target)[:, None] + 0.5) * scale - 0.5, 0, source - 1)
        if method == "nearest":
            matrix = pixels == np.floor(centres + 0.5)
        else:
            matrix = np.clip(1 - np.abs(centres - pixels), 0, None)
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def resize(images: np.ndarray, size: tuple[int, ...], enlarge: str = "bilinear") -> np.ndarray:
    """Bring images to a size: by area average where they shrink, else by ``enlarge``.

    Args:
        images: [..., height, width]; NaN is a missing value, which takes no part in the averages.
        size: (height, width) to bring them to.
        enlarge: ``bilinear`` or ``nearest``.

    Returns:
        float32 [..., *size]; NaN where nothing but missing values was covered.
    """
    whole = images.dtype.kind in "ui"  # numbers among which none is missing
    images = images.astype(np.float32, copy=False)
    if images.shape[-2:] == size:
        return images
    rows, columns = (
        weights(source, target, "area" if target < source else enlarge)
        for source, target in zip(images.shape[-2:], size, strict=True)
    )
    if whole or not (missing := np.isnan(images)).any():
        return rows @ images @ columns.T
    total = rows @ np.where(missing, 0, images) @ columns.T
    present = rows @ (~missing).astype(np.float32) @ columns.T
    return np.where(present > 1e-6, total / np.maximum(present, 1e-6), np.nan).astype(np.float32)
