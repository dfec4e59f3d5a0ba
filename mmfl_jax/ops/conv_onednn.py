"""A convolution by oneDNN, which XLA's CPU plugin for x86 carries but sends no convolution to by itself."""

import dataclasses
import functools
import json
import platform
import sys

import jax
import jax.numpy as jnp
import jaxlib
from jax import Array, lax

from mmfl_jax.ops.conv_direct import canonical_input, canonical_weight, plain_forward
from mmfl_jax.ops.conv_spec import ConvSpec, flip, same_axes
from mmfl_jax.ops.platform import traced_platform

# The call is XLA's own, not a public interface: another release may number its fields differently, and a wrong number
# ends the process. So it is made only with releases that pass tests/test_ops_conv.py.
TESTED_JAXLIB = ("0.10.2", "0.12.0.1")

# What may be asked of a convolution, as ``precision`` or by ``jax.default_matmul_precision``, that three passes meet.
_THREE_PASSES = {None, *lax.Precision, "default", "high", "bfloat16", "tensorfloat32"} - {lax.Precision.HIGHEST}


@functools.cache
def _processor_flags() -> frozenset[str]:
    """Return what the processor can do where oneDNN is at hand and tested; nothing elsewhere."""
    if jaxlib.__version__ not in TESTED_JAXLIB or sys.platform != "linux" or platform.machine() != "x86_64":
        return frozenset()
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        line = next((line for line in file if line.startswith("flags")), "flags :")
    return frozenset(line.split())


def onednn_types() -> frozenset[str]:
    """Return the names of the types that oneDNN convolves here: none where it is not at hand or not tested."""
    flags = _processor_flags()
    # Without instructions for bfloat16 oneDNN has no such kernel, or emulates it.
    return frozenset({"float32", "bfloat16"} if "avx512_bf16" in flags else {"float32"} if flags else ())


def onednn_three_passes(spec: ConvSpec, dtype: jnp.dtype) -> bool:
    """Return whether float32 may be, and is faster as, three products of bfloat16: with matrix units (AMX) alone.

    Three passes are JAX's precision HIGH. HIGHEST, and algorithms that are asked for by name, are left as they are.
    """
    asked = spec.precision if isinstance(spec.precision, tuple) else (spec.precision,)
    return dtype == jnp.float32 and "amx_bf16" in _processor_flags() and _THREE_PASSES.issuperset(asked)


def _takes(spec: ConvSpec, dtype: jnp.dtype) -> bool:
    """Return whether oneDNN computes this convolution: two axes, no input dilation, no cropping, a type it has."""
    return (
        dtype.name in onednn_types()
        and not jax.config.values["jax_compilation_cache_dir"]  # XLA cannot write a program with such a call to a file
        and spec.dtype is None
        and len(spec.kernel) == 2
        and max(spec.lhs_dilation) == 1
        and min(edge for edges in spec.padding for edge in edges) >= 0
        and traced_platform() == "cpu"
    )


def onednn_computes(spec: ConvSpec, kind: str, dtype: jnp.dtype) -> bool:
    """Return whether oneDNN computes this kind of operation: ``forward``, ``input`` or ``weight`` gradient."""
    if kind == "weight":
        return spec.groups == 1 and _takes(spec.weight_gradient(), dtype)
    return _takes(spec if kind == "forward" else spec.input_gradient(), dtype)


def onednn_forward(spec: ConvSpec, x: Array, w: Array, three: bool = False) -> Array:
    """Convolve with oneDNN, and with ``jax.lax`` what it does not take; ``three``: by three products of bfloat16."""
    if not onednn_computes(spec, "forward", x.dtype):
        return plain_forward(spec, x, w)
    return _convolve(_Call.of(spec, x, w.shape[3], (2, 3, 0, 1)), x, w, three)


