"""Clients without a value: what they hold is missing throughout, and zeros would stand for it in training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.errors import UserError
from mmfl_jax.federation.partition import Parts
from mmfl_jax.federation.ragged import offsets_of, positions

LISTED = 3


def without_absent(
    archive: Archive, parts: Parts, sets: list[tuple[str, ...]], which: np.ndarray
) -> tuple[Parts, list[tuple[str, ...]], np.ndarray]:
    """Return the clients, modality sets and ``[clients]`` sets held, without modalities of which a client has no value.

    A client that has no value at all is left out. Warnings name both. Archives that do not know which values are
    missing before images are read keep all clients.

    Raises:
      UserError: when no client is left.
    """
    known = {m: absent for m in archive.modalities if (absent := archive.absent(m)) is not None and absent.any()}
    if not known:
        return parts, sets, which
    order = list(archive.modalities)
    held = np.array([[m in chosen for m in order] for chosen in sets], bool)[which]
    there = np.ones_like(held)
    for m, absent in known.items():
        there[:, order.index(m)] = np.logical_or.reduceat(~absent[parts.samples], parts.offsets[:-1])
    left = held & there
    kept = left.any(axis=1)
    _warn("have no value in what they hold, and are left out", parts, ~kept, held, order)
    _warn(
        "have no value of a modality, and go without it", parts, kept & (held != left).any(axis=1), held & ~left, order
    )
    if not kept.any():
        raise UserError(f"archive {archive.name}: no client has a value in what it holds; all are missing")
    codes, numbers = np.unique(left[kept] @ (1 << np.arange(len(order))), return_inverse=True)
    chosen = [tuple(m for bit, m in enumerate(order) if code >> bit & 1) for code in codes.tolist()]
    ids = np.flatnonzero(kept)
    names = tuple(parts.names[i] for i in ids.tolist())
    return Parts(names, parts.samples[positions(parts.offsets, ids)], offsets_of(parts.sizes[ids])), chosen, numbers


def _warn(what: str, parts: Parts, which: np.ndarray, lost: np.ndarray, order: Sequence[str]) -> None:
    ids = np.flatnonzero(which).tolist()
    if ids:
        shown = [f"{parts.names[i]} ({'+'.join(m for m, gone in zip(order, lost[i]) if gone)})" for i in ids[:LISTED]]
        more = f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""
        warnings.warn(f"{len(ids)} of {len(parts)} clients {what}: {', '.join(shown)}{more}", stacklevel=4)
