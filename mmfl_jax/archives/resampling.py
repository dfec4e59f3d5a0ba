"""Bring images to another size by two small matrix products."""

from __future__ import annotations

import functools
import threading

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


def resize(
    images: np.ndarray, size: tuple[int, ...], enlarge: str = "bilinear", out: np.ndarray | None = None
) -> np.ndarray:
    """Bring images to a size: by area average where they shrink, else by ``enlarge``.

    Args:
        images: [..., height, width]; NaN is a missing value, which takes no part in the averages.
        size: (height, width) to bring them to.
        enlarge: ``bilinear`` or ``nearest``.
        out: float32 [..., *size] to write into; a new array by default.

    Returns:
        float32 [..., *size]; NaN where nothing but missing values was covered.
    """
    if out is None:
        out = np.empty((*images.shape[:-2], *size), np.float32)
    if images.shape[-2:] == size:
        out[...] = images
        return out
    if enlarge == "nearest" and all(target > source for source, target in zip(images.shape[-2:], size, strict=True)):
        rows, columns = (weights(*pair, enlarge).argmax(1) for pair in zip(images.shape[-2:], size, strict=True))
        out[...] = images.take(columns, -1).take(rows, -2)
        return out
    # Whole numbers have none that is missing.
    missing = None if images.dtype.kind in "ui" else np.isnan(images)
    any_missing = missing is not None and missing.any()
    if enlarge == "bilinear" and not any_missing and size == (2 * images.shape[-2], 2 * images.shape[-1]):
        _double(images, out)
        return out
    images = images.astype(np.float32, copy=False)
    rows, columns = (
        weights(source, target, "area" if target < source else enlarge)
        for source, target in zip(images.shape[-2:], size, strict=True)
    )
    if missing is None or not any_missing:
        return np.matmul(rows @ images, columns.T, out=out)
    total = rows @ np.where(missing, 0, images) @ columns.T
    present = rows @ (~missing).astype(np.float32) @ columns.T
    out[...] = np.where(present > 1e-6, total / np.maximum(present, 1e-6), np.nan)
    return out


def _double(images: np.ndarray, out: np.ndarray) -> None:
    """Bring images to twice their size between pixel centres, as the products do, without most of their work."""
    *many, height, width = images.shape
    wide = _work("wide", (*many, height, 2 * width))
    _between(images, wide.swapaxes(-1, -2), swap=True)
    _between(wide, out)


def _between(images: np.ndarray, out: np.ndarray, swap: bool = False) -> None:
    """Write rows between the rows of ``images``, [..., rows, columns], or columns between its columns."""
    near, far = _work("near", images.shape), _work("far", images.shape)
    np.multiply(images, np.float32(0.75), out=near, dtype=np.float32)
    np.multiply(images, np.float32(0.25), out=far, dtype=np.float32)
    if swap:
        images, near, far = images.swapaxes(-1, -2), near.swapaxes(-1, -2), far.swapaxes(-1, -2)
    above, below = out[..., 0::2, :], out[..., 1::2, :]
    np.add(near[..., 1:, :], far[..., :-1, :], out=above[..., 1:, :])
    np.add(near[..., :-1, :], far[..., 1:, :], out=below[..., :-1, :])
    above[..., 0, :], below[..., -1, :] = images[..., 0, :], images[..., -1, :]


_kept = threading.local()


def _work(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return memory of this thread that is used again: touching new memory takes longer than the arithmetic."""
    arrays = _kept.__dict__.setdefault(name, {})
    if shape not in arrays:
        if len(arrays) > 8:
            arrays.clear()
        arrays[shape] = np.empty(shape, np.float32)
    return arrays[shape]
