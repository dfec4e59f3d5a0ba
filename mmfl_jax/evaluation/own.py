"""Scores with each owner's own moments: a model that adapts to an archive by its images, without a label.

The statistics of batch normalisation and whitening are taken from the images to score, owner by owner, in place of
those that training pooled over clients.

References:
  Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", 2016 (AdaBN).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.evaluation.evaluate import Evaluator, modality_sets, set_name
from mmfl_jax.models import Template, Variables, values
from mmfl_jax.tasks.task import Measured

# Batches whose moments are averaged: of the pooled ones 0.9 ** 44, a hundredth, is left.
_BATCHES, _BATCH = 44, 64


class OwnMoments(Evaluator):
    """Score a model on samples of several owners, each with the moments of its own.

    Args:
        archive, samples, template, normalizer, modalities, mesh: see :class:`Evaluator`.
        owners: ``[n]`` whose each of ``samples`` is.
        batch_size: of scoring.
    """

    def __init__(
        self,
        archive: Archive,
        samples: np.ndarray,
        template: Template,
        normalizer: Normalizer,
        modalities: Sequence[str],
        mesh: Any,
        batch_size: int = 256,
        *,
        owners: np.ndarray,
    ):
        super().__init__(archive, samples, template, normalizer, modalities, mesh, batch_size)
        self._rows = [np.flatnonzero(owners == owner) for owner in np.unique(owners)]
        self._parts = [
            Evaluator(archive, samples[rows], template, normalizer, modalities, mesh, min(batch_size, len(rows)))
            for rows in self._rows
        ]

    def _hold(self) -> None:
        """Hold nothing: its parts hold theirs."""

    def with_modalities(self, modalities: Sequence[str], template: Template) -> OwnMoments:
        """Return what scores another model on the same samples, seen by some of the modalities."""
        other = copy.copy(self)
        other.modalities, other._template = tuple(modalities), template
        other._parts = [part.with_modalities(modalities, template) for part in self._parts]
        return other

    def measured(
        self,
        params: Variables,
        stats: Variables,
        frozen: Variables | None = None,
        sets: Sequence[tuple[str, ...]] | None = None,
    ) -> dict[str, Measured]:
        """Return by modality set what the task measures of all samples, in their order."""
        found = {}
        for chosen in modality_sets(self.modalities) if sets is None else sets:
            parts = []
            for part in self._parts:
                own = self._adapted(part.samples, chosen, (params, stats, frozen or {}))
                parts.append(part.measured(params, own, frozen, [chosen])[set_name(chosen)])
            order = np.argsort(np.concatenate(self._rows))
            rows = {n: np.concatenate([part.rows[n] for part in parts])[order] for n in parts[0].rows}
            sums = {n: np.sum([part.sums[n] for part in parts], axis=0) for n in parts[0].sums}
            found[set_name(chosen)] = Measured(rows, sums)
        return found

    def _adapted(
        self, samples: np.ndarray, seen: tuple[str, ...], variables: tuple[Variables, Variables, Variables]
    ) -> Variables:
        """Return the statistics after forward passes over an owner's images, drawn without an end."""
        params, stats, frozen = variables
        rng = np.random.default_rng(0)
        images = {m: self.normalizer.read(self.archive, m, samples) for m in seen}
        for _ in range(_BATCHES if stats else 0):
            chosen = rng.choice(len(samples), _BATCH, replace=len(samples) < _BATCH)
            stats = _moved(self._template, (params, stats, frozen), {m: x[chosen] for m, x in images.items()})
        return stats


@functools.partial(jax.jit, static_argnums=0)
def _moved(template: Template, variables: tuple[Variables, Variables, Variables], images: dict[str, Any]) -> Variables:
    model = template.module(*variables)
    model(images, train=True)
    return values(model)[1]
