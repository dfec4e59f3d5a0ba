"""FW: feature whitening in place of the first normalisations."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.methods.method import Method, Recipe

if TYPE_CHECKING:
    from mmfl_jax.study import Study


def whitened(recipe: Recipe, study: Study, federation: Federation) -> Recipe:
    """Return the recipe with whitening where the study asks for it."""
    if recipe.design is None:
        raise UserError(
            f"--method {study.method.method}: fw whitens an encoder's features, and this model has no encoder"
        )
    return recipe.redesigned(dataclasses.replace(recipe.design, whitened=True), study.training.seed)


FW = Method(
    "fw",
    "module: feature whitening",
    "Büyüktaş, Sumbul and Demir, 2025, arXiv 2503.10262; Roy et al., CVPR 2019",
    module=whitened,
)
