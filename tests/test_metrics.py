"""Scores against scikit-learn, on random data and on every corner hypothesis finds."""

import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from mmfl_jax.tasks.metrics import (
    average_precision,
    best_threshold,
    confusion_metrics,
    most_frequent_class,
    most_frequent_labels,
    multiclass_metrics,
    multilabel_metrics,
    tuned_metrics,
)

SETTINGS = hypothesis.settings(max_examples=120, deadline=None, derandomize=True)


@st.composite
def multilabel_sets(draw):
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 5)))
    labels = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    # Few distinct values: most scores are tied, and some lie exactly on the threshold.
    scores = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])))
    return labels, scores


@st.composite
def multiclass_sets(draw):
    samples, classes = draw(st.tuples(st.integers(1, 15), st.integers(1, 5)))
    labels = draw(hnp.arrays(np.int32, samples, elements=st.integers(0, classes - 1)))
    return labels, draw(hnp.arrays(np.float32, (samples, classes), elements=st.integers(-2, 2).map(float)))


def check_multilabel(labels, predicted, ours):
    seen = labels.any(axis=0)
    each = reference.f1_score(labels, predicted, average=None, zero_division=0)
    flat = labels.ravel(), predicted.ravel()
    assert ours["f1_micro"] == pytest.approx(reference.f1_score(*flat, zero_division=0), abs=1e-12)
    assert ours["subset_accuracy"] == pytest.approx((labels == predicted).all(axis=1).mean(), abs=1e-12)
    assert ours["support"] == labels.sum(axis=0, dtype=int).tolist()
    assert [value is not None for value in ours["f1_per_class"]] == seen.tolist()
    np.testing.assert_allclose([v for v in ours["f1_per_class"] if v is not None], each[seen], atol=1e-12)
    if seen.any():
        expected = reference.f1_score(labels[:, seen], predicted[:, seen], average="macro", zero_division=0)
        if seen.sum() == 1:  # scikit-learn takes one column for a binary problem
            expected = each[seen][0] if labels.shape[1] > 1 else reference.f1_score(*flat, zero_division=0)
        assert ours["f1_macro"] == pytest.approx(expected, abs=1e-12)
    else:
        assert ours["f1_macro"] is None
        assert ours["map"] is None


@SETTINGS
@hypothesis.given(multilabel_sets())
def test_multilabel_equals_scikit_learn(case):
    labels, scores = case
    ours = multilabel_metrics(labels, scores)
    if labels.shape[1] > 1:
        check_multilabel(labels, (scores >= 0.5).astype(np.uint8), ours)
    seen = np.flatnonzero(labels.any(axis=0))
    each = [reference.average_precision_score(labels[:, c], scores[:, c]) for c in seen]
    np.testing.assert_allclose([v for v in ours["ap_per_class"] if v is not None], each, atol=1e-12)
    if len(seen):
        assert ours["map"] == pytest.approx(np.mean(each), abs=1e-12)


