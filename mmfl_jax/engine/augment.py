"""Augmentation of training batches, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def augmented(images: dict[str, Array], key: Array, *, flips: bool, mask_dates: float) -> dict[str, Array]:
    """Return a batch varied; a modality without the axes in question is left as it is.

    Args:
      images: ``[batch, *shape]`` by modality, the images of one place turned alike.
      key: of the draws.
      flips: turn each image into one of its eight mirror images and quarter turns (four, if it is not square). Seen
        from above there is no up.
      mask_dates: the share of a series' dates that is hidden, each sample's own: they take the mean's value, 0, as
        missing observations do (time masking, Park et al., "SpecAugment", Interspeech 2019).
    """
    out = dict(images)
    for i, (m, x) in enumerate(images.items()):
        if x.ndim == 4 and flips:
            out[m] = _turn(x, key)
        elif x.ndim == 3 and mask_dates:
            kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - mask_dates, (*x.shape[:2], 1))
            out[m] = x * kept.astype(x.dtype)
    return out


def _turn(x: Array, key: Array) -> Array:
    coins = jax.random.bernoulli(key, shape=(3, x.shape[0], 1, 1, 1))
    x = jnp.where(coins[0], x[:, ::-1], x)
    x = jnp.where(coins[1], x[:, :, ::-1], x)
    return jnp.where(coins[2], x.swapaxes(1, 2), x) if x.shape[1] == x.shape[2] else x
