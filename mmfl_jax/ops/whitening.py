"""Whitening of channel groups: the matrices W with W Sigma W' = I, and their application.

References:
  Roy et al., "Unsupervised Domain Adaptation using Feature-Whitening and Consensus Loss", CVPR 2019 (Cholesky, groups).
  Huang et al., "Decorrelated Batch Normalization", CVPR 2018 (ZCA).
  Huang et al., "Iterative Normalization: Beyond Standardization towards Efficient Whitening", CVPR 2019
  (Newton-Schulz).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

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
    """Return the mean and the covariance of each channel group over all but the last axis.

    Args:
      x: ``[..., channels]``; moments are taken in float32.
      group_size: channels in a group; divides ``channels``.

    Returns:
      ``mean [channels]`` and ``covariance [channels / group_size, group_size, group_size]`` (biased: divided by n).
    """
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    mean = flat.mean(axis=0)
    centred = flat - mean
    # One dense product and its diagonal blocks: cheaper than many small products on every platform we know.
    full = jnp.matmul(centred.T, centred, precision="highest") / flat.shape[0]
    groups = flat.shape[1] // group_size
    index = jnp.arange(groups)
    return mean, full.reshape(groups, group_size, groups, group_size)[index, :, index, :]


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
    groups, size, _ = matrix.shape
    dense = (jnp.eye(groups, dtype=matrix.dtype)[:, None, :, None] * matrix[:, :, None, :]).reshape(
        groups * size, groups * size
    )
    dense = dense * scale[:, None]
    # Centred before the product: in bfloat16 a large mean would drown the rest. Flat as in group_moments, so that the
    # compiler finds the same difference there and computes it once.
    centred = (x.reshape(-1, x.shape[-1]).astype(jnp.float32) - mean).astype(x.dtype)
    return (centred @ dense.T.astype(x.dtype) + bias.astype(x.dtype)).reshape(x.shape)
