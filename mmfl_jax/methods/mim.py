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
    modalities, options = tuple(federation.archive.modalities), study.method.mim
    if recipe.design is None or recipe.design.design == UNIFIED or len(modalities) < 2:
        what = "one encoder for all" if len(modalities) > 1 else modalities[0]
        raise UserError(f"--method {study.method.method}: MIM compares modalities, but there is only {what}")
    if options.mim_positives == "pairs" and all(len(group.modalities) < 2 for group in federation.groups):
        raise UserError(
            "--mim-positives pairs needs clients with several modalities; choose --modality-assignment all or mixed"
        )
    if options.mim_positives == "places" and not _places_are_shared(federation):
        raise UserError(
            "--mim-positives places needs places that clients of different modalities hold; "
            "choose --modality-assignment split"
        )
    by_pixel = options.mim_level == "pixel"
    if by_pixel and (not recipe.design.by_pixel or options.mim_positives != "prototypes"):
        raise UserError("--mim-level pixel needs labels by pixel, and --mim-positives prototypes; take sample")
    design = dataclasses.replace(recipe.design, projection=options.mim_size, projected_maps=by_pixel)
    return recipe.redesigned(design, study.training.seed, Objective(options, modalities))


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
