"""Labels by pixel: the loss against its formula, measures against scikit-learn, noise, and what ignored pixels do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference

from mmfl_jax.archives.base import IGNORED
from mmfl_jax.tasks import find
from mmfl_jax.tasks.task import Measured

CLASSES = 4


def tiles(seed=0, count=3, side=6):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, side, side, CLASSES))
    labels = rng.integers(0, CLASSES, (count, side, side)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = IGNORED
    return logits, labels


def probabilities(logits):
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def entropy(logits, labels, weights):
    there = labels != IGNORED
    p = np.take_along_axis(probabilities(logits), np.where(there, labels, 0)[..., None].astype(int), -1)[..., 0]
    weight = np.where(there, np.asarray(weights)[np.where(there, labels, 0)], 0)
    return -(weight * np.log(p)).sum() / there.sum()


def dice(logits, labels):
    there = labels != IGNORED
    p = probabilities(logits) * there[..., None]
    losses = [
        1 - 2 * p[..., c][labels == c].sum() / (p[..., c].sum() + (labels == c).sum())
        for c in range(CLASSES)
        if (labels == c).any()
    ]
    return np.mean(losses)


def test_loss_is_cross_entropy_of_the_labelled_pixels():
    logits, labels = tiles()
    found = find("pixel", CLASSES).loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    np.testing.assert_allclose(found, entropy(logits, labels, np.ones(CLASSES)), rtol=1e-5)


def test_weights_and_dice_are_those_of_the_formulas():
    logits, labels = tiles()
    totals = np.array([10, 0, 30, 60, 100])
    task = find("pixel", CLASSES).weighted(1, 0.5, totals)
    np.testing.assert_allclose(task.weights, [100 / 10 / 3, 1, 100 / 30 / 3, 100 / 60 / 3])
    assert np.dot(task.weights, totals[:-1]) / 100 == pytest.approx(1)
    root = np.array(find("pixel", CLASSES).weighted(0.5, 0, totals).weights)
    assert np.dot(root, totals[:-1]) / 100 == pytest.approx(1)
    np.testing.assert_allclose(root[[0, 2, 3]] / root[0], [1, 3**-0.5, 6**-0.5])
    found = task.loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    np.testing.assert_allclose(found, entropy(logits, labels, task.weights) + 0.5 * dice(logits, labels), rtol=1e-5)


def test_a_batch_without_a_label_costs_nothing():
    logits, labels = tiles()
    task = find("pixel", CLASSES).weighted(1, 1.0, np.array([1, 1, 1, 1, 4]))
    value, gradient = jax.value_and_grad(task.loss)(
        jnp.asarray(logits, jnp.float32), jnp.full(labels.shape, IGNORED, jnp.uint8)
    )
    assert value == 0
    assert (np.asarray(gradient) == 0).all()


def test_models_of_their_own_have_losses_of_their_own():
    (one, labels), (two, _) = tiles(0), tiles(1)
    task = find("pixel", CLASSES).weighted(0, 0.3, np.ones(CLASSES + 1))
    both = task.loss(jnp.asarray(np.stack([one, two]), jnp.float32), jnp.asarray(labels))
    each = [task.loss(jnp.asarray(x, jnp.float32), jnp.asarray(labels)) for x in (one, two)]
    np.testing.assert_allclose(both, np.mean(each), rtol=1e-6)


def test_measures_of_batches_add_up_to_scikit_learn_scores():
    task = find("pixel", CLASSES)
    logits, labels = tiles(count=5)
    parts = [
        task.measure(jnp.asarray(logits[i : i + 2], jnp.float32), jnp.asarray(labels[i : i + 2])) for i in (0, 2, 4)
    ]
    confusion = np.sum([part.sums["confusion"] for part in parts], axis=0)
    there, answers = labels != IGNORED, logits.argmax(axis=-1)
    np.testing.assert_array_equal(
        confusion, reference.confusion_matrix(labels[there], answers[there], labels=range(CLASSES))
    )
    rows = {n: np.concatenate([part.rows[n] for part in parts]) for n in parts[0].rows}
    np.testing.assert_array_equal(rows["labelled"], there.sum(axis=(1, 2)))
    np.testing.assert_array_equal(rows["hits"], ((answers == labels) & there).sum(axis=(1, 2)))
    scores = task.scores(labels, Measured(rows, {"confusion": confusion}))
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(labels[there], answers[there]))


def test_answers_that_are_no_numbers_show_in_the_measure():
    logits, labels = tiles()
    logits[1, 0, 0, 0] = np.nan
    hits = find("pixel", CLASSES).measure(jnp.asarray(logits, jnp.float32), jnp.asarray(labels)).rows["hits"]
    assert np.isnan(hits).tolist() == [False, True, False]


def test_tables_count_pixels_by_class_and_owner():
    task = find("pixel", CLASSES)
    _, labels = tiles(count=4)
    table = task.table(labels)
    for row, label in zip(table, labels):
        assert row.tolist() == np.bincount(label[label != IGNORED], minlength=CLASSES).tolist()
    counts = task.counts(table, np.array([0, 2, 2, 0]), 3)
    assert counts[:, :-1].tolist() == [(table[0] + table[3]).tolist(), [0] * CLASSES, (table[1] + table[2]).tolist()]
    assert counts[:, -1].tolist() == counts[:, :-1].sum(axis=1).tolist()
    assert task.sorting_class(np.array([[1, 5, 2, 0], [0, 0, 0, 0]])).tolist() == [1, -1]


def test_presence_is_of_any_pixel():
    _, labels = tiles(side=2)
    expected = [[c in label for c in range(CLASSES)] for label in labels]
    np.testing.assert_array_equal(find("pixel", CLASSES).presence(jnp.asarray(labels)), expected)


def test_baseline_answers_the_class_of_most_pixels():
    found = find("pixel", 3).baseline(np.array([[5, 9, 0], [6, 1, 0]]), np.array([[2, 3, 5]]))
    assert found["accuracy"] == 0.2
    assert found["confusion"] == [[2, 0, 0], [3, 0, 0], [5, 0, 0]]
    assert found["miou"] == pytest.approx(0.2 / 3)
    assert "every pixel" in found["rule"]


def test_pixels_of_a_batch_are_counted_beyond_what_float32_can():
    labels = np.zeros((3, 2500, 2500), np.uint8)  # 18.75 million of one class: sums of ones in float32 end at 16.8
    logits = jnp.broadcast_to(jnp.array([1.0, 0.0], jnp.float32), (*labels.shape, 2))
    found = jax.jit(find("pixel", 2).measure)(logits, labels)
    assert found.sums["confusion"].tolist() == [[labels.size, 0], [0, 0]]
