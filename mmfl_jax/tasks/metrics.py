"""Scores of predictions, in NumPy float64 and exact against scikit-learn.

Three conventions hold throughout. A ratio whose denominator is zero counts as 0 (scikit-learn's
``zero_division=0``). A multi-label class that no sample of the set has says nothing about the model, so it
is left out of macro averages and is ``None`` in the lists by class. Thresholds are inclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

#: Share of samples from which a class is common: F1 of rarer ones hangs on a few samples.
COMMON = 0.04

Floats = npt.NDArray[np.float64]


def multilabel_metrics(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float = 0.5) -> dict[str, Any]:
    """Score multi-label predictions against labels.

    Args:
      labels: [samples, classes], 0 or 1.
      probabilities: [samples, classes]; a class is predicted from ``threshold`` upwards.
      threshold: the probability at which a class counts as predicted.

    Returns:
      ``f1_micro``, ``f1_macro``, ``map`` (macro mean of the average precision) and ``subset_accuracy`` (share
      of samples with every label right) as floats; ``f1_per_class``, ``ap_per_class`` (``None`` for a class
      without a positive, which macro averages leave out) and ``support`` (positives) as lists. ``f1_macro``
      and ``map`` are ``None`` where no class has a positive.

    Raises:
      ValueError: if shapes differ, a label is not 0 or 1, a probability is not a number, or nothing is given.
    """
    truth, scores = _checked_multilabel(labels, probabilities)
    average_precisions = [average_precision(truth[:, c], scores[:, c]) for c in range(truth.shape[1])]
    return _multilabel_scores(truth, scores >= threshold, average_precisions)


def best_threshold(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the one threshold for all classes that has the highest micro-F1; the largest of equals.

    Args:
      labels: [samples, classes], 0 or 1, of validation samples.
      probabilities: [samples, classes].

    Raises:
      ValueError: as :func:`multilabel_metrics`.
    """
    truth, scores = _checked_multilabel(labels, probabilities)
    truth, scores = truth.ravel(), scores.ravel()
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_ties = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    hits = np.cumsum(truth[order], dtype=np.int64)[last_of_ties]
    micro_f1 = 2 * hits / (truth.sum() + last_of_ties + 1)
    return float(ranked[last_of_ties[micro_f1.argmax()]])


def tuned_metrics(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float) -> dict[str, Any]:
    """Score multi-label predictions at a threshold that was tuned on other samples.

    Returns:
      ``threshold``, ``f1_tuned`` (micro-F1) and ``f1_macro_common`` (macro-F1 over the classes that at least 4 % of the
      samples have, ``None`` where there is none).

    Raises:
      ValueError: as :func:`multilabel_metrics`.
    """
    truth, scores = _checked_multilabel(labels, probabilities)
    found = _multilabel_scores(truth, scores >= threshold, [])
    common = [f1 for f1, share in zip(found["f1_per_class"], truth.mean(axis=0)) if share >= COMMON]
    return {"f1_tuned": found["f1_micro"], "f1_macro_common": _mean(common), "threshold": threshold}


