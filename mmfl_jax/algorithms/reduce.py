"""How the messages of a cohort become one value: sums as they come in, or the whole cohort side by side.

A reduction that sees the cohort stacked holds ``cohort x parameters`` numbers on every device, where a sum holds one
model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
# The messages of all clients that hold the same parameters: ``{field: {name: [clients, ...]}}``.
Stack = dict[str, dict[str, Array]]


def present(weight: Array, x: Array) -> Array:
    """Return ``x [clients, ...]`` with zeros where ``weight [clients]`` is 0: a client left out may hold NaN."""
    return jnp.where((weight > 0).reshape(-1, *[1] * (x.ndim - 1)), x, 0)


def weighted_sum(total: Array, x: Array, weight: Array) -> Array:
    """Return ``total + sum_k weight_k x_k``, float32, of ``x [chunk, ...]``."""
    return total + jnp.tensordot(weight, present(weight, x.astype(jnp.float32)), axes=1, precision="highest")


class Reduce(NamedTuple):
    """Hold the functions of a reduction; the default is the mean, weighted, over those who hold a parameter.

    Attributes:
      add: ``(total, x [chunk, ...], weight [chunk]) -> total``.
      dtype: of the totals.
      read: ``total -> float32``, the weighted sum.
      relative: whether weights are given relative to the largest client's, so that no client's is above 1.
      combine: ``(stack, weight [clients]) -> {field: {name: value}}`` of one block of holders; None to sum.
    """

    add: Callable[[Array, Array, Array], Array] = weighted_sum
    dtype: str = "float32"
    read: Callable[[Array], Array] = lambda total: total
    relative: bool = False
    combine: Callable[[Stack, Array], Stack] | None = None


def by_coordinate(pick: Callable[[Array, Array], Array]) -> Reduce:
    """Return the reduction that takes every coordinate by itself.

    Args:
      pick: ``(values [clients, ...] sorted, those that are there first, number there) -> value``.
    """

    def combine(stack: Stack, weight: Array) -> Stack:
        there = weight > 0

        def one(x: Array) -> Array:
            ordered = jnp.sort(jnp.where(there.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.inf), axis=0)
            return jnp.where(there.any(), pick(ordered, there.sum()), 0)

        return jax.tree.map(one, stack)

    return Reduce(combine=combine)


def fixed_point(bits: int) -> Reduce:
    """Return the weighted sum in integers of ``bits`` fractional bits modulo 2^32, as secure aggregation adds."""
    scale = 2.0**bits

    def add(total: Array, x: Array, weight: Array) -> Array:
        weighted = present(weight, x.astype(jnp.float32)) * weight.reshape(-1, *[1] * (x.ndim - 1))
        return total + encode(weighted, bits).sum(axis=0, dtype=jnp.uint32)

    read = lambda total: jax.lax.bitcast_convert_type(total, jnp.int32).astype(jnp.float32) / scale
    return Reduce(add, "uint32", read, relative=True)


def encode(x: Array, bits: int) -> Array:
    """Return ``x`` in fixed point, uint32 (two's complement); what does not fit is brought to the largest that does."""
    most = 2.0**31 - 2.0**8  # the largest float32 below 2^31, and a little
    whole = jnp.clip(jnp.round(x * 2.0**bits), -most, most).astype(jnp.int32)
    return jax.lax.bitcast_convert_type(whole, jnp.uint32)
