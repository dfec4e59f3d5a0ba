"""What is static about a convolution, and what all its forms share.

Arrays are ``[batch, *space, channels]`` and kernels ``[*space, channels / groups, features]``. A convolution
y = F(x, w) is linear in x and in w, so its gradients X(dy, w) and W(x, dy) are linear in both arguments too, and are
functions of their own.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


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

    def weight_gradient(self) -> "ConvSpec":
        """Return the convolution of x with dy, as its kernel, that is the kernel's gradient."""
        padding = tuple(
            (lo, k - 1 + d - n - lo)
            for (lo, _), k, d, n in zip(self.padding, self.reach(), self.out_spread(), self.spread())
        )
        return dataclasses.replace(
            self, strides=self.rhs_dilation, rhs_dilation=self.strides, padding=padding, dtype=None
        )


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
