"""Whitening against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfl_jax.models import Normalization
from mmfl_jax.models.normalization import Whitening
from mmfl_jax.models.options import ModelOptions
from mmfl_jax.ops import whitening

EXACT = ("cholesky", "zca")
whitening_matrix = jax.jit(whitening.whitening_matrix, static_argnums=(1, 2))


def covariances(groups, size, seed=0):
    """Return well-conditioned covariance matrices ``[groups, size, size]`` in float64."""
    a = np.random.default_rng(seed).normal(size=(groups, size, 4 * size))
    return a @ np.swapaxes(a, 1, 2) / (4 * size)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("method", whitening.METHODS)
def test_whitened_covariance_is_the_identity(method, size):
    sigma = covariances(3, size)
    shrunk = whitening.shrink(jnp.asarray(sigma, jnp.float32), 0.1)
    np.testing.assert_allclose(shrunk, 0.9 * sigma + 0.1 * np.eye(size), rtol=1e-5, atol=1e-6)
    w = np.asarray(whitening_matrix(shrunk, method, 15), np.float64)
    product = w @ np.asarray(shrunk, np.float64) @ np.swapaxes(w, 1, 2)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(size), product.shape), atol=2e-5)


def test_each_method_gives_its_own_matrix():
    sigma = covariances(2, 4)
    found = {m: np.asarray(whitening_matrix(jnp.asarray(sigma, jnp.float32), m, 15)) for m in whitening.METHODS}
    values, vectors = np.linalg.eigh(sigma)
    root = vectors / np.sqrt(values)[:, None, :] @ np.swapaxes(vectors, 1, 2)
    np.testing.assert_allclose(found["zca"], root, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["newton_schulz"], root, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["cholesky"], np.linalg.inv(np.linalg.cholesky(sigma)), rtol=1e-4, atol=1e-5)


def test_newton_schulz_comes_closer_with_every_iteration():
    sigma = jnp.asarray(covariances(1, 4), jnp.float32)
    target = whitening_matrix(sigma, "zca", 5)
    errors = [float(jnp.abs(whitening_matrix(sigma, "newton_schulz", n) - target).max()) for n in (1, 3, 5, 7)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * errors[0]


@pytest.mark.parametrize("equal_eigenvalues", [False, True])
@pytest.mark.parametrize("method", whitening.METHODS)
def test_gradient_equals_finite_differences(method, equal_eigenvalues):
    with jax.enable_x64(True):
        size = 3
        sigma = 2 * np.eye(size) if equal_eigenvalues else covariances(1, size)[0]
        mix = np.random.default_rng(1).normal(size=(size, size))

        # A covariance is symmetric, so only symmetric directions count.
        @jax.jit
        def value(s):
            return (whitening.whitening_matrix((s + s.T) / 2, method, 5) * mix).sum()

        gradient = np.asarray(jax.grad(value)(jnp.asarray(sigma)))
        step, differences = 1e-5, np.zeros_like(gradient)
        for i in np.ndindex(size, size):
            move = np.zeros((size, size))
            move[i] = step
            differences[i] = (float(value(sigma + move)) - float(value(sigma - move))) / (2 * step)
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


def test_unknown_method():
    with pytest.raises(ValueError, match=r"whitening method 'pca' is unknown; one of cholesky, zca, newton_schulz"):
        whitening.whitening_matrix(jnp.eye(2), "pca")


def test_group_moments_are_those_of_numpy():
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(5, 4, 3, 6)).astype(np.float32)
    mean, covariance = whitening.group_moments(jnp.asarray(x), 3)
    flat = x.reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(mean, flat.mean(axis=0), rtol=1e-5)
    for g in range(2):
        np.testing.assert_allclose(covariance[g], np.cov(flat[:, 3 * g : 3 * g + 3].T, bias=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_application_is_the_written_out_formula(dtype):
    rng = np.random.default_rng(0)
    x, matrix = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 3, 3))
    mean, scale, bias = rng.normal(size=(3, 6))
    given = [jnp.asarray(v, jnp.float32) for v in (mean, matrix, scale, bias)]
    out = whitening.apply_whitening(jnp.asarray(x, dtype), *given)
    expected = np.empty_like(x)
    for index in np.ndindex(2, 5):
        for g in range(2):
            part = slice(3 * g, 3 * g + 3)
            expected[(*index, part)] = scale[part] * (matrix[g] @ (x[index] - mean)[part]) + bias[part]
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 0.1
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=tolerance)


def whitens(**options):
    return Normalization(ModelOptions(**options), whitened=True)


@pytest.mark.parametrize("method", EXACT)
def test_layer_whitens_in_training_and_keeps_running_moments(method):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(64, 3, 8)) @ rng.normal(size=(8, 8)) + 5).astype(np.float32)
    layer = Whitening(8, whitens(whitening=method, whitening_group=4, whitening_epsilon=1e-3))
    flat = x.reshape(-1, 8).astype(np.float64)
    out = np.asarray(layer(jnp.asarray(x))).reshape(-1, 8).astype(np.float64)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-3)
    for g in range(2):
        part = slice(4 * g, 4 * g + 4)
        sigma = np.cov(flat[:, part].T, bias=True)
        np.testing.assert_allclose(np.cov(out[:, part].T, bias=True), np.eye(4), atol=0.02)
        np.testing.assert_allclose(layer.cov[...][g], 0.9 * np.eye(4) + 0.1 * sigma, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(layer.mean[...], 0.1 * flat.mean(axis=0), rtol=1e-4)


def test_layer_evaluates_with_its_running_moments():
    rng = np.random.default_rng(0)
    layer = Whitening(4, whitens(whitening="zca", whitening_epsilon=0.1))
    mean, sigma = rng.normal(size=4), covariances(1, 4)
    layer.mean[...], layer.cov[...] = jnp.asarray(mean, jnp.float32), jnp.asarray(sigma, jnp.float32)
    layer.scale[...], layer.bias[...] = jnp.full(4, 2.0), jnp.full(4, -1.0)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    out = layer(jnp.asarray(x), use_running_average=True)
    values, vectors = np.linalg.eigh(0.9 * sigma[0] + 0.1 * np.eye(4))
    w = vectors / np.sqrt(values) @ vectors.T
    np.testing.assert_allclose(out, 2 * (x - mean) @ w.T - 1, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.mean[...], jnp.asarray(mean, jnp.float32))  # evaluation moves nothing


@pytest.mark.parametrize(("channels", "asked", "size"), [(8, 4, 4), (6, 4, 3), (7, 4, 1), (3, 8, 3), (16, 16, 16)])
def test_group_falls_back_to_the_largest_that_divides_the_channels(channels, asked, size):
    layer = Whitening(channels, whitens(whitening_group=asked))
    assert layer.cov[...].shape == (channels // size, size, size)


@pytest.mark.parametrize(("where", "whitened"), [("stem", [0]), ("stem+stage1", [0, 1]), ("all", [0, 1, 2, 3])])
def test_whitening_stands_where_it_is_asked_for(where, whitened):
    norm = whitens(whitening_where=where)
    layers = [norm.layer(8, stage, nnx.Rngs(0)) for stage in range(4)]
    assert [i for i, layer in enumerate(layers) if isinstance(layer, Whitening)] == whitened
    assert all(isinstance(layer, nnx.BatchNorm) for i, layer in enumerate(layers) if i not in whitened)