def multiclass_metrics(labels: npt.ArrayLike, scores: npt.ArrayLike) -> dict[str, Any]:
    """Score multi-class predictions against labels.

    Args:
      labels: [samples], integers in [0, classes).
      scores: [samples, classes], probabilities or logits; the largest one is the prediction, the first of equals.

    Returns:
      ``accuracy``, ``f1_micro`` (equal to accuracy here), ``f1_macro`` (over the classes that occur in labels or
      predictions, as in scikit-learn) and ``balanced_accuracy`` (mean recall over the classes that occur in
      labels) as floats; ``f1_per_class`` (``None`` for a class in neither labels nor predictions), ``support``
      and ``confusion`` ([true class][predicted class]) as lists.

    Raises:
      ValueError: if shapes do not fit, a label is no class, a score is not a number, or nothing is given.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"scores must be [samples, classes] and not empty, got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError("scores hold NaN: has the training diverged?")
    truth = _checked_classes(labels, values.shape[1])
    if len(truth) != len(values):
        raise ValueError(f"labels and scores must have equally many samples, got {len(truth)} and {len(values)}")
    return _confusion_scores(_confusion(truth, values.argmax(axis=1), values.shape[1]))


def confusion_metrics(confusion: npt.ArrayLike) -> dict[str, Any]:
    """Score predictions by pixel, of which only the confusion matrix is kept.

    Args:
      confusion: [true class, predicted class], numbers of pixels.

    Returns:
      What :func:`multiclass_metrics` returns, and ``miou`` (mean intersection over union, over the classes that occur
      in labels or predictions) and ``iou_per_class`` (``None`` for a class in neither).

    Raises:
      ValueError: for a matrix that is not square, or without a pixel.
    """
    counts = np.asarray(confusion, np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.sum():
        raise ValueError(f"a confusion matrix must be square and not empty, got shape {counts.shape}")
    hits, union = counts.diagonal(), counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
    iou_per_class = _optional(_ratio(hits, union), union > 0)
    return {"miou": _mean(iou_per_class), **_confusion_scores(counts), "iou_per_class": iou_per_class}


def most_frequent_labels(train_labels: npt.ArrayLike, test_labels: npt.ArrayLike) -> dict[str, Any]:
    """Score the best fixed set of labels: the k most frequent ones, with the k of the highest micro-F1 in training.

    Args:
      train_labels: [samples, classes] of 0 and 1.
      test_labels: the same for the test set.

    Returns:
      What :func:`multilabel_metrics` returns, and ``rule``, the prediction in words.

    Raises:
      ValueError: if labels have a wrong shape or value.
    """
    train, _ = _checked_multilabel(train_labels, train_labels)
    test, _ = _checked_multilabel(test_labels, test_labels)
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"training and test labels differ in classes: {train.shape[1]} and {test.shape[1]}")
    counts = train.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    sizes = np.arange(1, len(order) + 1)
    micro_f1 = _ratio(2 * np.cumsum(counts[order]), counts.sum() + len(train) * sizes)
    size = int(sizes[micro_f1.argmax()])
    fixed = np.zeros(train.shape[1], bool)
    fixed[order[:size]] = True
    predicted = np.broadcast_to(fixed, test.shape)
    # A constant score has one step in recall, so its average precision is the share of positives.
    average_precisions = [float(share) if share > 0 else None for share in test.mean(axis=0)]
    rule = "the most frequent label" if size == 1 else f"the {size} most frequent labels"
    return {**_multilabel_scores(test, predicted, average_precisions), "rule": f"{rule} for every sample"}


def most_frequent_class(train_labels: npt.ArrayLike, test_labels: npt.ArrayLike, classes: int) -> dict[str, Any]:
    """Score the most frequent class of the training labels as the answer for every sample.

    Args:
      train_labels: [samples] of integers.
      test_labels: the same for the test set.
      classes: how many there are.

    Returns:
      What :func:`multiclass_metrics` returns, and ``rule``, the prediction in words.

    Raises:
      ValueError: if labels have a wrong shape or value.
    """
    train, test = _checked_classes(train_labels, classes), _checked_classes(test_labels, classes)
    confusion = _confusion(test, np.full(len(test), np.bincount(train).argmax()), classes)
    return {**_confusion_scores(confusion), "rule": "the most frequent class for every sample"}


def average_precision(truth: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float | None:
    """Sum precision over the steps in recall, equal scores forming one step.

    Args:
      truth: [samples], 0 or 1.
      scores: [samples].

    Returns:
      The average precision in [0, 1], or ``None`` without a positive.
    """
    positives = int(truth.sum(dtype=np.int64))
    if positives == 0:
        return None
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_ties = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    hits = np.cumsum(truth[order], dtype=np.int64)[last_of_ties]
    precision = hits / (last_of_ties + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / positives)


def _checked_multilabel(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], Floats]:
    truth, values = np.asarray(labels), np.asarray(scores, np.float64)
    if truth.ndim != 2 or truth.shape != values.shape or truth.size == 0:
        raise ValueError(
            "labels and probabilities must both be [samples, classes] and not empty, "
            f"got shapes {truth.shape} and {values.shape}"
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("multi-label labels must be 0 or 1")
    if np.isnan(values).any():
        raise ValueError("probabilities hold NaN: has the training diverged?")
    return truth.astype(bool), values


def _checked_classes(labels: npt.ArrayLike, classes: int) -> npt.NDArray[np.int64]:
    truth = np.asarray(labels)
    if truth.ndim != 1 or truth.size == 0 or not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(
            f"labels must be [samples] of integers and not empty, got shape {truth.shape} of {truth.dtype}"
        )
    if truth.min() < 0 or truth.max() >= classes:
        raise ValueError(f"labels must lie in [0, {classes}), got {truth.min()} to {truth.max()}")
    return truth.astype(np.int64)


def _ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    return np.divide(top, bottom, out=np.zeros(top.shape), where=bottom != 0)


def _optional(values: Floats, defined: npt.NDArray[np.bool_]) -> list[float | None]:
    return [float(value) if known else None for value, known in zip(values, defined)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _multilabel_scores(
    truth: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_], average_precisions: list[float | None]
) -> dict[str, Any]:
    hits = (truth & predicted).sum(axis=0)
    support, claimed = truth.sum(axis=0), predicted.sum(axis=0)
    f1_per_class = _optional(_ratio(2 * hits, support + claimed), support > 0)
    return {
        "f1_micro": float(_ratio(2 * hits.sum(), support.sum() + claimed.sum())),
        "f1_macro": _mean(f1_per_class),
        "map": _mean(average_precisions),
        "subset_accuracy": float((truth == predicted).all(axis=1).mean()),
        "f1_per_class": f1_per_class,
        "ap_per_class": average_precisions,
        "support": support.tolist(),
    }


def _confusion(truth: npt.NDArray[np.int64], predicted: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def _confusion_scores(confusion: npt.NDArray[np.int64]) -> dict[str, Any]:
    hits, support, claimed = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    f1_per_class = _optional(_ratio(2 * hits, support + claimed), support + claimed > 0)
    accuracy = float(hits.sum() / confusion.sum())
    return {
        "accuracy": accuracy,
        "f1_micro": accuracy,
        "f1_macro": _mean(f1_per_class),
        "balanced_accuracy": float(_ratio(hits, support)[support > 0].mean()),
        "f1_per_class": f1_per_class,
        "support": support.tolist(),
        "confusion": confusion.tolist(),
    }
