"""What a task is."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.archives.base import IGNORED
from mmfl_jax.errors import UserError

Array = jax.Array


class Measured(NamedTuple):
    """Hold what is kept of a scored batch.

    Attributes:
      rows: by name ``[batch, ...]``: a value a sample.
      sums: by name: what is added up over batches.
    """

    rows: Mapping[str, Any]
    sums: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """Define what labels mean.

    Labels are rows of :meth:`mmfl_jax.archives.base.Archive.read_labels`; ``encode`` turns them into targets, which is
    what the device holds. A table is what :attr:`mmfl_jax.archives.base.Archive.labels` holds: as much of every
    sample's labels as partitions and counts need.

    Attributes:
      classes: how many.
    """

    classes: int
    name: ClassVar[str]
    #: Whether labels lie on the pixels of the image, and move with them.
    spatial: ClassVar[bool] = False
    #: Whether answers hang on something that validation samples tell, such as a threshold.
    tunes: ClassVar[bool] = False
    #: What stands for the label that a training sample lacks.
    unlabelled: ClassVar[int] = IGNORED
    #: How labels may be wrong (:meth:`noisy`).
    noise: ClassVar[tuple[str, ...]] = ("symmetric",)

    # Labels and tables, NumPy.

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Return targets ``[samples, ...]`` uint8 of labels."""
        return np.ascontiguousarray(labels, np.uint8)

    def table(self, labels: np.ndarray) -> np.ndarray:
        """Return the rows of a table for labels."""
        return labels

    @abc.abstractmethod
    def counts(self, table: np.ndarray, owner: np.ndarray, owners: int) -> np.ndarray:
        """Return ``[owners, classes + 1]`` int64: how often each class occurs, then of how many labels.

        Args:
          table: ``[samples, ...]``.
          owner: ``[samples]`` whose each sample is.
          owners: how many.
        """

    @abc.abstractmethod
    def sorting_class(self, table: np.ndarray) -> np.ndarray:
        """Return one class that stands for each sample, ``[samples]``; -1 for a sample without any."""

    @abc.abstractmethod
    def wrong(self, labels: np.ndarray, chosen: np.ndarray, rng: np.random.Generator, kind: str) -> np.ndarray:
        """Return labels that are wrong where ``chosen``."""

    @abc.abstractmethod
    def flipped(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels that a poisoner gives: class ``c`` becomes ``classes - 1 - c``, present becomes absent.

        References:
          Fang, Cao, Jia, Gong, "Local model poisoning attacks to Byzantine-robust federated learning", USENIX Security
          2020.
        """

    def noisy(self, labels: np.ndarray, share: float, rng: np.random.Generator, kind: str = "symmetric") -> np.ndarray:
        """Return labels of which a share is wrong at random.

        Args:
          labels: as an archive reads them.
          share: chance of a label to be wrong.
          rng: of the draw.
          kind: one of :attr:`noise`.

        Raises:
          UserError: for a share that is none, an unknown kind, or a single class, which has no other.

        References:
          Ghosh, Kumar, Sastry, "Robust loss functions under label noise for deep neural networks", AAAI 2017
          (symmetric).
          Burgert, Ravanbakhsh, Demir, "On the effects of different types of label noise in multi-label remote sensing
          image classification", IEEE TGRS 2022 (additive, subtractive and mixed).
        """
        if not 0 <= share <= 1:
            raise UserError(f"--label-noise {share:g} is no share; from 0 to 1")
        if kind not in self.noise:
            raise UserError(
                f"--label-noise-kind {kind!r} is unknown for {self.name} labels; one of {', '.join(self.noise)}"
            )
        return self.wrong(labels, rng.random(labels.shape, dtype=np.float32) < share, rng, kind)

    # Logits and targets, on the device.

    @abc.abstractmethod
    def loss(self, logits: Array, targets: Array) -> Array:
        """Return the mean loss of a batch.

        Args:
          logits: ``[..., batch, ..., classes]`` float32; further leading axes are models of their own.
          targets: of the batch.
        """

    def presence(self, targets: Array) -> Array:
        """Return ``[batch, classes]`` of 0 and 1: which classes each sample has."""
        return targets

    @abc.abstractmethod
    def predict(self, logits: Array) -> Array:
        """Return probabilities, shaped as the logits."""

    @abc.abstractmethod
    def evidence(self, counts: Array) -> Array:
        """Return the logits ``[..., classes]`` that best answer without an image.

        Args:
          counts: ``[..., classes + 1]`` as :meth:`counts` returns.
        """

    def measure(self, logits: Array, targets: Array) -> Measured:
        """Return what is kept of a batch to score it: by default probabilities ``[batch, classes]``."""
        return Measured({"probabilities": self.predict(logits)}, {})

    # Scores.

    @abc.abstractmethod
    def scores(self, table: np.ndarray, measured: Measured) -> dict[str, Any]:
        """Return the scores of samples.

        Args:
          table: of the samples.
          measured: of all samples: rows joined, sums added up.
        """

    def tuned_scores(
        self, validation: tuple[np.ndarray, Measured], table: np.ndarray, measured: Measured
    ) -> dict[str, Any]:
        """Return the scores of samples by what is tuned on others; only asked where :attr:`tunes`.

        Args:
          validation: table of the samples to tune on, and what was measured of them.
          table: of the samples to score.
          measured: of them.
        """
        raise NotImplementedError(f"{self.name} tunes nothing")

    @abc.abstractmethod
    def baseline(self, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
        """Return the scores of the best answer that looks at no image, and ``rule``, the answer in words.

        Args:
          train: table of the training samples.
          test: table of the test samples.
        """


def one_class_evidence(counts: Array) -> Array:
    """Return log shares of classes of which a label names one, ``[..., classes]`` of ``counts [..., classes + 1]``."""
    # Half a label more of every class keeps the logarithm of a class that the client lacks finite.
    classes = counts[..., :-1].astype(jnp.float32)
    total = counts[..., -1:].astype(jnp.float32)
    return jnp.log(classes + 0.5) - jnp.log(total + 0.5 * classes.shape[-1])


def other_class(labels: np.ndarray, chosen: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return labels that name another class where ``chosen``, all others alike; a label that is no class stays.

    Raises:
      UserError: for a single class.
    """
    if classes < 2:
        raise UserError(f"--label-noise: the archive has {classes} class; a wrong label needs another")
    others = (labels.astype(np.int64) + rng.integers(1, classes, labels.shape)) % classes
    return np.where(chosen & (labels >= 0) & (labels < classes), others, labels).astype(labels.dtype)


def mirrored_class(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return ``classes - 1 - c`` for every label ``c``; a label that is no class stays."""
    # Labels may be unsigned, of which nothing is below 0.
    inside = (labels >= 0) & (labels < classes)
    return np.where(inside, classes - 1 - labels.astype(np.int64), labels).astype(labels.dtype)
