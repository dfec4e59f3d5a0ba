"""Whitening of channel groups: the matrices W with W Sigma W' = I, and their application.

References:
  Roy et al., "Unsupervised Domain Adaptation using Feature-Whitening and Consensus Loss", CVPR 2019 (Cholesky, groups).
  Huang et al., "Decorrelated Batch Normalization", CVPR 2018 (ZCA).
  Huang et al., "Iterative Normalization: Beyond Standardization towards Efficient Whitening", CVPR 2019
  (Newton-Schulz).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from mmfl_jax.ops.axes import mean_over_batch

Array = jax.Array

METHODS = ("cholesky", "zca", "newton_schulz")


def shrink(covariance: Array, epsilon: float) -> Array:
    """Return ``(1 - epsilon) * covariance + epsilon * I`` for matrices ``[..., g, g]``."""
    identity = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return (1 - epsilon) * covariance + epsilon * identity


def whitening_matrix(covariance: Array, method: str = "cholesky", iterations: int = 5) -> Array:
    """Return W with ``W @ covariance @ W.T = I`` for each symmetric positive definite matrix.

    Args:
      covariance: ``[..., g, g]``, float32, already shrunk.
      method: ``cholesky`` (inverse Cholesky factor, lower triangular), ``zca`` (inverse symmetric square root) or
        ``newton_schulz`` (``iterations`` matrix products that approach the inverse symmetric square root).
      iterations: of ``newton_schulz``.

    Returns:
      ``[..., g, g]``.

    Raises:
      ValueError: for an unknown method.
    """
    if method == "cholesky":
        return _inverse_cholesky(covariance)
    if method == "zca":
        return _inverse_square_root(covariance)
    if method == "newton_schulz":
        return _newton_schulz(covariance, iterations)
    raise ValueError(f"whitening method {method!r} is unknown; one of {', '.join(METHODS)}")


@jax.custom_jvp
def _inverse_cholesky(covariance: Array) -> Array:
    # Forward elimination of [covariance | I]: the right half ends as the inverse of the Cholesky factor. Written over
    # whole stacks of matrices it has no library call per matrix, fuses, and vmaps over clients for free.
    size = covariance.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(size, dtype=covariance.dtype), covariance.shape)
    rows = jnp.concatenate([covariance, identity], axis=-1)
    done = []
    for k in range(size):
        pivot = jax.lax.rsqrt(rows[..., :1, k : k + 1])
        row = rows[..., :1, :] * pivot
        done.append(row[..., size:])
        rows = rows[..., 1:, :] - rows[..., 1:, k : k + 1] * pivot * row
    return jnp.concatenate(done, axis=-2)


@_inverse_cholesky.defjvp
def _inverse_cholesky_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # dW = -Phi(W dSigma W') W, with Phi the lower triangle and half the diagonal (Murray, arXiv 1602.07527): three
    # products of small matrices instead of the elimination's own derivative.
    (covariance,), (direction,) = primals, tangents
    inverse = _inverse_cholesky(covariance)
    inner = inverse @ direction @ jnp.swapaxes(inverse, -1, -2)
    size = covariance.shape[-1]
    mask = jnp.tril(jnp.ones((size, size), inverse.dtype)) - 0.5 * jnp.eye(size, dtype=inverse.dtype)
    return inverse, -(mask * inner) @ inverse


@jax.custom_jvp
def _inverse_square_root(covariance: Array) -> Array:
    values, vectors = jnp.linalg.eigh(covariance)
    return (vectors * jax.lax.rsqrt(values)[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)


@_inverse_square_root.defjvp
def _inverse_square_root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Daleckii-Krein: the divided differences of t -> t^(-1/2) in closed form, so equal eigenvalues do no harm
    # (the derivative of eigh itself divides by their difference).
    (covariance,), (direction,) = primals, tangents
    values, vectors = jnp.linalg.eigh(covariance)
    transposed = jnp.swapaxes(vectors, -1, -2)
    root = jnp.sqrt(values)
    left, right = root[..., :, None], root[..., None, :]
    kernel = -1.0 / (left * right * (left + right))
    out = (vectors / root[..., None, :]) @ transposed
    return out, vectors @ (kernel * (transposed @ direction @ vectors)) @ transposed


def _newton_schulz(covariance: Array, iterations: int) -> Array:
    # The coupled form: Z goes to the inverse square root and Y to the square root of the normalised covariance. The
    # single-sequence form of IterNorm is the same in exact arithmetic, but drifts away once it has converged.
    trace = jnp.trace(covariance, axis1=-2, axis2=-1)[..., None, None]
    identity = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    root, inverse = covariance / trace, jnp.broadcast_to(identity, covariance.shape)
    for _ in range(iterations):
        step = 1.5 * identity - 0.5 * inverse @ root
        root, inverse = root @ step, step @ inverse
    return inverse * jax.lax.rsqrt(trace)


def group_moments(x: Array, group_size: int) -> tuple[Array, Array]:
    """Return the mean and the covariance of each channel group over all but the last axis, of the whole batch.

    Args:
      x: ``[..., channels]``; moments are taken in float32.
      group_size: channels in a group; divides ``channels``.

    Returns:
      ``mean [channels]`` and ``covariance [channels / group_size, group_size, group_size]`` (biased: divided by n).
    """
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    mean = mean_over_batch(flat.mean(axis=0))
    return mean, mean_over_batch(_group_covariance(flat, mean, group_size))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _group_covariance(flat: Array, mean: Array, group_size: int) -> Array:
    centred = flat - mean
    # One dense product and its diagonal blocks: cheaper than many small products on every platform we know.
    full = _sum_of_products(centred, centred) / flat.shape[0]
    return _diagonal_blocks(full, group_size)


def _group_covariance_forward(flat: Array, mean: Array, group_size: int) -> tuple[Array, Array]:
    return _group_covariance(flat, mean, group_size), flat - mean


def _group_covariance_backward(group_size: int, centred: Array, direction: Array) -> tuple[Array, Array]:
    # Both factors are the same, so one product gives the gradient: left to JAX, there would be two and a transposition
    # of the largest array. The mean has none, for centred channels add up to zero.
    symmetric = (direction + jnp.swapaxes(direction, -1, -2)) / centred.shape[0]
    return jnp.matmul(centred, _block_diagonal(symmetric), precision="highest"), jnp.zeros_like(centred[0])


_group_covariance.defvjp(_group_covariance_forward, _group_covariance_backward)


def _sum_of_products(a: Array, b: Array) -> Array:
    """Return ``a' b`` of ``[n, i]`` and ``[n, j]``, without a transposed copy of a."""
    return jax.lax.dot_general(
        a,
        b,
        (((0,), (0,)), ((), ())),
        precision="highest",
        preferred_element_type=jnp.promote_types(a.dtype, jnp.float32),
    )


