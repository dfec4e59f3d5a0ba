"""A dense layer's product whose weight gradient is fast on a CPU."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from mmfl_jax.ops.platform import traced_platform


def dot_general(lhs: Array, rhs: Array, dimension_numbers: Any, precision: Any = None, **options: Any) -> Array:
    """Multiply as ``jax.lax.dot_general`` does: what ``nnx.Linear`` takes.

    The product ``[batch, inputs] @ [inputs, outputs]`` has gradients of its own on CPU (reverse mode, any number of
    times); all else, and all other platforms, go to ``jax.lax`` as they are.
    """
    dense = lhs.ndim == rhs.ndim == 2 and dimension_numbers == (((1,), (0,)), ((), ()))
    if not dense or any(value is not None for value in options.values()) or traced_platform() != "cpu":
        return lax.dot_general(lhs, rhs, dimension_numbers, precision=precision, **options)
    return _dense(lhs, rhs, precision)


_SMALL = 2**16  # weights of a kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dense(x: Array, w: Array, precision: Any) -> Array:
    return jnp.matmul(x, w, precision=precision)


def _forward(x: Array, w: Array, precision: Any) -> tuple[Array, tuple[Array, Array]]:
    return _dense(x, w, precision), (x, w)


def _backward(precision: Any, operands: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, w = operands
    # XLA's CPU kernel for a transposed left operand is slow for the few rows of a batch: 15 % of a small MLP's step.
    # The barrier keeps the transposition out of the product. Large kernels lose more to the layout that this gives dw.
    turned = lax.optimization_barrier(x.T) if w.size <= _SMALL else x.T
    return jnp.matmul(dy, w.T, precision=precision), jnp.matmul(turned, dy, precision=precision)


_dense.defvjp(_forward, _backward)