def onednn_input(spec: ConvSpec, dy: Array, w: Array, three: bool = False) -> Array:
    """Return the input gradient, a convolution of dy with the flipped kernel; with strides it stays XLA's."""
    if not onednn_computes(spec, "input", dy.dtype):
        return canonical_input(spec, dy, w)
    turned = spec.input_gradient()
    if spec.groups > 1:
        return onednn_forward(turned, dy, flip(w, spec.groups), three)
    # The kernel stays [height, width, channels, features]: naming its axes exchanged spares the transposition.
    return _convolve(_Call.of(turned, dy, w.shape[2], (3, 2, 0, 1)), dy, jnp.flip(w, (0, 1)), three)


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
    window = (*turned.strides, 1), (*turned.padding, (0, 0)), (*turned.rhs_dilation, 1)
    call = _Call(dw, (0, 4, 1, 2, 3), *window)

    def images(x: Array, dy: Array) -> Array:
        return call(x.transpose(1, 2, 3, 0)[None], dy[:, :, :, None])[0]

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


def _convolve(call: "_Call", x: Array, w: Array, three: bool) -> Array:
    """Convolve as they are, or float32 as the three large ones of the four products of two bfloat16 each.

    The sums are float32's. An operand loses its 17th bit and what follows: errors of 4e-6 of the result's standard
    deviation, where float32 itself makes 0.4e-6 to 1e-6 and one bfloat16 product 2e-3. Infinities end as NaN.
    """
    if not three or x.dtype != jnp.float32 or "bfloat16" not in onednn_types():
        return call(x, w)
    (x, x_rest), (w, w_rest) = _halves(x), _halves(w)
    return call(x, w, add=call(x_rest, w, add=call(x, w_rest)))


def _halves(x: Array) -> tuple[Array, Array]:
    """Return two of bfloat16 that add up to x but for its last 8 bits."""
    head = lax.reduce_precision(x, 8, 7)  # not astype and back, which XLA leaves out
    return head.astype(jnp.bfloat16), (x - head).astype(jnp.bfloat16)


@dataclasses.dataclass(frozen=True)
class _Call:
    """Convolve ``[batch, *space, channels]`` with a kernel whose input, output and spatial axes are given."""

    y: jax.ShapeDtypeStruct
    kernel_axes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @classmethod
    def of(cls, spec: ConvSpec, x: Array, features: int, kernel_axes: tuple[int, ...]) -> "_Call":
        """Return the convolution of ``x`` that ``spec`` says."""
        y = jax.ShapeDtypeStruct((len(x), *spec.out_space(), features), x.dtype)
        return cls(y, kernel_axes, spec.strides, spec.padding, spec.rhs_dilation, spec.groups)

    def __call__(self, x: Array, w: Array, add: Array | None = None) -> Array:
        """Return the convolution, with ``add`` of its shape added."""
        operands = (x, w) if add is None else (x, w, add)
        call = jax.ffi.ffi_call(
            "__onednn$convolution",
            self.y,
            custom_call_api_version=2,
            legacy_backend_config=self._message(add is not None),
        )
        return same_axes(call(*operands), *operands)[0]  # the call itself forgets that it varies over a manual mesh

    def _message(self, adds: bool) -> str:
        numbers = lambda values: [str(value) for value in values]  # XLA's JSON writes integers as strings
        rank = len(self.strides)
        image = {"data": {"batch_dim": "0", "feature_dim": str(rank + 1), "spatial_dims": numbers(range(1, rank + 1))}}
        inputs, outputs, *space = self.kernel_axes
        kernel = {"input_feature_dim": str(inputs), "output_feature_dim": str(outputs), "spatial_dims": numbers(space)}
        config = {
            "dims": str(rank + 2),
            "input": image,
            "output": image,
            "kernel": {"filter": kernel},
            "window": {
                "strides": numbers(self.strides),
                "pad_left": numbers(lo for lo, _ in self.padding),
                "pad_right": numbers(hi for _, hi in self.padding),
                "window_dilations": numbers(self.dilation),
            },
            "feature_groups": str(self.groups),
            "fusions": {"ops": ["BINARY_ADD"] if adds else []},
        }
        return json.dumps({"onednn_conv_config": config})
