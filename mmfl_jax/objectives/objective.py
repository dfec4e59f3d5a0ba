"""What an objective is: a term of the local loss, and what the server keeps for it from round to round."""

from __future__ import annotations

from typing import Any

import jax

Array = jax.Array


class Objective:
    """Define a term of the local loss; by default the server keeps nothing for it.

    Attributes:
      name: under which its loss is logged, as ``NAME_loss``.
      weight: in the local loss.
      by_place: whether it has a slot for every place that clients hold, instead of one for every class.
      shares: whether sums of it travel.
    """

    name: str
    weight: float
    by_place: bool = False
    shares: bool = False

    def init(self, slots: int) -> Any:
        """Return what the server keeps before the first round."""
        return {}

    def weight_at(self, round: Array) -> Any:
        """Return the weight in a round, counted from 0."""
        return self.weight

    def loss(self, output: Any, batch: Any, shared: Any) -> Array:
        """Return the loss of one client's batch.

        Args:
          output: of the model.
          batch: with ``labels [batch, ...]``, ``classes [batch, classes]`` and ``places [batch]``.
          shared: what the server keeps.
        """
        raise NotImplementedError

    def empty_sums(self, shared: Any) -> Any:
        """Return zeros to add to."""
        return {}

    def add(self, sums: Any, output: Any, batch: Any, active: Array) -> Any:
        """Return ``sums`` with one local step of a chunk: leaves ``[chunk, batch, ...]``, ``active [chunk]`` bool."""
        return sums

    def update(self, shared: Any, sums: Any) -> Any:
        """Return what the server keeps after a round."""
        return shared

    def numbers(self, shared: Any, held: tuple[str, ...], places: int) -> tuple[int, int]:
        """Return how many float32 numbers one client sends up and receives down for it."""
        return 0, 0
