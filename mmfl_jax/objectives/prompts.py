"""Alignment of prompts: of the private prompt's texts with the shared one's (PACL), of images with texts (CMFAC).

Reconstruction of the constraints of Lin et al., "FedRSCLIP" (arXiv 2501.02461); their exact forms are our choice.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mmfl_jax.objectives.objective import Objective

Array = jax.Array


def pacl(texts: Array) -> Array:
    """Return 1 - the mean over classes of the cosine between shared and private text features; 0 for one prompt.

    Args:
      texts: unit vectors ``[prompts, classes, d]``.
    """
    if len(texts) < 2:
        return jnp.float32(0)
    shared, private = texts
    return 1 - (shared * private).sum(axis=-1).mean()


def cmfac(cosines: Array, labels: Array) -> Array:
    """Return 1 - the mean cosine between an image and the text of its class, over images and prompts.

    Args:
      cosines: of images and texts, ``[prompts, batch, classes]``.
      labels: one-hot ``[batch, classes]``.
    """
    return 1 - (cosines * labels).sum(axis=-1).mean()


@dataclasses.dataclass(frozen=True)
class PACL(Objective):
    """Hold the private prompt near the shared one (:func:`pacl`)."""

    weight: float
    name: str = "pacl"

    def loss(self, output: Any, batch: Any, shared: Any) -> Array:
        """Return PACL; it looks at no image."""
        return pacl(output.texts)


@dataclasses.dataclass(frozen=True)
class CMFAC(Objective):
    """Hold images near the texts of their classes (:func:`cmfac`)."""

    weight: float
    name: str = "cmfac"

    def loss(self, output: Any, batch: Any, shared: Any) -> Array:
        """Return CMFAC of the batch."""
        return cmfac(output.cosines, batch.classes)
