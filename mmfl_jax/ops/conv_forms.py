"""The ways to write one convolution and its two gradients: canonical, im2col, plain.

All work on arrays ``[batch, *space, channels]`` and kernels ``[*space, channels / groups, features]``.
A convolution y = F(x, w) is linear in x and in w, so its gradients X(dy, w) and W(x, dy) are linear
in both arguments too, and are written here as functions of their own.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Kernel = Callable[["ConvSpec", Array, Array], Array]

# Pixels in a block of ``rows``: its operands fill a good part of a core's second-level cache (measured: 120 to 480).
_BLOCK_PIXELS = 240


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """Hold what is static about a convolution; sizes are those of one client."""

    space: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int = 1
    precision: Any = None
    dtype: Any = None  # of the output; None is that of the inputs
    form: str | None = None  # forced by the caller

    def reach(self) -> tuple[int, ...]:
        """Return the sizes of the dilated kernel."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.rhs_dilation))

    def spread(self) -> tuple[int, ...]:
        """Return the sizes of the dilated input."""
        return tuple((n - 1) * d + 1 for n, d in zip(self.space, self.lhs_dilation))

    def out_space(self) -> tuple[int, ...]:
        """Return the sizes of the output."""
        return tuple(
            (n + lo + hi - k) // s + 1
            for n, k, s, (lo, hi) in zip(self.spread(), self.reach(), self.strides, self.padding)
        )

    def out_spread(self) -> tuple[int, ...]:
        """Return the sizes of the output with its strides filled by zeros."""
        return tuple((n - 1) * s + 1 for n, s in zip(self.out_space(), self.strides))

    def input_gradient(self) -> "ConvSpec":
        """Return the convolution of dy with the flipped kernel that is the input gradient."""
        lows = [k - 1 - lo for k, (lo, _) in zip(self.reach(), self.padding)]
        padding = tuple(
            (lo, n + k - 1 - d - lo) for lo, n, k, d in zip(lows, self.spread(), self.reach(), self.out_spread())
        )
        return dataclasses.replace(
            self,
            space=self.out_space(),
            strides=self.lhs_dilation,
            lhs_dilation=self.strides,
            padding=padding,
            dtype=None,
        )


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


def _plain_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    channels = w.shape[-2] * spec.groups
    x = jax.ShapeDtypeStruct((dy.shape[0], *spec.space, channels), w.dtype)
    return _transpose(lambda x: plain_forward(spec, x, w), x, dy)


