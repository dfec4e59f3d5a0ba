"""Modality assignment: which kinds of image each owner holds."""

from __future__ import annotations

import heapq
from typing import Literal, get_args

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.partition import Parts
from mmfl_jax.federation.ragged import offsets_of, positions

Assignment = Literal["single", "all", "mixed", "split"]


def check_assignment(assignment: str) -> None:
    """Raise UserError for an assignment that is none."""
    if assignment not in get_args(Assignment):
        raise UserError(f"--modality-assignment {assignment!r} is unknown; one of {', '.join(get_args(Assignment))}")


def assign_modalities(
    parts: Parts, modalities: tuple[str, ...], assignment: str, seed: int
) -> tuple[Parts, list[tuple[str, ...]], np.ndarray]:
    """Return the clients, the modality sets there are, and ``[clients]`` which of them each holds.

    Args:
      parts: what the owners have.
      modalities: of the archive, in order.
      assignment: ``single`` (each client one modality, so that the samples are shared out evenly), ``all``, ``mixed``
        (one modality or all of them) or ``split`` (each part becomes one client for each modality).
      seed: of which modality comes first among equals.
    """
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
