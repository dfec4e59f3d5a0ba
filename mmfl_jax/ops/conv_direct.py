"""A convolution and its gradients by the platform's own convolution: plain, canonical and paired forms."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from mmfl_jax.ops.conv_spec import ConvSpec, flip, same_axes


def _dimension_numbers(rank: int) -> lax.ConvDimensionNumbers:
    space = tuple(range(1, rank - 1))
    nhwc = (0, rank - 1, *space)
    return lax.ConvDimensionNumbers(nhwc, (rank - 1, rank - 2, *range(rank - 2)), nhwc)


def _lax(spec: ConvSpec, x: Array, w: Array, **options: Any) -> Array:
    return lax.conv_general_dilated(
        x,
        w,
        spec.strides,
        spec.padding,
        spec.lhs_dilation,
        spec.rhs_dilation,
        _dimension_numbers(x.ndim),
        precision=spec.precision,
        preferred_element_type=spec.dtype,
        **options,
    )


def plain_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """Convolve with ``jax.lax``: the canonical form's forward too."""
    return _lax(spec, x, w, feature_group_count=spec.groups)


def plain_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    """Return the input gradient as JAX derives it."""
    channels = w.shape[-2] * spec.groups
    x = jax.ShapeDtypeStruct((dy.shape[0], *spec.space, channels), w.dtype)
    return _transpose(lambda x: plain_forward(spec, x, w), x, dy)


def plain_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """Return the kernel's gradient as JAX derives it."""
    w = jax.ShapeDtypeStruct((*spec.kernel, x.shape[-1] // spec.groups, dy.shape[-1]), x.dtype)
    return _transpose(lambda w: plain_forward(spec, x, w), w, dy)


def _transpose(linear: Callable[[Array], Array], like: jax.ShapeDtypeStruct, dy: Array) -> Array:
    # jax.vjp at zero, not jax.linear_transpose: the zeros must vary over the same mesh axes as dy.
    zero, _ = same_axes(jnp.zeros(like.shape, like.dtype), dy)
    return jax.vjp(linear, zero)[1](dy)[0]


def canonical_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    """Return the input gradient, a convolution of dy with the flipped kernel, in the order XLA's CPU kernels take."""
    return plain_forward(spec.input_gradient(), dy, flip(w, spec.groups))


def canonical_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """Return the kernel's gradient, a convolution of x with dy, in the order XLA's CPU kernels take."""
    # Channels play the batch, the batch plays the channels, dy plays the kernel.
    dw = _lax(spec.weight_gradient(), jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2), batch_group_count=spec.groups)
    return jnp.moveaxis(dw, 0, -2)


def pairs(spec: ConvSpec) -> bool:
    """Return whether the convolution can compute two neighbours along its last axis as one position."""
    last = spec.strides[-1], spec.lhs_dilation[-1], spec.rhs_dilation[-1]
    return last == (1, 1, 1) and spec.groups == 1 and spec.out_space()[-1] > 1


def paired_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """Convolve with stride 2 along the last axis and a kernel that holds itself twice, one step apart.

    Twice the features at half the positions: a third more products for a kernel of width 3, but few features fill the
    processor's vectors.
    """
    if not pairs(spec):
        return plain_forward(spec, x, w)
    *out, width = spec.out_space()
    lo, hi = spec.padding[-1]
    twice = dataclasses.replace(
        spec,
        kernel=(*spec.kernel[:-1], spec.kernel[-1] + 1),
        strides=(*spec.strides[:-1], 2),
        padding=(*spec.padding[:-1], (lo, hi + width % 2)),
    )
    edge = [(0, 0)] * (w.ndim - 3)
    w = jnp.concatenate([jnp.pad(w, [*edge, side, (0, 0), (0, 0)]) for side in ((0, 1), (1, 0))], -1)
    y = plain_forward(twice, x, w).reshape(x.shape[0], *out, width + width % 2, -1)
    return lax.slice_in_dim(y, 0, width, axis=-2)


def paired_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    """Return the input gradient, a convolution of dy with the flipped kernel, by pairs."""
    return paired_forward(spec.input_gradient(), dy, flip(w, spec.groups))
