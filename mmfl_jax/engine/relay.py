"""What MIM's server relays between clients of different modalities: prototypes of classes, or projections of places.

Both are slots of unit vectors. Clients add their projections to slots while they train, the sums travel with the
round's one reduction, and a slot that was filled holds the new mean direction.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mmfl_jax.objectives import infonce

Array = jax.Array
Sums = dict[str, tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Relay:
    """Hold MIM's options.

    Attributes:
      source: of positives: ``prototypes``, ``places``, or ``pairs`` (nothing is relayed).
      modalities: that have projections, in order.
      size: of a projection.
      weight: lambda_MIM.
      temperature: of the softmax.
    """

    source: str
    modalities: tuple[str, ...]
    size: int
    weight: float
    temperature: float

    def init(self, slots: int) -> dict[str, dict[str, Array]]:
        """Return empty slots: none known yet."""
        if self.source == "pairs":
            return {}
        empty = lambda: {"keys": jnp.zeros((slots, self.size)), "known": jnp.zeros(slots, bool)}
        return {m: empty() for m in self.modalities}

    def loss(self, projections: dict[str, Array], relayed: dict, labels: Array, places: Array) -> Array:
        """Return the MIM loss of one client's batch.

        Args:
          projections: ``[batch, size]`` by modality held.
          relayed: the server's slots, as :meth:`init` lays them out.
          labels: ``[batch, classes]`` of 0/1.
          places: ``[batch]`` int32 that tell places apart; for ``places``, their slots.
        """
        if self.source == "pairs":
            return infonce.pairs_loss(projections, places, self.temperature)
        keys = {m: slot["keys"] for m, slot in relayed.items()}
        known = {m: slot["known"] for m, slot in relayed.items()}
        positive = labels > 0
        if self.source == "places":
            keys = {m: k[places] for m, k in keys.items()}
            known = {m: k[places] for m, k in known.items()}
            positive = places[:, None] == places[None, :]
        return infonce.relay_loss(projections, keys, known, positive, self.temperature)

    def empty_sums(self, relayed: dict) -> Sums:
        """Return zeros to add projections to: ``{modality: (sums [slots, size], counts [slots])}``."""
        return {m: (jnp.zeros_like(slot["keys"]), jnp.zeros(slot["known"].shape)) for m, slot in relayed.items()}

    def add(self, sums: Sums, projections: dict[str, Array], labels: Array, places: Array, active: Array) -> Sums:
        """Return ``sums`` with the projections of one local step of a chunk.

        Args:
          sums: so far.
          projections: ``[chunk, batch, size]`` by modality held.
          labels: ``[chunk, batch, classes]``.
          places: ``[chunk, batch]``, for ``places``.
          active: ``[chunk]`` bool: clients that still train; a projection that is not finite is left out too.
        """
        out = dict(sums)
        for m, z in projections.items():
            if m not in sums:
                continue
            total, count = sums[m]
            valid = active[:, None] & jnp.isfinite(z).all(axis=-1)
            z = jnp.where(valid[..., None], z, 0.0)
            if self.source == "places":
                total = total.at[places].add(z)
                count = count.at[places].add(valid.astype(count.dtype))
            else:
                weight = jnp.where(valid[..., None], labels, 0).astype(z.dtype)
                total = total + jnp.einsum("kbc,kbd->cd", weight, z, precision="highest")
                count = count + weight.sum(axis=(0, 1))
            out[m] = (total, count)
        return out

    def update(self, relayed: dict, sums: Sums) -> dict[str, dict[str, Array]]:
        """Return the slots after a round: the direction of the mean where anybody contributed, else as before."""
        out = {}
        for m, slot in relayed.items():
            total, count = sums[m]
            length = jnp.linalg.norm(total, axis=-1, keepdims=True)
            filled = (count > 0) & (length[:, 0] > 1e-6)
            keys = jnp.where(filled[:, None], total / jnp.maximum(length, 1e-6), slot["keys"])
            out[m] = {"keys": keys, "known": slot["known"] | filled}
        return out
