"""Averaged client moments are the moments of the pooled data."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmfl_jax.algorithms import find
from mmfl_jax.engine.moments import about, feasible, pooled

CHANNELS, GROUP = 6, 3


def moments_of(x):
    """Return the moments of ``[n, channels]`` in float64, as the layers of a model hold them."""
    mean = x.mean(axis=0)
    covariance = np.cov(x.T, bias=True)
    blocks = np.stack([covariance[g : g + GROUP, g : g + GROUP] for g in range(0, CHANNELS, GROUP)])
    return {"bn/mean": mean, "bn/var": x.var(axis=0), "fw/mean": mean, "fw/cov": blocks}


def average(clients, centre, weights):
    single = [{n: jnp.asarray(v, jnp.float32) for n, v in client.items()} for client in clients]
    centre = {n: jnp.asarray(v, jnp.float32) for n, v in centre.items()}
    sent = [about(centre, client) for client in single]
    mean = {n: sum(w * s[n] for w, s in zip(weights, sent)) / sum(weights) for n in centre}
    return pooled(centre, mean)


def test_unequal_clients_pool_to_the_moments_of_all_data():
    rng = np.random.default_rng(0)
    data = [
        rng.normal(rng.normal(0, 2, CHANNELS), 1, (n, CHANNELS)) @ rng.normal(size=(CHANNELS,) * 2)
        for n in (3, 50, 200)
    ]
    centre = moments_of(rng.normal(size=(10, CHANNELS)))
    found = average([moments_of(x) for x in data], centre, [len(x) for x in data])
    expected = moments_of(np.concatenate(data))
    naive = np.average([x.var(axis=0) for x in data], axis=0, weights=[len(x) for x in data])
    assert np.abs(naive - expected["bn/var"]).max() > 1  # a mean of variances would be far off
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)
        assert found[name].dtype == jnp.float32


def test_large_means_stay_exact_about_a_near_centre():
    rng = np.random.default_rng(1)
    data = [rng.normal(1000 + shift, 1, (100, CHANNELS)) for shift in (-0.5, 0.0, 1.0)]
    centre = moments_of(rng.normal(1000, 1, (100, CHANNELS)))
    # What the server gets is rounded to float32 already; the pooling must lose no more than that.
    rounded = [{n: np.asarray(v, np.float32).astype(np.float64) for n, v in moments_of(x).items()} for x in data]
    means = np.stack([r["bn/mean"] for r in rounded])
    expected = np.mean([r["bn/var"] for r in rounded], axis=0) + means.var(axis=0)
    found = average(rounded, centre, [1.0, 1.0, 1.0])
    np.testing.assert_allclose(found["bn/var"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["bn/mean"], means.mean(axis=0), rtol=1e-6)
    outer = np.stack([np.cov(means[:, g : g + GROUP].T, bias=True) for g in range(0, CHANNELS, GROUP)])
    np.testing.assert_allclose(found["fw/cov"], np.mean([r["fw/cov"] for r in rounded], axis=0) + outer, atol=1e-4)
    raw = np.mean([np.float32(r["bn/var"] + r["bn/mean"] ** 2) for r in rounded], axis=0, dtype=np.float32)
    cancelled = raw - np.float32(means.mean(axis=0)) ** 2
    assert np.abs(cancelled - expected).max() > 1e-2  # what raw second moments would have given


@pytest.mark.parametrize("weights", [[1.0], [0.3]])
def test_one_client_gets_its_own_moments_back(weights):
    mine = moments_of(np.random.default_rng(2).normal(3, 2, (20, CHANNELS)))
    centre = moments_of(np.random.default_rng(3).normal(size=(20, CHANNELS)))
    found = average([mine], centre, weights)
    for name, value in mine.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)


def test_a_median_of_covariances_is_made_one_that_can_be():
    rng = np.random.default_rng(0)
    centre = {"n/mean": jnp.zeros(4), "n/cov": jnp.eye(4)[None], "m/mean": jnp.zeros(3), "m/var": jnp.ones(3)}
    combine, worst = find("median").reduce.combine, 0.0
    for _ in range(30):
        each = []
        for _ in range(5):
            mixed = rng.normal(size=(4, 1)) @ rng.normal(size=(1, 4)) + 0.3 * rng.normal(size=(4, 4))
            x = rng.normal(size=(400, 4)) @ mixed.T + rng.normal(size=4)
            y = 0.1 * rng.normal(size=(400, 3)) + 2 * rng.normal(size=3)
            stats = {"n/mean": x.mean(0), "n/cov": np.cov(x.T)[None], "m/mean": y.mean(0), "m/var": y.var(0)}
            each.append(about(centre, {n: jnp.asarray(v, jnp.float32) for n, v in stats.items()}))
        stack = {"moments": {n: jnp.stack([one[n] for one in each]) for n in each[0]}}
        found = pooled(centre, combine(stack, jnp.ones(5))["moments"])
        worst = min(worst, float(np.linalg.eigvalsh(found["n/cov"]).min()), float(found["m/var"].min()))
        made = feasible(found)
        assert np.linalg.eigvalsh(made["n/cov"]).min() > -1e-5
        assert made["m/var"].min() >= 0
        np.testing.assert_array_equal(made["n/mean"], found["n/mean"])
    assert worst < -0.01  # without it
    kept = {"n/mean": jnp.zeros(4), "n/cov": jnp.asarray([[[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]])}
    np.testing.assert_allclose(feasible(kept)["n/cov"], kept["n/cov"], atol=1e-6)
