"""A convolution and its gradients by matrix products: im2col and rows."""

import dataclasses
import itertools
import math

import jax.numpy as jnp
from jax import Array, lax

from mmfl_jax.ops.conv_direct import canonical_weight
from mmfl_jax.ops.conv_spec import ConvSpec, flip, same_axes

# Pixels in a block of ``rows``: its operands fill a good part of a core's second-level cache (measured: 120 to 480).
_BLOCK_PIXELS = 240


def columns(spec: ConvSpec, x: Array) -> Array:
    """Return the shifted slices of x side by side, ``[batch, *out, taps, channels]``, taps in kernel order."""
    edges = [(lo, hi, d - 1) for (lo, hi), d in zip(spec.padding, spec.lhs_dilation)]
    if any(edge != (0, 0, 0) for edge in edges):
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    spans = spec.out_spread()
    slices = []
    for tap in itertools.product(*map(range, spec.kernel)):
        start = [t * d for t, d in zip(tap, spec.rhs_dilation)]
        stop = [a + n for a, n in zip(start, spans)]
        slices.append(lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *spec.strides, 1)))
    cols = slices[0] if len(slices) == 1 else jnp.concatenate(slices, -1)
    return cols.reshape(*cols.shape[:-1], len(slices), x.shape[-1])


def _matmul(spec: ConvSpec, equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, precision=spec.precision, preferred_element_type=spec.dtype)


