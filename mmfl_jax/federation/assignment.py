"""Modality assignment: which kinds of image each owner holds."""

from __future__ import annotations

import heapq

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.partition import Parts
from mmfl_jax.federation.ragged import offsets_of, positions

ASSIGNMENTS = ("single", "all", "mixed", "split", "rare:MODALITY")
# One owner of so many holds a rare modality.
_RARE = 10


def read_assignment(assignment: str) -> tuple[str, str]:
    """Return an assignment's kind, and the modality that is rare, if any.

    Raises:
      UserError: for an assignment that is none.
    """
    kind, _, modality = assignment.partition(":")
    if assignment not in ASSIGNMENTS[:-1] and not (kind == "rare" and modality):
        raise UserError(f"--modality-assignment {assignment!r} is unknown; one of {', '.join(ASSIGNMENTS)}")
    return kind, modality


def assign_modalities(
    parts: Parts, modalities: tuple[str, ...], assignment: str, seed: int
) -> tuple[Parts, list[tuple[str, ...]], np.ndarray]:
    """Return the clients, the modality sets there are, and ``[clients]`` which of them each holds.

    Args:
      parts: what the owners have.
      modalities: of the archive, in order.
      assignment: ``single`` (each client one modality, so that the samples are shared out evenly), ``all``, ``mixed``
        (one modality or all of them), ``split`` (each part becomes one client for each modality) or ``rare:MODALITY``
        (one client of ten, drawn at random, and at least one holds that modality, each other client one of the rest).
      seed: of which modality comes first among equals, and of who holds the rare one.

    Raises:
      UserError: for a rare modality that there is not, or that nothing is rare beside.
    """
    kind, rare = read_assignment(assignment)
    if kind == "rare":
        return parts, [(m,) for m in modalities], _rare(parts.sizes, modalities, rare, seed)
    if assignment == "all":
        return parts, [modalities], np.zeros(len(parts), dtype=np.int64)
    sets: list[tuple[str, ...]] = [(m,) for m in modalities]
    if assignment == "split":
        twice = np.repeat(np.arange(len(parts)), len(sets))
        names = tuple(f"{name}:{m}" for name in parts.names for m in modalities)
        samples = parts.samples[positions(parts.offsets, twice)]
        return Parts(names, samples, offsets_of(parts.sizes[twice])), sets, np.tile(np.arange(len(sets)), len(parts))
    if assignment == "mixed":
        sets = [*sets, modalities]
    return parts, sets, _even(parts.sizes, len(sets), generator(seed, Stream.MODALITIES))


def _rare(sizes: np.ndarray, modalities: tuple[str, ...], rare: str, seed: int) -> np.ndarray:
    """Deal a modality to one part of ten, and the others evenly to the rest."""
    if rare not in modalities or len(modalities) < 2 or len(sizes) < 2:
        raise UserError(
            f"--modality-assignment rare:{rare}: needs two clients and two modalities, one of them {rare!r}; there are "
            f"{len(sizes)} clients and {', '.join(modalities)}"
        )
    rng = generator(seed, Stream.MODALITIES)
    few = rng.permutation(len(sizes))[: max(1, len(sizes) // _RARE)]
    held = np.full(len(sizes), modalities.index(rare))
    others = np.setdiff1d(np.arange(len(sizes)), few)
    held[others] = np.flatnonzero(np.array(modalities) != rare)[_even(sizes[others], len(modalities) - 1, rng)]
    return held


def _even(sizes: np.ndarray, sets: int, rng: np.random.Generator) -> np.ndarray:
    """Deal parts to sets, largest first to the set with fewest samples: every sensor sees about as much.

    Equal parts are dealt in turn, in an order drawn by the seed, so that no sensor has always the first of them.
    """
    held = np.zeros(len(sizes), dtype=np.int64)
    fewest = [(0, int(first), chosen) for chosen, first in enumerate(rng.permutation(sets))]
    heapq.heapify(fewest)
    order = np.argsort(-sizes, kind="stable")
    for part, size in zip(order.tolist(), sizes[order].tolist()):
        total, first, chosen = fewest[0]
        held[part] = chosen
        heapq.heapreplace(fewest, (total + size, first, chosen))
    return held
