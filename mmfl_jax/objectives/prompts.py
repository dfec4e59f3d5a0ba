"""Alignment of prompts: of the private prompt's texts with the shared one's (PACL), of images with texts (CMFAC).

Reconstruction of the constraints of Lin et al., "FedRSCLIP" (arXiv 2501.02461); their exact forms are our choice.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

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
class Alignment:
    """Weigh both constraints; a weight of 0 leaves its constraint out.

    Attributes:
      pacl: weight of :func:`pacl`.
      cmfac: weight of :func:`cmfac`.
    """

    pacl: float
    cmfac: float

    def __call__(self, texts: Array, cosines: Array, labels: Array) -> Array:
        """Return the weighted sum for one client's batch."""
        total = jnp.float32(0)
        if self.pacl:
            total += self.pacl * pacl(texts)
        if self.cmfac:
            total += self.cmfac * cmfac(cosines, labels)
        return total
