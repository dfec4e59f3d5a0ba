"""Evaluation of a model for every modality set, in batches on the device."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.engine.data import Normalizer
from mmfl_jax.errors import Diverged, UserError
from mmfl_jax.evaluation.metrics import multiclass_metrics, multilabel_metrics
from mmfl_jax.models import Template, Variables

Array = jax.Array

# Test images up to this size stay on the device between evaluations; larger ones are read again each time.
_RESIDENT_BYTES = 2 << 30


def modality_sets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the sets to evaluate: each modality alone, then all together."""
    alone: list[tuple[str, ...]] = [(m,) for m in modalities]
    return alone if len(modalities) == 1 else [*alone, tuple(modalities)]


def set_name(modalities: Sequence[str]) -> str:
    """Return the name of a modality set, such as ``s1+s2``."""
    return "+".join(modalities)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(template: Template, task: str, variables: tuple[Variables, ...], inputs: dict[str, Array]) -> Array:
    logits = template.module(*variables)(inputs, train=False).logits
    return jax.nn.sigmoid(logits) if task == "multilabel" else jax.nn.softmax(logits)


class Evaluator:
    """Score a model on fixed samples of an archive.

    Args:
        archive: the samples.
        samples: ``[n]`` indices of those to score.
        template: of the model, with every modality.
        normalizer: of images.
        modalities: to score with, alone and together.
        batch_size: samples on the device at once.

    Raises:
        UserError: for no samples.
    """

    def __init__(
        self,
        archive: Archive,
        samples: np.ndarray,
        template: Template,
        normalizer: Normalizer,
        modalities: Sequence[str],
        batch_size: int = 256,
    ):
        if not len(samples):
            raise UserError(f"archive {archive.name} has no test samples to score; its official split names none")
        self.archive, self.samples, self.normalizer = archive, samples, normalizer
        self.modalities, self.batch_size = tuple(modalities), batch_size
        self.labels = archive.labels[samples]
        self._template = template
        size = sum(int(np.prod(archive.modalities[m].shape)) * 4 for m in self.modalities) * len(samples)
        self._kept: list[dict[str, Array]] | None = None
        if size <= _RESIDENT_BYTES:
            self._kept = list(self._read())

    def with_modalities(self, modalities: Sequence[str], template: Template) -> Evaluator:
        """Return what scores another model on the same samples, seen by some of the modalities."""
        other = copy.copy(self)
        other.modalities, other._template = tuple(modalities), template
        return other

    def _read(self) -> Iterator[dict[str, Array]]:
        for i in range(0, len(self.samples), self.batch_size):
            chosen = self.samples[i : i + self.batch_size]
            # The last batch is filled up to the one compiled shape; its surplus is cut off again.
            chosen = np.concatenate([chosen, np.repeat(chosen[:1], self.batch_size - len(chosen))])
            yield {m: jnp.asarray(self.normalizer.read(self.archive, m, chosen)) for m in self.modalities}

    def probabilities(
        self, params: Variables, stats: Variables, frozen: Variables | None = None
    ) -> dict[str, np.ndarray]:
        """Return ``[n, classes]`` float32 for every modality set."""
        variables = (params, stats, frozen or {})
        sets = modality_sets(self.modalities)
        out: dict[str, list[np.ndarray]] = {set_name(s): [] for s in sets}
        for batch in self._kept if self._kept is not None else self._read():
            for chosen in sets:
                inputs = {m: batch[m] for m in chosen}
                out[set_name(chosen)].append(_predict(self._template, self.archive.task, variables, inputs))
        return {name: np.concatenate(jax.device_get(parts))[: len(self.samples)] for name, parts in out.items()}

    def evaluate(
        self, params: Variables, stats: Variables, frozen: Variables | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the metrics of every modality set by name."""
        return {name: self.score(p) for name, p in self.probabilities(params, stats, frozen).items()}

    def score(self, probabilities: np.ndarray) -> dict[str, Any]:
        """Return the metrics of ``[n, classes]`` probabilities of the samples.

        Raises:
            Diverged: where they are not finite.
        """
        if not np.isfinite(probabilities).all():
            raise Diverged("the model's test scores are not finite")
        metrics = multilabel_metrics if self.archive.task == "multilabel" else multiclass_metrics
        return metrics(self.labels, probabilities)