def _diagonal_blocks(full: Array, size: int) -> Array:
    """Return the ``[groups, size, size]`` on the diagonal of ``[groups * size, groups * size]``."""
    groups = len(full) // size
    index = jnp.arange(groups)
    return full.reshape(groups, size, groups, size)[index, :, index, :]


def _block_diagonal(blocks: Array) -> Array:
    """Return ``[groups * size, groups * size]`` with the blocks ``[groups, size, size]`` on its diagonal."""
    groups, size, _ = blocks.shape
    dense = jnp.eye(groups, dtype=blocks.dtype)[:, None, :, None] * blocks[:, :, None, :]
    return dense.reshape(groups * size, groups * size)


def apply_whitening(x: Array, mean: Array, matrix: Array, scale: Array, bias: Array) -> Array:
    """Return ``scale * (W (x - mean)) + bias`` as one matrix product.

    Args:
      x: ``[..., channels]``.
      mean: ``[channels]``.
      matrix: ``[groups, g, g]``, the whitening matrix of each group.
      scale: ``[channels]``.
      bias: ``[channels]``.

    Returns:
      ``[..., channels]`` in the type of ``x``.
    """
    dense = _block_diagonal(matrix) * scale[:, None]
    # Centred before the product: in bfloat16 a large mean would drown the rest. Flat as in group_moments, so that the
    # compiler finds the same difference there and computes it once.
    centred = (x.reshape(-1, x.shape[-1]).astype(jnp.float32) - mean).astype(x.dtype)
    return (_mix(centred, dense.T.astype(x.dtype)) + bias.astype(x.dtype)).reshape(x.shape)


@jax.custom_vjp
def _mix(centred: Array, weights: Array) -> Array:
    return centred @ weights


def _mix_backward(operands: tuple[Array, Array], direction: Array) -> tuple[Array, Array]:
    centred, weights = operands
    return direction @ weights.T, _sum_of_products(centred, direction).astype(weights.dtype)


_mix.defvjp(lambda centred, weights: (_mix(centred, weights), (centred, weights)), _mix_backward)
