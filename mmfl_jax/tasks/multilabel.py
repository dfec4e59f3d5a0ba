"""Several labels a sample: ``[samples, classes]`` of 0 and 1."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmfl_jax.tasks.metrics import best_threshold, most_frequent_labels, multilabel_metrics, tuned_metrics
from mmfl_jax.tasks.task import Array, Measured, Task


@dataclasses.dataclass(frozen=True)
class Multilabel(Task):
    """Answer which classes a sample has: sigmoid cross-entropy, mean over classes."""

    name = "multilabel"
    tunes = True
    noise = ("symmetric", "additive", "subtractive")

    def counts(self, table: np.ndarray, owner: np.ndarray, owners: int) -> np.ndarray:
        """Return numbers of samples with each class, then of samples that are labelled."""
        sample, label = np.nonzero(table == 1)
        labelled = owner[(table != self.unlabelled).all(axis=1)]
        size = owners * self.classes
        found = np.bincount(owner[sample] * self.classes + label, minlength=size).reshape(owners, self.classes)
        return np.concatenate([found, np.bincount(labelled, minlength=owners)[:, None]], axis=1)

    def sorting_class(self, table: np.ndarray) -> np.ndarray:
        """Return the rarest of a sample's labels."""
        frequency = table.sum(axis=0, dtype=np.int64)
        rarity = np.where(table > 0, frequency, np.iinfo(np.int64).max)
        return np.where(table.any(axis=1), rarity.argmin(axis=1), -1)

    def wrong(self, labels: np.ndarray, chosen: np.ndarray, rng: np.random.Generator, kind: str) -> np.ndarray:
        """Return labels flipped where ``chosen``, each class of each sample by itself.

        As few classes are present, most flips add one; ``additive`` only adds (absent ones), ``subtractive`` only takes
        away (present ones).
        """
        if kind != "symmetric":
            chosen = chosen & (labels == (kind == "subtractive"))
        return np.where(chosen, 1 - labels, labels).astype(labels.dtype)

    def flipped(self, labels: np.ndarray) -> np.ndarray:
        """Return present for absent, and absent for present."""
        return (1 - labels).astype(labels.dtype)

    def loss(self, logits: Array, targets: Array) -> Array:
        """Return sigmoid cross-entropy over the labelled samples, 0 where there is none."""
        labelled = (targets != self.unlabelled).astype(logits.dtype)
        each = optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype))
        return jnp.where(labelled > 0, each, 0).mean() / jnp.maximum(labelled.mean(), 1e-12)

    def presence(self, targets: Array) -> Array:
        """Return the labels; an unlabelled sample has none."""
        return jnp.where(targets == self.unlabelled, 0, targets)

    def predict(self, logits: Array) -> Array:
        """Return each class's own probability."""
        return jax.nn.sigmoid(logits)

    def evidence(self, counts: Array) -> Array:
        """Return log-odds of presence."""
        # Half a sample more with every class keeps the logarithm of a class that the client lacks finite.
        present, total = counts[..., :-1].astype(jnp.float32) + 0.5, counts[..., -1:].astype(jnp.float32)
        return jnp.log(present) - jnp.log(total + 1 - present)

    def scores(self, table: np.ndarray, measured: Measured) -> dict[str, Any]:
        """Return F1, mAP and subset accuracy."""
        return multilabel_metrics(table, measured.rows["probabilities"])

    def tuned_scores(
        self, validation: tuple[np.ndarray, Measured], table: np.ndarray, measured: Measured
    ) -> dict[str, Any]:
        """Return F1 at the one threshold of the highest micro-F1 on validation samples."""
        seen, found = validation
        threshold = best_threshold(seen, found.rows["probabilities"])
        return tuned_metrics(table, measured.rows["probabilities"], threshold)

    def baseline(self, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
        """Answer the k most frequent labels for every sample, with the k of the highest micro-F1 in training."""
        return most_frequent_labels(train, test)
