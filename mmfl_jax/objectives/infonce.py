"""InfoNCE: mutual information maximization (MIM) between modalities, from three sources of positives.

References:
  van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018.
  Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020 (NT-Xent).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Array = jax.Array


def info_nce(anchors: Array, keys: Array, positive: Array, valid: Array, temperature: float) -> Array:
    """Return the mean InfoNCE loss over the anchors that have a positive.

    ``-mean log( sum over positives exp(z.p / t) / sum over valid keys exp(z.k / t) )``; anchors without a positive are
    left out, and with no anchor left the loss is 0.

    Args:
      anchors: ``[anchors, d]`` unit vectors.
      keys: ``[keys, d]`` unit vectors.
      positive: ``[anchors, keys]`` bool.
      valid: ``[anchors, keys]`` bool: the keys an anchor is compared with; positives count only where valid.
      temperature: t.
    """
    logits = anchors @ keys.T / temperature
    # A large negative number, not -inf: its gradient is 0 where -inf would give NaN in rows without any key.
    none = jnp.float32(-1e30)
    everything = jax.nn.logsumexp(jnp.where(valid, logits, none), axis=1)
    chosen = positive & valid
    positives = jax.nn.logsumexp(jnp.where(chosen, logits, none), axis=1)
    counted = chosen.any(axis=1)
    losses = jnp.where(counted, everything - positives, 0.0)
    return losses.sum() / jnp.maximum(counted.sum(), 1)


def pairs_loss(projections: Mapping[str, Array], places: Array, temperature: float) -> Array:
    """Return InfoNCE with the other images of the same place as positives (NT-Xent over all vectors of the batch).

    Args:
      projections: ``[batch, d]`` unit vectors by modality, row i of each from one place; one modality alone gives 0.
      places: ``[batch]`` ints that tell places apart; a small client's batch has a place several times.
      temperature: of the softmax.
    """
    z = jnp.concatenate(list(projections.values()))
    modality = jnp.repeat(jnp.arange(len(projections)), places.shape[0])
    place = jnp.tile(places, len(projections))
    same = place[:, None] == place[None, :]
    itself = same & (modality[:, None] == modality[None, :])  # also where the place is in the batch once more
    return info_nce(z, z, same & ~itself, ~itself, temperature)


def relay_loss(
    projections: Mapping[str, Array], keys: Mapping[str, Array], known: Mapping[str, Array], positive: Array, t: float
) -> Array:
    """Return InfoNCE against what the server relays from clients of other modalities, mean over the modalities held.

    Args:
      projections: ``[batch, d]`` unit vectors by modality held.
      keys: ``[slots, d]`` unit vectors of every modality: prototypes of classes, or projections of the batch's places.
      known: ``[slots]`` bool by modality: whether the slot has been filled.
      positive: ``[batch, slots]`` bool: the slots that are positives of each sample, the same in every modality.
      t: temperature.
    """
    losses = []
    for own, z in projections.items():
        others = [m for m in keys if m != own]
        if others:
            k = jnp.concatenate([keys[m] for m in others])
            valid = jnp.broadcast_to(jnp.concatenate([known[m] for m in others]), (z.shape[0], k.shape[0]))
            losses.append(info_nce(z, k, jnp.tile(positive, (1, len(others))), valid, t))
    return jnp.stack(losses).mean() if losses else jnp.float32(0)
