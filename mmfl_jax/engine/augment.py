"""Augmentation of training batches, on the device."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Say how a batch is varied; a modality without the axes in question is left as it is.

    Attributes:
      flips: turn each image into one of its eight mirror images and quarter turns (four, if it is not square). Seen
        from above there is no up.
      mask_dates: the share of a series' dates that is hidden, each sample's own: they take the mean's value, 0, as
        missing observations do (time masking, Park et al., "SpecAugment", Interspeech 2019).
    """

    flips: bool = False
    mask_dates: float = 0.0

    def __call__(self, images: dict[str, Array], key: Array) -> dict[str, Array]:
        """Return the batch varied: ``[batch, *shape]`` by modality, the images of one place turned alike."""
        out = dict(images)
        for i, (m, x) in enumerate(images.items()):
            if x.ndim == 4 and self.flips:
                out[m] = _turn(x, key)
            elif x.ndim == 3 and self.mask_dates:
                kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - self.mask_dates, (*x.shape[:2], 1))
                out[m] = x * kept.astype(x.dtype)
        return out


def _turn(x: Array, key: Array) -> Array:
    coins = jax.random.bernoulli(key, shape=(3, x.shape[0], 1, 1, 1))
    x = jnp.where(coins[0], x[:, ::-1], x)
    x = jnp.where(coins[1], x[:, :, ::-1], x)
    return jnp.where(coins[2], x.swapaxes(1, 2), x) if x.shape[1] == x.shape[2] else x
