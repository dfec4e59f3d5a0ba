"""MIM: InfoNCE between modalities, and what the server relays for it: prototypes of classes, or projections of places.

Both are slots of unit vectors. Clients add their projections to slots while they train, the sums travel with the
round's one reduction, and a slot that was filled holds the new mean direction.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.objectives import infonce
from mmfl_jax.objectives.objective import Objective
from mmfl_jax.objectives.options import MIMOptions

Array = jax.Array
Sums = dict[str, tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class MIM(Objective):
    """Maximise the mutual information of modalities (:mod:`mmfl_jax.objectives.infonce`).

    Attributes:
      options: source of positives, size of a projection, weight and temperature; with ``pairs`` nothing is relayed.
      modalities: that have projections, in order.
    """

    options: MIMOptions
    modalities: tuple[str, ...]
    name: str = "mim"

    @property
    def weight(self) -> float:  # type: ignore[override]
        """Return lambda_MIM."""
        return self.options.mim_weight

    def weight_at(self, round: Array) -> Any:
        """Return lambda_MIM, of which the first rounds of a warm-up have a part."""
        rounds = self.options.mim_warmup
        return self.weight * jnp.minimum(round / rounds, 1.0) if rounds else self.weight

    @property
    def by_place(self) -> bool:  # type: ignore[override]
        """Return whether a slot is a place."""
        return self.options.mim_positives == "places"

    @property
    def shares(self) -> bool:  # type: ignore[override]
        """Return whether projections travel."""
        return self.options.mim_positives != "pairs"

    def init(self, slots: int) -> dict[str, dict[str, Array]]:
        """Return empty slots: none known yet."""
        if self.options.mim_positives == "pairs":
            return {}
        empty = lambda: {"keys": jnp.zeros((slots, self.options.mim_size)), "known": jnp.zeros(slots, bool)}
        return {m: empty() for m in self.modalities}

    def loss(self, output: Any, batch: Any, shared: dict) -> Array:
        """Return the MIM loss of one client's batch; for ``places``, the batch's places are their slots."""
        projections, classes = _flat(output.projections, batch)
        places = batch.places
        if self.options.mim_positives == "pairs":
            return infonce.pairs_loss(projections, places, self.options.mim_temperature)
        keys = {m: slot["keys"] for m, slot in shared.items()}
        known = {m: slot["known"] for m, slot in shared.items()}
        positive = classes > 0
        if self.options.mim_positives == "places":
            keys = {m: k[places] for m, k in keys.items()}
            known = {m: k[places] for m, k in known.items()}
            positive = places[:, None] == places[None, :]
        return infonce.relay_loss(projections, keys, known, positive, self.options.mim_temperature)

    def empty_sums(self, shared: dict) -> Sums:
        """Return zeros to add projections to: ``{modality: (sums [slots, size], counts [slots])}``."""
        return {m: (jnp.zeros_like(slot["keys"]), jnp.zeros(slot["known"].shape)) for m, slot in shared.items()}

    def add(self, sums: Sums, output: Any, batch: Any, active: Array) -> Sums:
        """Return ``sums`` with the projections of one local step of a chunk.

        Args:
          sums: so far.
          output: with projections ``[chunk, batch, ..., size]`` by modality held.
          batch: with classes ``[chunk, batch, classes]`` and places ``[chunk, batch]``.
          active: ``[chunk]`` bool: clients that still train; a projection that is not finite is left out too.
        """
        out = dict(sums)
        projections, classes = jax.vmap(_flat)(output.projections, batch)
        for m, z in projections.items():
            if m not in sums:
                continue
            total, count = sums[m]
            valid = active[:, None] & jnp.isfinite(z).all(axis=-1)
            z = jnp.where(valid[..., None], z, 0.0)
            if self.options.mim_positives == "places":
                total = total.at[batch.places].add(z)
                count = count.at[batch.places].add(valid.astype(count.dtype))
            else:
                weight = jnp.where(valid[..., None], classes, 0).astype(z.dtype)
                total = total + jnp.einsum("kbc,kbd->cd", weight, z, precision="highest")
                count = count + weight.sum(axis=(0, 1))
            out[m] = (total, count)
        return out

    def update(self, shared: dict, sums: Sums) -> dict[str, dict[str, Array]]:
        """Return the slots after a round: the direction of the mean where anybody contributed, else as before.

        With momentum, a slot that was known turns towards the new direction by a part.
        """
        out = {}
        for m, slot in shared.items():
            total, count = sums[m]
            length = jnp.linalg.norm(total, axis=-1, keepdims=True)
            filled = (count > 0) & (length[:, 0] > 1e-6)
            new = total / jnp.maximum(length, 1e-6)
            if self.options.mim_momentum:
                stays = jnp.where(slot["known"], self.options.mim_momentum, 0.0)[:, None]
                new = stays * slot["keys"] + (1 - stays) * new
                new /= jnp.maximum(jnp.linalg.norm(new, axis=-1, keepdims=True), 1e-6)
            keys = jnp.where(filled[:, None], new, slot["keys"])
            out[m] = {"keys": keys, "known": slot["known"] | filled}
        return out

    def numbers(self, shared: dict, held: tuple[str, ...], places: int) -> tuple[int, int]:
        """Return the numbers of one client: sums and counts of what it holds up, the other modalities' slots down."""
        if not shared:
            return 0, 0
        own = [m for m in shared if m in held]
        others = [m for m in shared if len(own) > 1 or m not in own]
        slots = places if self.by_place else len(shared[self.modalities[0]]["known"])
        return len(own) * slots * (self.options.mim_size + 1), len(others) * slots * self.options.mim_size


def _flat(projections: dict[str, Array], batch: Any) -> tuple[dict[str, Array], Array]:
    """Return one client's projections ``[anchors, size]`` by modality, and the classes of each, ``[anchors, classes]``.

    Of feature maps an anchor is a pixel of the map, and has the class of the image's pixel at its centre.
    """
    some = next(iter(projections.values()), None)
    if some is None or some.ndim == 2:
        return projections, batch.classes
    classes = batch.classes.shape[-1]
    rows, columns = (_centres(n, side) for n, side in zip(some.shape[1:3], batch.labels.shape[1:]))
    centres = batch.labels[:, rows][:, :, columns].reshape(-1)
    one_hot = (centres[:, None] == jnp.arange(classes, dtype=centres.dtype)).astype(batch.classes.dtype)
    return {m: z.reshape(-1, z.shape[-1]) for m, z in projections.items()}, one_hot


def _centres(cells: int, side: int) -> np.ndarray:
    """Return the pixel at the centre of each of the cells that a side is divided into, ``[cells]``."""
    each = -(-side // cells)
    return np.minimum(np.arange(cells) * each + each // 2, side - 1)