def _plain_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
    w = jax.ShapeDtypeStruct((*spec.kernel, x.shape[-1] // spec.groups, dy.shape[-1]), x.dtype)
    return _transpose(lambda w: plain_forward(spec, x, w), w, dy)


def _transpose(linear: Callable[[Array], Array], like: jax.ShapeDtypeStruct, dy: Array) -> Array:
    # jax.vjp at zero, not jax.linear_transpose: the zeros must vary over the same mesh axes as dy.
    zero, _ = same_axes(jnp.zeros(like.shape, like.dtype), dy)
    return jax.vjp(linear, zero)[1](dy)[0]


def same_axes(*arrays: Array) -> list[Array]:
    """Make arrays vary over the same axes of a manual mesh, so that gradients are summed where they must be."""
    union = frozenset().union(*map(_varying, arrays))
    return [lax.pcast(a, tuple(new), to="varying") if (new := union - _varying(a)) else a for a in arrays]


def _varying(a: Array) -> frozenset[str]:
    kind = jax.typeof(a)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying  # before and since jax 0.10


def flip(w: Array, groups: int) -> Array:
    """Return the kernel of the input gradient: reversed in space, channels and features exchanged."""
    *kernel, channels, features = w.shape
    w = jnp.flip(w, tuple(range(len(kernel))))
    w = w.reshape(*kernel, channels, groups, features // groups)
    return jnp.swapaxes(w, -1, -3).reshape(*kernel, features // groups, groups * channels)


def pairs(spec: ConvSpec) -> bool:
    """Return whether the convolution can compute two neighbours along its last axis as one position."""
    last = spec.strides[-1], spec.lhs_dilation[-1], spec.rhs_dilation[-1]
    return last == (1, 1, 1) and spec.groups == 1 and spec.out_space()[-1] > 1


def _paired_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
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


def _paired_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    return _paired_forward(spec.input_gradient(), dy, flip(w, spec.groups))


def _canonical_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    return plain_forward(spec.input_gradient(), dy, flip(w, spec.groups))


def _canonical_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
    # Channels play the batch, the batch plays the channels, dy plays the kernel.
    padding = tuple(
        (lo, k - 1 + d - n - lo)
        for (lo, _), k, d, n in zip(spec.padding, spec.reach(), spec.out_spread(), spec.spread())
    )
    turned = dataclasses.replace(
        spec, strides=spec.rhs_dilation, rhs_dilation=spec.strides, padding=padding, dtype=None
    )
    dw = _lax(turned, jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2), batch_group_count=spec.groups)
    return jnp.moveaxis(dw, 0, -2)


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


def _im2col_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    cols = columns(spec, x)
    *rows, taps, channels = cols.shape
    if spec.groups == 1:
        y = _matmul(spec, "mk,ko->mo", cols.reshape(-1, taps * channels), w.reshape(taps * channels, -1))
    else:
        cols = cols.reshape(-1, taps, spec.groups, channels // spec.groups)
        w = w.reshape(taps, channels // spec.groups, spec.groups, -1)
        y = _matmul(spec, "mtgc,tcgo->mgo", cols, w)
    return y.reshape(*rows, -1)


def _im2col_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
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


def _rows_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """Add up the kernel's gradient over blocks of rows that stay in a core's cache.

    Block by block dy' [features, pixels] meets the pixels of the rows with their neighbours along them,
    [pixels, kernel width * channels], once for each row of the kernel. For two axes, without groups and input dilation.
    """
    if len(spec.kernel) != 2 or spec.groups > 1 or max(spec.lhs_dilation) > 1:
        return _canonical_weight(spec, x, dy)
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


def _im2col_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    if all(s == 1 for s in spec.strides):
        return _im2col_forward(spec.input_gradient(), dy, flip(w, spec.groups))
    simple = spec.groups == 1 and set(spec.lhs_dilation) == set(spec.rhs_dilation) == {1}
    if simple and all(k > 1 for k in spec.kernel):
        return _phases(spec, dy, w)
    turned = spec.input_gradient()
    if simple and set(spec.kernel) == {1}:  # matmul first, zeros after
        y = dy.reshape(-1, dy.shape[-1]) @ flip(w, 1).reshape(dy.shape[-1], -1)
        y = y.reshape(*dy.shape[:-1], -1)
        edges = [(lo, hi, d - 1) for (lo, hi), d in zip(turned.padding, turned.lhs_dilation)]
        return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return _im2col_forward(turned, dy, flip(w, spec.groups))


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
    dx = _im2col_forward(turned, dy, w).reshape(dy.shape[0], *size, *spec.strides, channels)
    order = itertools.chain(*zip(range(1, rank + 1), range(rank + 1, 2 * rank + 1)))
    dx = dx.transpose(0, *order, 2 * rank + 1)
    dx = dx.reshape(dy.shape[0], *(t * s for t, s in zip(size, spec.strides)), channels)
    return dx[(slice(None), *(slice(n) for n in spec.space))]


_im2col: dict[str, Kernel] = {"forward": _im2col_forward, "input": _im2col_input, "weight": _im2col_weight}

KERNELS: dict[str, dict[str, Kernel]] = {
    "canonical": {"forward": plain_forward, "input": _canonical_input, "weight": _canonical_weight},
    "im2col": _im2col,
    "paired": {"forward": _paired_forward, "input": _paired_input, "weight": _canonical_weight},
    "rows": {"forward": plain_forward, "input": _canonical_input, "weight": _rows_weight},
    "batched": _im2col,
    "plain": {"forward": plain_forward, "input": _plain_input, "weight": _plain_weight},
}
