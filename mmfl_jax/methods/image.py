"""Methods on images: one encoder for all modalities, one for each, or a model for each."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from mmfl_jax.federation import Federation
from mmfl_jax.methods.method import Method, Recipe
from mmfl_jax.models import ModelDesign
from mmfl_jax.tasks import task_of

if TYPE_CHECKING:
    from mmfl_jax.study import Study

_FRAMEWORK = "Büyüktaş, Sumbul and Demir, 2025, arXiv 2503.10262"


def _recipe(design: str, study: Study, federation: Federation) -> Recipe:
    archive = federation.archive
    shapes = {m: spec.shape for m, spec in archive.modalities.items()}
    task = task_of(archive)
    made = ModelDesign(shapes, task.classes, design, study.method.model, by_pixel=task.spatial)
    return Recipe.of(made, study.training.seed)


UNIFIED = Method(
    "unified",
    "one encoder over all channels, zeros for a missing modality",
    "the baseline of " + _FRAMEWORK,
    base=functools.partial(_recipe, "unified"),
)
SEPARATE = Method(
    "separate",
    "one model per modality, logits averaged at the end",
    "the baseline of " + _FRAMEWORK,
    base=functools.partial(_recipe, "separate"),
)
MF = Method(
    "mf",
    "multi-modal fusion: an encoder per modality, averaged over its holders; a shared head",
    _FRAMEWORK,
    base=functools.partial(_recipe, "modality"),
)
