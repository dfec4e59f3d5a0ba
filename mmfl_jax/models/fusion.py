"""Fusion of the features of the modalities that are present (MF of the multi-modal framework)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import jax
import jax.numpy as jnp

from mmfl_jax.models.options import Fusion

Array = jax.Array

FUSIONS = get_args(Fusion)


def fused_size(fusion: str, features: int, modalities: int) -> int:
    """Return the length of a fused vector of ``modalities`` vectors of ``features``."""
    return modalities * (features + 1) if fusion == "concat" else features


def fuse(features: Mapping[str, Array], modalities: Sequence[str], fusion: str) -> Array:
    """Fuse the features that are present.

    Args:
      features: ``[batch, ..., features]`` by modality, only those present.
      modalities: all modalities of the federation, in order; ``concat`` keeps a place and a presence flag for each.
      fusion: ``mean``, ``sum``, ``max`` or ``concat`` (zeros for what is missing).

    Returns:
      ``[batch, ..., fused_size]``.

    Raises:
      ValueError: for an unknown fusion.
    """
    present = [features[m] for m in modalities if m in features]
    if fusion == "concat":
        zeros = jnp.zeros_like(present[0])
        flag = zeros[..., :1]
        parts = [p for m in modalities for p in ((features[m], flag + 1) if m in features else (zeros, flag))]
        return jnp.concatenate(parts, axis=-1)
    if fusion not in FUSIONS:
        raise ValueError(f"fusion {fusion!r} is unknown; one of {', '.join(FUSIONS)}")
    reductions: dict[str, Callable[..., Array]] = {"mean": jnp.mean, "sum": jnp.sum, "max": jnp.max}
    return reductions[fusion](jnp.stack(present), axis=0)
