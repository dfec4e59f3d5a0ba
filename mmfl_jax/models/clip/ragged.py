"""Texts of several lengths as one row of tokens: what works on each token by itself then computes no padding."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Say where the tokens of texts stand in a row: text after text.

    Attributes:
      lengths: of the texts.
    """

    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: np.ndarray) -> Ragged:
        """Return the layout of texts of these lengths ``[n]``, each of at least one token."""
        return cls(tuple(np.asarray(lengths).tolist()))

    @property
    def positions(self) -> np.ndarray:
        """Return ``[tokens]``: the position of each token in its text."""
        return np.concatenate([np.arange(length) for length in self.lengths])

    @property
    def ends(self) -> np.ndarray:
        """Return ``[n]``: where in the row the last token of each text stands."""
        return np.cumsum(self.lengths) - 1

    def pack(self, texts: Array) -> Array:
        """Return ``[tokens, ...]`` of texts ``[n, t, ...]``."""
        return _pack(self, texts[:, : max(self.lengths)])

    def unpack(self, tokens: Array) -> Array:
        """Return texts ``[n, t, ...]`` of ``[tokens, ...]``; zeros behind their ends."""
        return _unpack(self, tokens)

    @property
    def places(self) -> np.ndarray:
        """Return ``[n, t]``: where in the row a token stands, -1 behind the end of its text."""
        steps, lengths = np.arange(max(self.lengths)), np.array(self.lengths)[:, None]
        return np.where(steps < lengths, self.ends[:, None] + 1 - lengths + steps, -1)


# Each is the other's transpose. As JAX has it, that of a gather is a scatter, slow where the gather is fast.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pack(texts: Ragged, padded: Array) -> Array:
    return padded.reshape(-1, *padded.shape[2:])[np.flatnonzero(texts.places >= 0)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unpack(texts: Ragged, row: Array) -> Array:
    there = (texts.places >= 0).reshape(*texts.places.shape, *[1] * (row.ndim - 1))
    return jnp.where(there, row[np.maximum(texts.places, 0)], 0)


_pack.defvjp(lambda texts, padded: (_pack(texts, padded), None), lambda texts, _, g: (_unpack(texts, g),))
_unpack.defvjp(lambda texts, row: (_unpack(texts, row), None), lambda texts, _, g: (_pack(texts, g),))
