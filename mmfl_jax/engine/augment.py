"""Augmentation of training batches, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmfl_jax.engine.spread import own_share

Array = jax.Array


def augmented(
    images: dict[str, Array],
    labels: Array,
    key: Array,
    *,
    flips: bool,
    mask_dates: float,
    crop: int = 0,
    spatial: bool = False,
    spread: int = 1,
) -> tuple[dict[str, Array], Array]:
    """Return a batch varied, and its labels; a modality without the axes in question is left as it is.

    Args:
      images: ``[batch, *shape]`` by modality, the images of one place cropped and turned alike.
      labels: ``[batch, ...]``.
      key: of the draws.
      flips: turn each image into one of its eight mirror images and quarter turns (four, if it is not square). Seen
        from above there is no up.
      mask_dates: the share of a series' dates that is hidden, each sample's own: they take the mean's value, 0, as
        missing observations do (time masking, Park et al., "SpecAugment", Interspeech 2019).
      crop: pixels a side of a random part that is taken instead of the whole image; 0 for the whole.
      spatial: whether labels lie on the pixels, ``[batch, height, width]``, and move with them.
      spread: devices that share the batch; the draws are those of the whole.
    """

    layers = {m: x for m, x in images.items() if x.ndim == 4} | ({"": labels[..., None]} if spatial else {})
    if crop:
        layers = _cropped(layers, crop, jax.random.fold_in(key, len(images)), spread)
    if flips:
        layers = {m: _turn(x, key, spread) for m, x in layers.items()}
    labels = layers.pop("")[..., 0] if spatial else labels
    out = {**images, **layers}
    for i, (m, x) in enumerate(images.items()):
        if x.ndim == 3 and mask_dates:
            shape = (spread * x.shape[0], x.shape[1], 1)
            kept = own_share(jax.random.bernoulli(jax.random.fold_in(key, i), 1 - mask_dates, shape), spread)
            out[m] = x * kept.astype(x.dtype)
    return out, labels


def _cropped(layers: dict[str, Array], side: int, key: Array, spread: int) -> dict[str, Array]:
    """Return ``[batch, side, side, channels]`` of every layer, of one random place a sample."""
    batch, height, width, _ = next(iter(layers.values())).shape
    draw = lambda key, most: own_share(jax.random.randint(key, (spread * batch,), 0, most + 1), spread)
    top = draw(key, height - side)
    left = draw(jax.random.fold_in(key, 1), width - side)
    cut = lambda x, i, j: jax.lax.dynamic_slice(x, (i, j, 0), (side, side, x.shape[-1]))
    return {m: jax.vmap(cut)(x, top, left) for m, x in layers.items()}


def _turn(x: Array, key: Array, spread: int) -> Array:
    coins = own_share(jax.random.bernoulli(key, shape=(3, spread * x.shape[0], 1, 1, 1)), spread, axis=1)
    x = jnp.where(coins[0], x[:, ::-1], x)
    x = jnp.where(coins[1], x[:, :, ::-1], x)
    return jnp.where(coins[2], x.swapaxes(1, 2), x) if x.shape[1] == x.shape[2] else x
