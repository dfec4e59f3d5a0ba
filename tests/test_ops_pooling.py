import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfl_jax.ops.pooling import max_pool


@pytest.mark.parametrize(
    "shape, window, strides, padding",
    [
        ((2, 8, 8, 3), (2, 2), (2, 2), "VALID"),
        ((2, 9, 7, 3), (3, 3), (2, 2), "SAME"),
        ((2, 9, 7, 3), (3, 2), None, ((1, 0), (0, 1))),
        ((2, 17, 4), (3,), (2,), "SAME"),
    ],
)
def test_agrees_with_flax_also_where_values_are_equal(shape, window, strides, padding):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32).round()  # many ties

    def results(pool):
        y, backward = jax.vjp(lambda x: pool(x, window, strides=strides, padding=padding), x)
        return y, backward(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))[0]

    for ours, theirs in zip(jax.jit(lambda: results(max_pool))(), jax.jit(lambda: results(nnx.max_pool))()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_keeps_nan():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
    assert jnp.isnan(max_pool(x, (2, 2), (2, 2))).sum() == 1


def test_rank_is_checked():
    with pytest.raises(ValueError, match="rank 1 over 2"):
        max_pool(jnp.zeros((1, 4, 4, 1)), (2,))
