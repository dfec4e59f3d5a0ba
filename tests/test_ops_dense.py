import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from mmfl_jax import ops

MATRICES = (((1,), (0,)), ((), ()))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("clients", [None, 1, 3])
def test_value_and_gradients_are_those_of_lax(clients):
    lead = () if clients is None else (clients,)
    x, w = normal(0, *lead, 8, 5), normal(1, *lead, 5, 3)

    def results(dot):
        def both(x, w):
            y, backward = jax.vjp(lambda x, w: dot(x, w, MATRICES), x, w)
            return y, *backward(jnp.cos(y))

        return jax.jit(both if clients is None else jax.vmap(both))(x, w)

    for ours, theirs in zip(results(ops.dot_general), results(lax.dot_general)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_second_derivative():
    x, w = normal(0, 4, 5), normal(1, 5, 3)

    def results(dot):
        slope = jax.grad(lambda x, w: jnp.sin(dot(x, w, MATRICES)).sum(), (0, 1))
        return jax.jit(jax.grad(lambda x, w: sum((g**2).sum() for g in slope(x, w)), (0, 1)))(x, w)

    for ours, theirs in zip(results(ops.dot_general), results(lax.dot_general)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_other_ranks_go_to_lax():
    layer = nnx.Linear(5, 3, dot_general=ops.dot_general, rngs=nnx.Rngs(0))
    x = normal(0, 2, 4, 5)
    np.testing.assert_allclose(layer(x), x @ layer.kernel[...] + layer.bias[...], rtol=1e-5, atol=1e-6)
