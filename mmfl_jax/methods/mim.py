"""MIM: mutual information maximization between modalities."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.methods.method import Method, Recipe
from mmfl_jax.models.multimodal import UNIFIED
from mmfl_jax.objectives.mim import MIM as Objective

if TYPE_CHECKING:
    from mmfl_jax.study import Study


def with_mim(recipe: Recipe, study: Study, federation: Federation) -> Recipe:
    """Return the recipe with projectors and InfoNCE.

    Raises:
      UserError: when the federation has nothing to compare: one modality, no client with two for ``pairs``, or no place
        that clients of different modalities hold for ``places``.
    """
    modalities = tuple(federation.archive.modalities)
    if recipe.design is None or recipe.design.design == UNIFIED or len(modalities) < 2:
        what = "one encoder for all" if len(modalities) > 1 else modalities[0]
        raise UserError(f"--method {study.method}: MIM compares modalities, but there is only {what}")
    if study.mim_positives == "pairs" and all(len(group.modalities) < 2 for group in federation.groups):
        raise UserError(
            "--mim-positives pairs needs clients with several modalities; choose --modality-assignment all or mixed"
        )
    if study.mim_positives == "places" and not _places_are_shared(federation):
        raise UserError(
            "--mim-positives places needs places that clients of different modalities hold; "
            "choose --modality-assignment split"
        )
    term = Objective(study.mim_positives, modalities, study.mim_size, study.mim_weight, study.mim_temperature)
    return recipe.redesigned(dataclasses.replace(recipe.design, projection=study.mim_size), study.seed, term)


def _places_are_shared(federation: Federation) -> bool:
    seen: dict[int, set[str]] = {}
    for group in federation.groups:
        for sample in group.samples.tolist():
            seen.setdefault(sample, set()).update(group.modalities)
    return any(len(modalities) > 1 for modalities in seen.values())


MIM = Method(
    "mim",
    "module: mutual information maximization by InfoNCE between modalities",
    "Büyüktaş, Sumbul and Demir, 2025, arXiv 2503.10262; van den Oord, Li and Vinyals, 2018",
    module=with_mim,
)
