"""Task losses and logit calibration against their formulas in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmfl_jax.errors import UserError
from mmfl_jax.objectives.calibration import calibration_offsets
from mmfl_jax.tasks import find

# Samples of each of three classes, then all samples: the client's, and the federation's.
COUNTS = np.array([6, 0, 2, 8])
TOTALS = np.array([20, 30, 50, 100])


def test_multilabel_is_sigmoid_cross_entropy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (5, 4)), rng.integers(0, 2, (5, 4))
    p = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    found = find("multilabel", 4).loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.uint8))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_multiclass_is_softmax_cross_entropy():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(0, 3, (5, 4)), rng.integers(0, 4, 5)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(5), label]).mean()
    found = find("multiclass", 4).loss(jnp.asarray(logits, jnp.float32), jnp.asarray(np.eye(4)[label], jnp.uint8))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_unknown_task():
    with pytest.raises(UserError, match="task 'pixels' is unknown; one of multilabel, multiclass, pixel"):
        find("pixels", 2)


def evidence(task, counts):
    present, total = counts[:-1] + 0.5, counts[-1]
    if task == "multilabel":
        share = present / (total + 1)
        return np.log(share / (1 - share))
    return np.log(present / (total + 0.5 * (len(counts) - 1)))


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["none", "fedlc", "share", "relative"])
def test_offsets_are_those_of_the_formula(kind, task, strength):
    expected = {
        "none": np.zeros(3),
        "fedlc": -(np.maximum(COUNTS[:-1], 1) ** -0.25),
        "share": evidence(task, COUNTS),
        "relative": evidence(task, COUNTS) - evidence(task, TOTALS),
    }[kind]
    found = calibration_offsets(kind, find(task, 3), jnp.asarray(COUNTS), jnp.asarray(TOTALS), strength)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, strength * expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_relative_offsets_spare_a_client_like_the_federation(task):
    mine = calibration_offsets("relative", find(task, 3), jnp.asarray(TOTALS), jnp.asarray(TOTALS), 1.0)
    np.testing.assert_array_equal(mine, 0)
    # A tenth of the federation with the same shares differs by no more than half a sample does.
    tenth = calibration_offsets("relative", find(task, 3), jnp.asarray(TOTALS // 10), jnp.asarray(TOTALS), 1.0)
    assert np.abs(tenth).max() < 0.25


def test_offsets_of_many_clients_are_those_of_each():
    counts = jnp.asarray(np.stack([COUNTS, TOTALS, COUNTS[::-1]]))
    together = calibration_offsets("relative", find("multiclass", 3), counts, jnp.asarray(TOTALS), 1.0)
    for row, alone in zip(together, counts):
        np.testing.assert_allclose(
            row, calibration_offsets("relative", find("multiclass", 3), alone, jnp.asarray(TOTALS), 1.0)
        )


def test_unknown_calibration():
    with pytest.raises(ValueError, match="logit calibration 'fedcl' is unknown; one of none, fedlc, share, relative"):
        calibration_offsets("fedcl", find("multiclass", 3), jnp.asarray(COUNTS), jnp.asarray(TOTALS), 1.0)
