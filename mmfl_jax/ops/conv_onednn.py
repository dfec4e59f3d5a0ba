"""A convolution by oneDNN, which XLA's CPU plugin for x86 carries but sends no convolution to by itself."""

import functools
import json
import platform
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jaxlib
from jax import Array, lax

from mmfl_jax.ops.conv_direct import canonical_input, canonical_weight, plain_forward
from mmfl_jax.ops.conv_spec import ConvSpec, flip, same_axes

# The call is XLA's own, not a public interface: another release may number its fields differently, and a wrong number
# ends the process. So it is made only with releases that pass tests/test_ops_conv.py.
TESTED_JAXLIB = ("0.10.2",)


@functools.cache
def onednn_types() -> frozenset[str]:
    """Return the names of the types that oneDNN convolves here: none where it is not at hand or not tested."""
    if jaxlib.__version__ not in TESTED_JAXLIB or sys.platform != "linux" or platform.machine() != "x86_64":
        return frozenset()
    # Without instructions for bfloat16 oneDNN has no such kernel, or emulates it.
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((line for line in file if line.startswith("flags")), "")
    return frozenset({"float32", "bfloat16"} if " avx512_bf16" in flags else {"float32"})


def _takes(spec: ConvSpec, dtype: jnp.dtype) -> bool:
    """Return whether oneDNN computes this convolution: two axes, no input dilation, no cropping, a type it has."""
    return (
        dtype.name in onednn_types()
        and not jax.config.values["jax_compilation_cache_dir"]  # XLA cannot write a program with such a call to a file
        and spec.dtype is None
        and len(spec.kernel) == 2
        and max(spec.lhs_dilation) == 1
        and min(edge for edges in spec.padding for edge in edges) >= 0
        and jax.default_backend() == "cpu"
    )


def onednn_computes(spec: ConvSpec, kind: str, dtype: jnp.dtype) -> bool:
    """Return whether oneDNN computes this kind of operation: ``forward``, ``input`` or ``weight`` gradient."""
    if kind == "weight":
        return spec.groups == 1 and _takes(spec.weight_gradient(), dtype)
    return _takes(spec if kind == "forward" else spec.input_gradient(), dtype)


def onednn_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """Convolve with oneDNN, and with ``jax.lax`` what it does not take."""
    if not onednn_computes(spec, "forward", x.dtype):
        return plain_forward(spec, x, w)
    y = jax.ShapeDtypeStruct((x.shape[0], *spec.out_space(), w.shape[-1]), x.dtype)
    return _call(x, w, y, (2, 3, 0, 1), spec.strides, spec.padding, spec.rhs_dilation, spec.groups)


def onednn_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    """Return the input gradient, a convolution of dy with the flipped kernel; with strides it stays XLA's."""
    if not onednn_computes(spec, "input", dy.dtype):
        return canonical_input(spec, dy, w)
    return onednn_forward(spec.input_gradient(), dy, flip(w, spec.groups))


def onednn_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """Return the kernel's gradient, a convolution over three axes: height, width, and the channels of x.

    dy is the kernel, of one channel long, and images are the channels: products of [channels, images] with [images,
    features], added up over the pixels. As a third axis the channels fill the kernel's tile; as the batch, the usual
    way, its rows would be the few positions of the gradient.
    """
    if not onednn_computes(spec, "weight", x.dtype):
        return canonical_weight(spec, x, dy)
    turned = spec.weight_gradient()
    channels, features = x.shape[-1], dy.shape[-1]
    dw = jax.ShapeDtypeStruct((1, *spec.kernel, channels, features), x.dtype)

    def images(x: Array, dy: Array) -> Array:
        x, dy = x.transpose(1, 2, 3, 0)[None], dy[:, :, :, None]
        window = (*turned.strides, 1), (*turned.padding, (0, 0)), (*turned.rhs_dilation, 1)
        return _call(x, dy, dw, (0, 4, 1, 2, 3), *window)[0]

    batch = len(x)
    block = _images_of_block(batch)
    if block == batch:
        return images(x, dy)
    x, dy = (a.reshape(batch // block, block, *a.shape[1:]) for a in (x, dy))
    zero = jnp.zeros(dw.shape[1:], jnp.promote_types(x.dtype, jnp.float32))
    zero, x, dy = same_axes(zero, x, dy)
    return lax.fori_loop(0, batch // block, lambda i, total: total + images(x[i], dy[i]), zero).astype(x.dtype)


def _images_of_block(batch: int) -> int:
    """Return how many images the weight gradient takes at once: many are beyond the caches (measured: 4 to 16)."""
    if batch <= 16:
        return batch
    return max((n for n in range(4, 17) if batch % n == 0), default=batch)


def _call(
    x: Array,
    w: Array,
    y: jax.ShapeDtypeStruct,
    kernel_axes: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int = 1,
) -> Array:
    """Convolve ``[batch, *space, channels]`` with a kernel whose input, output and spatial axes are given."""
    numbers = lambda values: [str(value) for value in values]  # XLA's JSON writes integers as strings
    rank = len(strides)
    image = {"data": {"batch_dim": "0", "feature_dim": str(rank + 1), "spatial_dims": numbers(range(1, rank + 1))}}
    inputs, outputs, *space = kernel_axes
    kernel = {"input_feature_dim": str(inputs), "output_feature_dim": str(outputs), "spatial_dims": numbers(space)}
    window = {
        "strides": numbers(strides),
        "pad_left": numbers(lo for lo, _ in padding),
        "pad_right": numbers(hi for _, hi in padding),
        "window_dilations": numbers(dilation),
    }
    config = {"dims": str(rank + 2), "input": image, "output": image, "kernel": {"filter": kernel}, "window": window}
    message = json.dumps({"onednn_conv_config": {**config, "feature_groups": str(groups)}})
    call = jax.ffi.ffi_call("__onednn$convolution", y, custom_call_api_version=2, legacy_backend_config=message)
    return same_axes(call(x, w), x, w)[0]  # the call itself forgets that its result varies over a manual mesh
