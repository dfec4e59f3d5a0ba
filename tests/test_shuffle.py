"""The stateless shuffle deals every sample of an epoch once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl_jax.engine.shuffle import batch_positions, shuffled

PADDED = 2048


@jax.jit
def order(seed, epoch, size):
    """Return the first positions of the permutation; those from ``size`` on mean nothing."""
    return shuffled(seed, jnp.full(PADDED, epoch), jnp.arange(PADDED, dtype=jnp.int32), size)


def permutation(seed, epoch, size):
    return np.asarray(order(np.uint32(seed), np.int32(epoch), np.int32(size)))[:size]


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, PADDED), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 2**31 - 1))
def test_shuffled_is_a_bijection(size, seed, epoch):
    np.testing.assert_array_equal(np.sort(permutation(seed, epoch, size)), np.arange(size))


@pytest.mark.parametrize("size", [2**24 + 1, 10**9, 2**31 - 1])
def test_shuffled_stays_within_large_sizes_and_does_not_collide(size):
    positions = np.unique(np.random.default_rng(0).integers(0, size, 10_000)).astype(np.int32)
    moved = np.asarray(shuffled(jnp.uint32(7), jnp.zeros(len(positions), jnp.int32), positions, jnp.int32(size)))
    assert 0 <= moved.min() <= moved.max() < size
    assert len(np.unique(moved)) == len(positions)


def test_order_differs_by_seed_and_epoch():
    orders = [permutation(seed, epoch, 100) for seed in range(4) for epoch in range(4)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Two random orders of 100 agree in one place on average, and in ten almost never.
            assert (one == other).sum() < 10


def test_every_sample_is_about_as_likely_in_every_place():
    size, draws = 8, 4000
    seeds = np.random.default_rng(0).integers(0, 2**32, draws, dtype=np.uint32)
    places = jax.vmap(lambda seed: shuffled(seed, jnp.zeros(size, jnp.int32), jnp.arange(size), jnp.int32(size)))(seeds)
    counts = np.stack([np.bincount(np.asarray(places)[:, place], minlength=size) for place in range(size)])
    chi_square = ((counts - draws / size) ** 2 / (draws / size)).sum()
    # 49 degrees of freedom: a fair shuffle stays below 100 with probability 0.99997.
    assert chi_square < 100


@pytest.mark.parametrize(("size", "batch_size"), [(1, 4), (3, 16), (10, 4), (16, 16), (37, 8)])
def test_batches_see_every_sample_once_before_any_twice(size, batch_size):
    steps = -(-3 * size // batch_size)
    seen = np.concatenate(
        [batch_positions(jnp.uint32(5), jnp.int32(s), batch_size, jnp.int32(size)) for s in range(steps)]
    )
    assert len(seen) == steps * batch_size
    for epoch in seen[: len(seen) // size * size].reshape(-1, size):
        assert sorted(epoch) == list(range(size))