@SETTINGS
@hypothesis.given(multiclass_sets())
def test_multiclass_equals_scikit_learn(case):
    labels, scores = case
    classes, predicted = scores.shape[1], scores.argmax(axis=1)
    ours = multiclass_metrics(labels, scores)
    assert ours["accuracy"] == ours["f1_micro"] == pytest.approx(reference.accuracy_score(labels, predicted))
    macro = reference.f1_score(labels, predicted, average="macro", zero_division=0)
    assert ours["f1_macro"] == pytest.approx(macro, abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about classes that are only predicted
        assert ours["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
        confusion = reference.confusion_matrix(labels, predicted, labels=range(classes))
    assert ours["confusion"] == confusion.tolist()
    assert ours["support"] == confusion.sum(axis=1).tolist()
    each = reference.f1_score(labels, predicted, labels=range(classes), average=None, zero_division=0)
    occurs = set(labels) | set(predicted)
    assert ours["f1_per_class"] == [pytest.approx(each[c]) if c in occurs else None for c in range(classes)]


def test_multilabel_on_a_large_set():
    rng = np.random.default_rng(0)
    labels = (rng.random((20_000, 19)) < rng.random(19) * 0.4).astype(np.uint8)
    scores = np.clip(labels * 0.3 + rng.random(labels.shape) * 0.8, 0, 1).astype(np.float32)
    ours = multilabel_metrics(labels, scores)
    check_multilabel(labels, (scores >= 0.5).astype(np.uint8), ours)
    assert ours["map"] == pytest.approx(reference.average_precision_score(labels, scores, average="macro"), abs=1e-12)


def test_threshold_is_inclusive_and_an_option():
    labels, scores = [[1, 0]], [[0.7, 0.7]]
    assert multilabel_metrics(labels, scores, threshold=0.7)["f1_per_class"] == [1.0, None]
    assert multilabel_metrics(labels, scores, threshold=0.71)["f1_micro"] == 0


def test_average_precision_of_all_ties_is_the_share_of_positives():
    assert average_precision(np.array([1, 0, 0, 1]), np.zeros(4)) == 0.5
    assert average_precision(np.zeros(3), np.arange(3.0)) is None


@SETTINGS
@hypothesis.given(multilabel_sets(), st.integers(0, 3))
def test_multilabel_baseline_is_the_best_set_of_frequent_labels(case, seed):
    test = case[0]
    train = (np.random.default_rng(seed).random((9, test.shape[1])) < 0.4).astype(np.uint8)
    ours = most_frequent_labels(train, test)
    order = np.argsort(-train.sum(axis=0).astype(int), kind="stable")

    def fixed(size, rows):
        return np.tile(np.isin(np.arange(train.shape[1]), order[:size]), (rows, 1)).astype(np.uint8)

    def micro(size):
        return reference.f1_score(train.ravel(), fixed(size, len(train)).ravel(), zero_division=0)

    best = max(range(1, len(order) + 1), key=lambda size: (round(micro(size), 12), -size))
    expected = multilabel_metrics(test, fixed(best, len(test)).astype(np.float32))
    assert {key: ours[key] for key in expected if key not in ("map", "ap_per_class")} == {
        key: value for key, value in expected.items() if key not in ("map", "ap_per_class")
    }
    assert ours["map"] == (pytest.approx(expected["map"]) if expected["map"] is not None else None)
    assert str(best) in ours["rule"] or best == 1


def test_multiclass_baseline_is_the_most_frequent_class():
    ours = most_frequent_class([2, 2, 1], [2, 0, 0, 1], 5)
    assert ours["accuracy"] == 0.25
    assert ours["support"] == [2, 1, 1, 0, 0]
    assert ours["f1_per_class"] == [0, 0, pytest.approx(0.4), None, None]
    assert "most frequent class" in ours["rule"]


@SETTINGS
@hypothesis.given(st.data(), st.integers(2, 6), st.integers(1, 40))
def test_scores_of_a_confusion_matrix_are_those_of_its_pixels(data, classes, pixels):
    elements = st.integers(0, classes - 1)
    truth = data.draw(hnp.arrays(np.int64, pixels, elements=elements))
    found = data.draw(hnp.arrays(np.int64, pixels, elements=elements))
    ours = confusion_metrics(reference.confusion_matrix(truth, found, labels=range(classes)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without a label, which both leave out
        present = np.union1d(truth, found)
        assert ours["miou"] == pytest.approx(reference.jaccard_score(truth, found, labels=present, average="macro"))
        each = reference.jaccard_score(truth, found, labels=range(classes), average=None, zero_division=0)
        assert ours["f1_macro"] == pytest.approx(reference.f1_score(truth, found, average="macro"))
        assert ours["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, found))
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(truth, found))
    for c, value in enumerate(ours["iou_per_class"]):
        assert value == (pytest.approx(each[c]) if c in present else None)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: multilabel_metrics([[1, 0]], [[0.1]]), "shapes"),
        (lambda: multilabel_metrics([1, 0], [0.1, 0.2]), "shapes"),
        (lambda: multilabel_metrics(np.zeros((0, 3)), np.zeros((0, 3))), "not empty"),
        (lambda: multilabel_metrics([[2, 0]], [[0.1, 0.2]]), "0 or 1"),
        (lambda: multilabel_metrics([[1, 0]], [[np.nan, 0.2]]), "NaN"),
        (lambda: multiclass_metrics([0, 1], [[0.1, 0.9]]), "equally many"),
        (lambda: multiclass_metrics([2], [[0.1, 0.9]]), r"lie in \[0, 2\)"),
        (lambda: multiclass_metrics([-1], [[0.1, 0.9]]), r"lie in \[0, 2\)"),
        (lambda: multiclass_metrics([0.5], [[0.1, 0.9]]), "integers"),
        (lambda: multiclass_metrics([0], [0.1, 0.9]), "scores must be"),
        (lambda: multiclass_metrics([0], [[np.nan, 0.9]]), "NaN"),
        (lambda: confusion_metrics([[1, 2]]), "square"),
        (lambda: confusion_metrics(np.zeros((2, 2))), "not empty"),
        (lambda: most_frequent_labels([[0, 1]], [[1]]), "differ in classes"),
        (lambda: most_frequent_class([-3], [0], 2), r"lie in \[0, 2\)"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_best_threshold_is_that_of_trying_all():
    rng = np.random.default_rng(3)
    labels = (rng.random((60, 5)) < 0.3).astype(int)
    probabilities = np.round(np.clip(labels * 0.2 + rng.random((60, 5)) * 0.6, 0, 1), 2)  # with ties
    tried = [reference.f1_score(labels, probabilities >= t, average="micro") for t in np.unique(probabilities)]
    found = best_threshold(labels, probabilities)
    assert reference.f1_score(labels, probabilities >= found, average="micro") == pytest.approx(max(tried))
    assert found == np.unique(probabilities)[np.isclose(tried, max(tried))].max()


def test_tuned_scores_are_scikit_learns_and_leave_rare_classes_out():
    rng = np.random.default_rng(4)
    labels = (rng.random((100, 4)) < [0.5, 0.3, 0.2, 0.0]).astype(int)
    labels[:3, 3] = 1  # 3 of 100
    probabilities = rng.random((100, 4))
    found = tuned_metrics(labels, probabilities, 0.7)
    assert found["threshold"] == 0.7
    assert found["f1_tuned"] == pytest.approx(reference.f1_score(labels, probabilities >= 0.7, average="micro"))
    by_class = reference.f1_score(labels, probabilities >= 0.7, average=None)
    assert found["f1_macro_common"] == pytest.approx(by_class[:3].mean())
