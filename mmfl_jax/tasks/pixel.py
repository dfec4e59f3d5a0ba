"""A label a pixel: ``[samples, height, width]`` class numbers, 255 where there is none."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmfl_jax.archives.base import IGNORED
from mmfl_jax.tasks.metrics import confusion_metrics
from mmfl_jax.tasks.task import Array, Measured, Task, mirrored_class, one_class_evidence, other_class


@dataclasses.dataclass(frozen=True)
class Pixel(Task):
    """Answer which class each pixel is of: softmax cross-entropy over the labelled pixels, and Dice.

    Attributes:
      weights: of each class's pixels in cross-entropy; empty where all are alike.
      dice: weight of the Dice loss, 1 - the mean over the classes of a batch of twice the overlap over the sum of both
        areas (Milletari, Navab and Ahmadi, "V-Net", 3DV 2016); 0 for none.
    """

    weights: tuple[float, ...] = ()
    dice: float = 0.0
    name = "pixel"
    spatial = True

    def weighted(self, power: float, dice: float, totals: np.ndarray) -> Pixel:
        """Return the task with weights of its loss.

        Args:
          power: of the reciprocal of a class's share, which is its weight, such that a pixel's mean weight is 1; 0 for
            no weights. A class without a pixel has the weight 1.
          dice: weight of the Dice loss.
          totals: ``[classes + 1]`` pixels of each class in the federation, then all.
        """
        if not power:
            return dataclasses.replace(self, dice=dice)
        pixels, there = totals[:-1], totals[:-1] > 0
        rarity = (totals[-1] / np.maximum(pixels, 1)) ** power
        weights = np.where(there, rarity * totals[-1] / (rarity * pixels).sum(), 1.0)
        return dataclasses.replace(self, weights=tuple(weights.tolist()), dice=dice)

    def table(self, labels: np.ndarray) -> np.ndarray:
        """Return ``[samples, classes]`` numbers of pixels."""
        rows = labels.reshape(len(labels), -1)
        return np.stack([(rows == c).sum(axis=1) for c in range(self.classes)], axis=1).astype(np.int64)

    def counts(self, table: np.ndarray, owner: np.ndarray, owners: int) -> np.ndarray:
        """Return numbers of pixels of each class, then of labelled pixels."""
        found = np.zeros((owners, self.classes), np.int64)
        np.add.at(found, owner, table)
        return np.concatenate([found, found.sum(axis=1, keepdims=True)], axis=1)

    def sorting_class(self, table: np.ndarray) -> np.ndarray:
        """Return the class of most of a sample's pixels."""
        return np.where(table.any(axis=1), table.argmax(axis=1), -1)

    def wrong(self, labels: np.ndarray, chosen: np.ndarray, rng: np.random.Generator, kind: str) -> np.ndarray:
        """Return another class where ``chosen``, each pixel by itself."""
        return other_class(labels, chosen, self.classes, rng)

    def flipped(self, labels: np.ndarray) -> np.ndarray:
        """Return the class on the other end for every labelled pixel."""
        return mirrored_class(labels, self.classes)

    def loss(self, logits: Array, targets: Array) -> Array:
        """Return cross-entropy over the labelled pixels, 0 where there is none, and Dice as far as it has a weight."""
        # As 0 and 1 by class: a gather of one logit a pixel takes longer on every platform.
        truth = self._one_hot(targets)
        each = optax.softmax_cross_entropy(logits, truth)
        labelled = truth.sum(axis=-1)
        weight = truth @ jnp.asarray(self.weights, jnp.float32) if self.weights else labelled
        # Over the number of pixels, not the sum of their weights: else a client with one class would give it the weight
        # that all its classes have elsewhere, and the mean over clients would weigh nothing.
        entropy = (each * weight).mean() / jnp.maximum(labelled.mean(), 1e-12)
        return entropy + self.dice * self._dice(logits, truth) if self.dice else entropy

    def _one_hot(self, targets: Array) -> Array:
        return (targets[..., None] == jnp.arange(self.classes, dtype=targets.dtype)).astype(jnp.float32)

    def _dice(self, logits: Array, truth: Array) -> Array:
        labelled = truth.sum(axis=-1, keepdims=True)
        found = jax.nn.softmax(logits) * labelled
        axes = (-4, -3, -2)
        overlap = 2 * (found * truth).sum(axis=axes)
        areas, there = found.sum(axis=axes) + truth.sum(axis=axes), truth.sum(axis=axes) > 0
        loss = jnp.where(there, 1 - overlap / jnp.maximum(areas, 1e-6), 0.0)
        return (loss.sum(axis=-1) / jnp.maximum(there.sum(axis=-1), 1)).mean()

    def presence(self, targets: Array) -> Array:
        """Return which classes any pixel of a tile is of."""
        return self._one_hot(targets).max(axis=(-3, -2)).astype(jnp.uint8)

    def predict(self, logits: Array) -> Array:
        """Return probabilities that sum to 1 at every pixel."""
        return jax.nn.softmax(logits)

    def evidence(self, counts: Array) -> Array:
        """Return log shares of pixels."""
        return one_class_evidence(counts)

    def measure(self, logits: Array, targets: Array) -> Measured:
        """Return the confusion matrix of the batch, and hits and labelled pixels of each tile."""
        answers = logits.argmax(axis=-1)
        labelled = targets != IGNORED
        # A tile with answers that are no numbers has no hits that are one either.
        known = jnp.isfinite(logits).all(axis=(1, 2, 3))
        hits = jnp.where(known, ((answers == targets) & labelled).sum(axis=(1, 2)), jnp.nan)
        pixels = lambda x: self._one_hot(x).reshape(len(x), -1, self.classes)
        # A product runs at the device's rate, and its sums of ones are exact in float32 up to 16 million pixels: of a
        # tile, not of a batch.
        each = jnp.einsum("npc,npd->ncd", pixels(targets), pixels(answers.astype(targets.dtype)), precision="highest")
        confusion = each.astype(jnp.int32).sum(axis=0)
        return Measured({"hits": hits, "labelled": labelled.sum(axis=(1, 2))}, {"confusion": confusion})

    def scores(self, table: np.ndarray, measured: Measured) -> dict[str, Any]:
        """Return mean IoU, F1, accuracy and the confusion matrix, of all labelled pixels together."""
        return confusion_metrics(measured.sums["confusion"])

    def baseline(self, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
        """Answer the class of most training pixels everywhere."""
        confusion = np.zeros((self.classes, self.classes), np.int64)
        confusion[:, train.sum(axis=0).argmax()] = test.sum(axis=0)
        return {**confusion_metrics(confusion), "rule": "the most frequent class for every pixel"}
