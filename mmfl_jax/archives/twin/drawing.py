"""Draw many samples at once: in batches of one size, from numbers of chance, as smooth fields."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

BATCH = 64
"""Samples made at once: one size, so one compilation a modality."""


def draw_batches(
    draw: Callable[..., tuple[Array, ...]], columns: tuple[np.ndarray, ...], batch: int
) -> tuple[np.ndarray, ...]:
    """Call ``draw`` on batches of one fixed size, the last filled up with repeats, and join what it returns.

    Args:
        draw: takes a batch of every column.
        columns: each ``[n, ...]``.
        batch: rows drawn at once: one size, so one compilation.
    """
    rows = len(columns[0])

    def part(start: int) -> tuple[np.ndarray, ...]:
        places = np.minimum(np.arange(start, start + batch), rows - 1)
        return jax.device_get(draw(*(column[places] for column in columns)))

    # One batch keeps about one core busy. The first goes ahead, so that threads do not compile at the same time.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        parts = [part(0), *pool.map(part, range(batch, rows, batch))]
    return tuple(np.concatenate(pieces)[:rows] for pieces in zip(*parts, strict=True))


class Chance:
    """Hand out normal and uniform numbers of one draw: far less to compile than a draw for every use."""

    def __init__(self, key: Array, count: int):
        self._numbers, self._used = jax.random.normal(key, (count,)), 0

    def normal(self, *shape: int) -> Array:
        """Return the next numbers, of mean 0 and standard deviation 1."""
        return self._next(self._numbers, shape)

    def uniform(self, *shape: int) -> Array:
        """Return the next numbers, between 0 and 1."""
        return jax.scipy.special.ndtr(self.normal(*shape))

    def _next(self, numbers: Array, shape: tuple[int, ...]) -> Array:
        start, self._used = self._used, self._used + math.prod(shape)
        assert self._used <= len(numbers), "more numbers are used than were drawn"
        return numbers[start : self._used].reshape(shape)

    def spread(self, *shape: int, deviation: float) -> Array:
        """Return the next factors, whose logarithms have this standard deviation."""
        return jnp.exp(deviation * self.normal(*shape))

    def smooth(self, count: int, knots: int, size: int) -> Array:
        """Return smooth fields [size, size, count] of unit variance, splines of ``knots`` x ``knots`` numbers."""
        return einsum("hi,ijc,wj->hwc", spline(knots, size), self.normal(knots, knots, count), spline(knots, size))


class FlatChance(Chance):
    """The same with uniform numbers drawn apart, which compiles sooner where many are used in many places."""

    def __init__(self, key: Array, count: int):
        super().__init__(key, count)
        self._flat = jax.random.uniform(jax.random.fold_in(key, 1), (count,))

    def uniform(self, *shape: int) -> Array:
        """Return the next numbers, between 0 and 1."""
        return self._next(self._flat, shape)


def pixel_axis(size: int) -> np.ndarray:
    """Return the pixels' centres in a patch of width one."""
    return ((np.arange(size) + 0.5) / size).astype(np.float32)


def spline(knots: int, size: int) -> np.ndarray:
    """Return [size, knots] weights of a cubic B-spline, scaled such that normal knots give unit variance."""
    distance = np.abs(pixel_axis(size)[:, None] * (knots - 1) - np.arange(knots))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return (weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32)


def einsum(formula: str, *arrays: Array | np.ndarray) -> Array:
    """Multiply in float32: accelerators would else take fewer bits, and draw another image than a CPU."""
    return jnp.einsum(formula, *arrays, precision="highest")
