"""One label a sample: ``[samples]`` class numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmfl_jax.tasks.metrics import most_frequent_class, multiclass_metrics
from mmfl_jax.tasks.task import Array, Measured, Task, mirrored_class, one_class_evidence, other_class


@dataclasses.dataclass(frozen=True)
class Multiclass(Task):
    """Answer which class a sample is of: softmax cross-entropy; targets are one-hot."""

    name = "multiclass"
    unlabelled = -1

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Return ``[samples, classes]`` one-hot; zeros where there is no label."""
        return (labels[:, None] == np.arange(self.classes)).astype(np.uint8)

    def counts(self, table: np.ndarray, owner: np.ndarray, owners: int) -> np.ndarray:
        """Return numbers of samples of each class, then of samples that are labelled."""
        owner, table = owner[table != self.unlabelled], table[table != self.unlabelled]
        found = np.bincount(owner * self.classes + table, minlength=owners * self.classes)
        found = found.reshape(owners, self.classes)
        return np.concatenate([found, np.bincount(owner, minlength=owners)[:, None]], axis=1)

    def sorting_class(self, table: np.ndarray) -> np.ndarray:
        """Return a sample's label."""
        return table.astype(np.int64)

    def wrong(self, labels: np.ndarray, chosen: np.ndarray, rng: np.random.Generator, kind: str) -> np.ndarray:
        """Return another class where ``chosen``."""
        return other_class(labels, chosen, self.classes, rng)

    def flipped(self, labels: np.ndarray) -> np.ndarray:
        """Return the class on the other end."""
        return mirrored_class(labels, self.classes)

    def loss(self, logits: Array, targets: Array) -> Array:
        """Return softmax cross-entropy over the labelled samples, 0 where there is none."""
        # Of an unlabelled sample's zeros cross-entropy is 0.
        truth = targets.astype(logits.dtype)
        return optax.softmax_cross_entropy(logits, truth).mean() / jnp.maximum(truth.sum(axis=-1).mean(), 1e-12)

    def predict(self, logits: Array) -> Array:
        """Return probabilities that sum to 1."""
        return jax.nn.softmax(logits)

    def evidence(self, counts: Array) -> Array:
        """Return log shares."""
        return one_class_evidence(counts)

    def scores(self, table: np.ndarray, measured: Measured) -> dict[str, Any]:
        """Return accuracy, F1 and the confusion matrix."""
        return multiclass_metrics(table, measured.rows["probabilities"])

    def baseline(self, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
        """Answer the most frequent class of the training samples."""
        return most_frequent_class(train, test, self.classes)
