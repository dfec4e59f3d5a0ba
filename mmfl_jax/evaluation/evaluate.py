"""Evaluation of a model for every modality set, in batches on the device."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.archives.base import IGNORED, Archive
from mmfl_jax.engine.data import Normalizer
from mmfl_jax.errors import Diverged, UserError
from mmfl_jax.models import Template, Variables
from mmfl_jax.tasks import task_of
from mmfl_jax.tasks.task import Measured, Task

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
def answer(template: Template, task: Task, variables: tuple[Variables, ...], inputs: dict[str, Array]) -> Array:
    """Return a model's probabilities for normalised images ``[batch, *shape]`` by modality."""
    return task.predict(_logits(template, variables, inputs))


def _logits(template: Template, variables: tuple[Variables, ...], inputs: dict[str, Array]) -> Array:
    return template.module(*variables)(inputs, train=False).logits


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(
    template: Template, task: Task, variables: tuple[Variables, ...], inputs: dict[str, Array], targets: Array
) -> Measured:
    return task.measure(_logits(template, variables, inputs), targets)


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
        self.task = task_of(archive)
        self._template = template
        size = sum(int(np.prod(archive.modalities[m].shape)) * 4 for m in self.modalities) * len(samples)
        self._kept: list[tuple[dict[str, Array], Array]] | None = None
        if size <= _RESIDENT_BYTES:
            self._kept = list(self._read())

    def with_modalities(self, modalities: Sequence[str], template: Template) -> Evaluator:
        """Return what scores another model on the same samples, seen by some of the modalities."""
        other = copy.copy(self)
        other.modalities, other._template = tuple(modalities), template
        return other

    def _read(self) -> Iterator[tuple[dict[str, Array], Array]]:
        for i in range(0, len(self.samples), self.batch_size):
            chosen = self.samples[i : i + self.batch_size]
            targets = self.task.encode(self.archive.read_labels(chosen))
            # The last batch is filled up to the one compiled shape: its surplus has no labels, and is cut off again.
            surplus = self.batch_size - len(chosen)
            chosen = np.concatenate([chosen, np.repeat(chosen[:1], surplus)])
            targets = np.concatenate([targets, np.full((surplus, *targets.shape[1:]), IGNORED, np.uint8)])
            images = {m: jnp.asarray(self.normalizer.read(self.archive, m, chosen)) for m in self.modalities}
            yield images, jnp.asarray(targets)

    def _batches(self) -> Iterable[tuple[dict[str, Array], Array]]:
        return self._kept if self._kept is not None else self._read()

    def probabilities(
        self, params: Variables, stats: Variables, frozen: Variables | None = None, seen: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return what the model answers to the modalities that are ``seen`` (all), ``[n, ..., classes]`` float32."""
        variables, chosen = (params, stats, frozen or {}), seen or self.modalities
        inputs = ({m: images[m] for m in chosen} for images, _ in self._batches())
        found = [answer(self._template, self.task, variables, images) for images in inputs]
        return np.concatenate(jax.device_get(found))[: len(self.samples)]

    def evaluate(
        self, params: Variables, stats: Variables, frozen: Variables | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the scores of every modality set by name.

        Raises:
            Diverged: where answers are not finite.
        """
        truth, found = self.measured(params, stats, frozen)
        return {name: self.task.scores(truth, measured) for name, measured in found.items()}

    def measured(
        self,
        params: Variables,
        stats: Variables,
        frozen: Variables | None = None,
        sets: Sequence[tuple[str, ...]] | None = None,
    ) -> tuple[np.ndarray, dict[str, Measured]]:
        """Return the targets, and by modality set (all, or some) what the task measures of all samples.

        Of a batch nothing else is kept: never all answers of a task by pixel.

        Raises:
            Diverged: where answers are not finite.
        """
        variables = (params, stats, frozen or {})
        sets = modality_sets(self.modalities) if sets is None else sets
        parts: dict[str, list[Measured]] = {set_name(s): [] for s in sets}
        targets = []
        for images, labels in self._batches():
            targets.append(labels)
            for chosen in sets:
                inputs = {m: images[m] for m in chosen}
                parts[set_name(chosen)].append(_measure(self._template, self.task, variables, inputs, labels))
        truth = np.concatenate(jax.device_get(targets))[: len(self.samples)]
        return truth, {name: self._joined(found) for name, found in parts.items()}

    def _joined(self, parts: list[Measured]) -> Measured:
        found = jax.device_get(parts)
        rows = {n: np.concatenate([p.rows[n] for p in found])[: len(self.samples)] for n in found[0].rows}
        sums = {n: np.sum([p.sums[n] for p in found], axis=0, dtype=np.int64) for n in found[0].sums}
        if not all(np.isfinite(values).all() for values in rows.values()):
            raise Diverged("the model's test scores are not finite")
        return Measured(rows, sums)
