"""Shuffled sample order, one position at a time: no permutation is stored, whatever a client's size."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array

# After r rounds a position has kept its place with probability 2^-r.
_ROUNDS = 16


@jax.jit  # written once in a program that draws at several places
def shuffled(seed: Array, epoch: Array, position: Array, size: Array) -> Array:
    """Return where ``position`` goes in the pseudorandom permutation of ``range(size)`` of this seed and epoch.

    The swap-or-not shuffle: in each round x may swap places with ``k - x mod size``, as a coin says that both partners
    see alike. It is a bijection for every size, and costs the same for 1 sample and for 10^9.

    Args:
      seed: uint32, of the client in this round.
      epoch: uint32, broadcast against ``position``.
      position: int32 in ``[0, size)``.
      size: int32, at least 1.

    Returns:
      int32, the shape of ``position``.

    References:
      Hoang, Morris and Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012.
    """
    base = _mix(_mix(epoch.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)) ^ seed)
    size = size.astype(jnp.uint32)
    last, length = size - 1, size.astype(jnp.float32)
    x = position.astype(jnp.uint32)
    for i in range(_ROUNDS):
        word = _mix(base + jnp.uint32((2 * i + 1) * 0x85EBCA6B & 0xFFFFFFFF))
        # A number in [0, size) by a product, which vectorises where the remainder of a division does not.
        share = (word >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2**-24)
        offset = jnp.minimum((share * length).astype(jnp.uint32), last)
        partner = jnp.where(offset >= x, offset - x, offset + size - x)
        coin = _mix(jnp.maximum(x, partner) ^ (word + jnp.uint32(0xC2B2AE35))) >> jnp.uint32(31)
        x = jnp.where(coin == 1, partner, x)
    return x.astype(jnp.int32)


def _mix(h: Array) -> Array:
    """Return a uint32 hash of ``h`` in which every input bit moves every output bit (MurmurHash3's finaliser)."""
    h = (h ^ (h >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> jnp.uint32(16))


def batch_positions(seed: Array, step: Array, batch_size: int, size: Array) -> Array:
    """Return the sample positions of one batch of a client, ``[batch_size]`` int32 in ``[0, size)``.

    Batches run on from one epoch's permutation into the next one's, so every batch is full and every sample is seen
    once before any is seen again.

    Args:
      seed: uint32, of the client in this round.
      step: int32, the local step.
      batch_size: samples in a batch.
      size: int32, samples of the client, at least 1.
    """
    index = step * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    return shuffled(seed, index // size, index % size, size)