def im2col_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """Convolve by one product of the columns with the kernel."""
    cols = columns(spec, x)
    *rows, taps, channels = cols.shape
    if spec.groups == 1:
        y = _matmul(spec, "mk,ko->mo", cols.reshape(-1, taps * channels), w.reshape(taps * channels, -1))
    else:
        cols = cols.reshape(-1, taps, spec.groups, channels // spec.groups)
        w = w.reshape(taps, channels // spec.groups, spec.groups, -1)
        y = _matmul(spec, "mtgc,tcgo->mgo", cols, w)
    return y.reshape(*rows, -1)


def im2col_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """Return the kernel's gradient: one product of the columns with dy."""
    cols = columns(spec, x)
    taps, channels = cols.shape[-2:]
    spec = dataclasses.replace(spec, dtype=None)
    if spec.groups == 1:
        dw = _matmul(spec, "mk,mo->ko", cols.reshape(-1, taps * channels), dy.reshape(-1, dy.shape[-1]))
    else:
        cols = cols.reshape(-1, taps, spec.groups, channels // spec.groups)
        dy = dy.reshape(cols.shape[0], spec.groups, -1)
        dw = _matmul(spec, "mtgc,mgo->tcgo", cols, dy)
    return dw.reshape(*spec.kernel, channels // spec.groups, -1)


def im2col_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    """Return the input gradient by one product, also with strides."""
    if all(s == 1 for s in spec.strides):
        return im2col_forward(spec.input_gradient(), dy, flip(w, spec.groups))
    simple = spec.groups == 1 and set(spec.lhs_dilation) == set(spec.rhs_dilation) == {1}
    if simple and all(k > 1 for k in spec.kernel):
        return _phases(spec, dy, w)
    turned = spec.input_gradient()
    if simple and set(spec.kernel) == {1}:  # matmul first, zeros after
        y = dy.reshape(-1, dy.shape[-1]) @ flip(w, 1).reshape(dy.shape[-1], -1)
        y = y.reshape(*dy.shape[:-1], -1)
        edges = [(lo, hi, d - 1) for (lo, hi), d in zip(turned.padding, turned.lhs_dilation)]
        return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return im2col_forward(turned, dy, flip(w, spec.groups))


def _phases(spec: ConvSpec, dy: Array, w: Array) -> Array:
    """Compute all stride x stride phases of the input gradient in one matmul, then interleave them.

    Input position ``s t + r`` receives ``dy[t - j] w[s j + r + lo]`` summed over j: a convolution of dy at
    stride 1 with a kernel of ``ceil(k / s)`` taps and ``s`` features a channel, instead of one over zeros.
    """
    *_, channels, features = w.shape
    first = [-((s - 1 + lo) // s) for s, (lo, _) in zip(spec.strides, spec.padding)]
    last = [(k - 1 - lo) // s for k, s, (lo, _) in zip(spec.kernel, spec.strides, spec.padding)]
    taps = tuple(b - a + 1 for a, b in zip(first, last))
    size = tuple(-(-n // s) for n, s in zip(spec.space, spec.strides))
    edges = [
        (-(s * a + lo), s * b + s + lo - k, 0)
        for a, b, k, s, (lo, _) in zip(first, last, spec.kernel, spec.strides, spec.padding)
    ]
    w = lax.pad(w, jnp.zeros((), w.dtype), [*edges, (0, 0, 0), (0, 0, 0)])
    w = w.reshape(*itertools.chain(*zip(taps, spec.strides)), channels, features)
    rank = len(taps)
    # [tap, phase, ...] -> [taps, features, phases, channels], taps reversed for they run against dy
    w = w.transpose(*range(0, 2 * rank, 2), 2 * rank + 1, *range(1, 2 * rank, 2), 2 * rank)
    w = jnp.flip(w, tuple(range(rank))).reshape(*taps, features, math.prod(spec.strides) * channels)
    turned = dataclasses.replace(
        spec,
        space=spec.out_space(),
        kernel=taps,
        strides=(1,) * rank,
        padding=tuple((b, t - 1 - a - (n - 1)) for a, b, t, n in zip(first, last, size, spec.out_space())),
        dtype=None,
    )
    dx = im2col_forward(turned, dy, w).reshape(dy.shape[0], *size, *spec.strides, channels)
    order = itertools.chain(*zip(range(1, rank + 1), range(rank + 1, 2 * rank + 1)))
    dx = dx.transpose(0, *order, 2 * rank + 1)
    dx = dx.reshape(dy.shape[0], *(t * s for t, s in zip(size, spec.strides)), channels)
    return dx[(slice(None), *(slice(n) for n in spec.space))]


def rows_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """Add up the kernel's gradient over blocks of rows that stay in a core's cache.

    Block by block dy' [features, pixels] meets the pixels of the rows with their neighbours along them,
    [pixels, kernel width * channels], once for each row of the kernel. For two axes, without groups and input dilation.
    """
    if len(spec.kernel) != 2 or spec.groups > 1 or max(spec.lhs_dilation) > 1:
        return canonical_weight(spec, x, dy)
    (height, width), (down, right), (stride, stride_right) = spec.kernel, spec.rhs_dilation, spec.strides
    images, out_height, out_width, features = dy.shape
    channels = x.shape[-1]
    rows = min(max(1, _BLOCK_PIXELS // out_width), out_height)
    span = (out_width - 1) * stride_right + 1
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in spec.padding), (0, 0, 0)])

    def add_block(total: Array, image: Array, top: Array, rows: int) -> Array:
        reach = (rows - 1) * stride + 1
        size = (1, reach + (height - 1) * down, x.shape[2], channels)
        block = lax.dynamic_slice(x, (image, top * stride, 0, 0), size)[0]
        beside = jnp.concatenate([block[:, j * right : j * right + span : stride_right] for j in range(width)], -1)
        d = lax.dynamic_slice(dy, (image, top, 0, 0), (1, rows, out_width, features)).reshape(-1, features)
        pixels = [beside[i * down : i * down + reach : stride].reshape(len(d), -1) for i in range(height)]
        product = lambda p: jnp.einsum("mo,mk->ok", d, p, precision=spec.precision, preferred_element_type=total.dtype)
        return total + jnp.stack([product(p) for p in pixels])

    blocks, rest = divmod(out_height, rows)
    zero = jnp.zeros((height, features, width * channels), jnp.promote_types(x.dtype, jnp.float32))
    zero, x, dy = same_axes(zero, x, dy)
    total = lax.fori_loop(0, images * blocks, lambda t, s: add_block(s, t // blocks, t % blocks * rows, rows), zero)
    if rest:
        total = lax.fori_loop(0, images, lambda i, s: add_block(s, i, jnp.int32(blocks * rows), rest), total)
    return total.reshape(height, features, width, channels).transpose(0, 2, 3, 1).astype(x.dtype)
