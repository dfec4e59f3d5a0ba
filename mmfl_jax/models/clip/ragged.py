"""Texts of several lengths as one row of tokens: what works on each token by itself then computes no padding."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Say where the tokens of texts stand in a row: all first ones, then all second ones, and so on.

    Texts come the longest first, so those that have a token at a position are the first of them, and packing takes
    slices, whose gradients are slices too.

    Attributes:
      order: the number of each text, the longest first.
      counts: how many texts have a token at each position.
    """

    order: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, lengths: np.ndarray) -> Ragged:
        """Return the layout of texts of these lengths ``[n]``, each of at least one token."""
        lengths = np.asarray(lengths)
        order = np.argsort(-lengths, kind="stable")
        counts = (lengths > np.arange(lengths.max())[:, None]).sum(axis=1)
        return cls(tuple(order.tolist()), tuple(counts.tolist()))

    @property
    def positions(self) -> np.ndarray:
        """Return ``[tokens]``: the position of each token in its text."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def pack(self, texts: Array) -> Array:
        """Return ``[tokens, ...]`` of texts ``[n, t, ...]``, the longest first."""
        return jnp.concatenate([texts[:count, position] for position, count in enumerate(self.counts)])

    def unpack(self, tokens: Array) -> Array:
        """Return texts ``[n, t, ...]``, the longest first, of ``[tokens, ...]``; zeros behind their ends."""
        whole = len(self.order)
        filled = lambda x: jnp.pad(x, [(0, whole - len(x)), *[(0, 0)] * (x.ndim - 1)])
        return jnp.stack([filled(x) for x in self._by_position(tokens)], axis=1)

    def ends(self, tokens: Array) -> Array:
        """Return the last token of each text, ``[n, ...]``, of ``[tokens, ...]``, in the texts' own order."""
        longer = (*self.counts[1:], 0)
        last = [x[count:] for x, count in zip(self._by_position(tokens), longer)]
        return jnp.concatenate(last[::-1])[np.argsort(self.order)]

    def _by_position(self, tokens: Array) -> list[Array]:
        ends = itertools.accumulate(self.counts)
        return [tokens[end - count : end] for end, count in zip(ends, self.counts)]
