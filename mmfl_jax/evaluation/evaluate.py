"""Evaluation of a model for every modality set, in batches on the device."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mmfl_jax.archives.base import IGNORED, Archive
from mmfl_jax.engine.data import filled
from mmfl_jax.engine.mesh import AXIS, SPAN, everywhere, platform_of, put_shares
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.errors import Diverged, UserError
from mmfl_jax.models import Template, Variables
from mmfl_jax.ops.platform import compiled_for
from mmfl_jax.tasks import task_of
from mmfl_jax.tasks.task import Measured, Task

Array = jax.Array

# Over all devices, along the first axis.
ALL = P((AXIS, SPAN))
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


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _answers(
    template: Template, task: Task, mesh: Mesh, variables: tuple[Variables, ...], inputs: dict[str, Array]
) -> Array:
    """Return probabilities; each device answers for its part of the batch, and all know all."""

    def device(variables: tuple[Variables, ...], inputs: dict[str, Array]) -> Array:
        with compiled_for(platform_of(mesh)):
            return task.predict(_logits(template, variables, inputs))

    found = jax.shard_map(device, mesh=mesh, in_specs=(P(), ALL), out_specs=ALL, check_vma=False)
    return jax.lax.with_sharding_constraint(found(variables, inputs), everywhere(mesh))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _measure(
    template: Template,
    task: Task,
    mesh: Mesh,
    variables: tuple[Variables, ...],
    inputs: dict[str, Array],
    targets: Array,
) -> Measured:
    """Return what the task measures; each device does its part of the batch, and all know all."""

    def device(variables: tuple[Variables, ...], inputs: dict[str, Array], targets: Array) -> Any:
        with compiled_for(platform_of(mesh)):
            found = task.measure(_logits(template, variables, inputs), targets)
        return found.rows, jax.lax.psum(found.sums, (AXIS, SPAN))

    specs: Any = (ALL, P())
    found = jax.shard_map(device, mesh=mesh, in_specs=(P(), ALL, ALL), out_specs=specs, check_vma=False)
    return Measured(*jax.lax.with_sharding_constraint(found(variables, inputs, targets), everywhere(mesh)))


class Evaluator:
    """Score a model on fixed samples of an archive.

    Args:
        archive: the samples.
        samples: ``[n]`` indices of those to score.
        template: of the model, with every modality.
        normalizer: of images.
        modalities: to score with, alone and together.
        mesh: the devices; each scores its part of every batch.
        batch_size: samples on the devices at once; more where they cannot share it evenly.

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
        mesh: Mesh,
        batch_size: int = 256,
    ):
        if not len(samples):
            raise UserError(f"archive {archive.name} has no test samples to score; its official split names none")
        self.archive, self.samples, self.normalizer = archive, samples, normalizer
        self.modalities, self._mesh = tuple(modalities), mesh
        self._each = -(-batch_size // mesh.size)
        self.task = task_of(archive)
        self._template = template
        self._kept = self._hold()

    def _hold(self) -> list[tuple[dict[str, Array], Array]] | None:
        """Return the batches that stay on the devices; None where they are too large, and are read again each time."""
        shapes = [self.archive.modalities[m].shape for m in self.modalities]
        size = sum(int(np.prod(shape)) * 4 for shape in shapes) * len(self.samples)
        return list(self._read()) if size <= _RESIDENT_BYTES else None

    def with_modalities(self, modalities: Sequence[str], template: Template) -> Evaluator:
        """Return what scores another model on the same samples, seen by some of the modalities."""
        other = copy.copy(self)
        other.modalities, other._template = tuple(modalities), template
        return other

    def _read(self) -> Iterator[tuple[dict[str, Array], Array]]:
        for begin in range(0, len(self.samples), self._each * self._mesh.size):
            yield put_shares(self._mesh, functools.partial(self._share, begin))

    def _share(self, begin: int, home: int, device: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return a device's images and targets of a batch; those after the last sample are zeros, without labels."""
        begin += (home * self._mesh.devices.shape[1] + device) * self._each
        chosen = self.samples[begin : begin + self._each]
        targets = self.task.encode(self.archive.read_labels(chosen))
        surplus = np.full((self._each - len(chosen), *targets.shape[1:]), IGNORED, np.uint8)
        read = self.normalizer.read
        images = {m: filled(read(self.archive, m, chosen), self._each) for m in self.modalities}
        return images, np.concatenate([targets, surplus])

    def _batches(self) -> Iterable[tuple[dict[str, Array], Array]]:
        return self._kept if self._kept is not None else self._read()

    def probabilities(
        self, params: Variables, stats: Variables, frozen: Variables | None = None, seen: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return what the model answers to the modalities that are ``seen`` (all), ``[n, ..., classes]`` float32."""
        variables, chosen = (params, stats, frozen or {}), seen or self.modalities
        inputs = ({m: images[m] for m in chosen} for images, _ in self._batches())
        found = [_answers(self._template, self.task, self._mesh, variables, images) for images in inputs]
        return np.concatenate(jax.device_get(found))[: len(self.samples)]

    def evaluate(
        self,
        params: Variables,
        stats: Variables,
        frozen: Variables | None = None,
        tuned_on: Evaluator | None = None,
        sets: Sequence[tuple[str, ...]] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Return the scores of every modality set, or of some, by name.

        Args:
            params, stats, frozen: of the model.
            tuned_on: has the samples on which the task tunes what its answers hang on; None to tune nothing.
            sets: of modalities; None for all.

        Raises:
            Diverged: where answers are not finite.
        """
        found = self.measured(params, stats, frozen, sets)
        scores = {name: self.task.scores(self.table, measured) for name, measured in found.items()}
        if tuned_on is not None:
            seen = found if tuned_on is self else tuned_on.measured(params, stats, frozen, sets)
            for name, measured in found.items():
                scores[name] |= self.task.tuned_scores((tuned_on.table, seen[name]), self.table, measured)
        return scores

    @property
    def table(self) -> np.ndarray:
        """Return the table of the samples' labels (:class:`mmfl_jax.tasks.task.Task`)."""
        return self.archive.labels[self.samples]

    def measured(
        self,
        params: Variables,
        stats: Variables,
        frozen: Variables | None = None,
        sets: Sequence[tuple[str, ...]] | None = None,
    ) -> dict[str, Measured]:
        """Return by modality set (all, or some) what the task measures of all samples.

        Of a batch nothing else is kept: never all answers of a task by pixel.

        Raises:
            Diverged: where answers are not finite.
        """
        variables = (params, stats, frozen or {})
        sets = modality_sets(self.modalities) if sets is None else sets
        parts: dict[str, list[Measured]] = {set_name(s): [] for s in sets}
        for images, labels in self._batches():
            for chosen in sets:
                inputs = {m: images[m] for m in chosen}
                parts[set_name(chosen)].append(
                    _measure(self._template, self.task, self._mesh, variables, inputs, labels)
                )
        return {name: self._joined(found) for name, found in parts.items()}

    def _joined(self, parts: list[Measured]) -> Measured:
        found = jax.device_get(parts)
        rows = {n: np.concatenate([p.rows[n] for p in found])[: len(self.samples)] for n in found[0].rows}
        sums = {n: np.sum([p.sums[n] for p in found], axis=0, dtype=np.int64) for n in found[0].sums}
        if not all(np.isfinite(values).all() for values in rows.values()):
            raise Diverged("the model's test scores are not finite")
        return Measured(rows, sums)
