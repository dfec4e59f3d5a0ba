"""Missing modalities: owners that lack some of the sensors that others of their kind have."""

from __future__ import annotations

import dataclasses

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.federation import Federation
from mmfl_jax.federation.partition import Parts
from mmfl_jax.federation.ragged import offsets_of


def drop_modalities(federation: Federation, share: float, seed: int) -> Federation:
    """Return the federation in which clients of several modalities lost each with chance ``share``, never the last.

    A client that would lose all keeps one of them, each as likely as the others; clients of one modality stay. It lost
    them for good, for training and for all its samples: it moves to the group of what is left. Numbers, names, samples
    and labels stay, so that a client's randomness does; test samples keep all their modalities.

    Args:
      federation: the clients.
      share: chance of each modality to be lost.
      seed: of the draw; a client's coins depend on its number alone, and a greater share only takes more.

    Raises:
      UserError: for a share that is none.
    """
    if not 0 <= share <= 1:
        raise UserError(f"--missing-modalities {share:g} is no share; from 0 to 1")
    order = list(federation.archive.modalities)
    held = np.zeros((federation.clients, len(order)), dtype=bool)
    for group in federation.groups:
        held[group.ids] = [m in group.modalities for m in order]
    coins = np.where(held, generator(seed, Stream.LOST).random(held.shape), -1)
    left = held & (coins >= share)
    left[np.arange(len(held)), coins.argmax(axis=1)] = True
    codes, which = np.unique(left @ (1 << np.arange(len(order))), return_inverse=True)
    sets = [tuple(m for bit, m in enumerate(order) if code >> bit & 1) for code in codes.tolist()]
    changed = Federation.stack(federation.archive, *_by_number(federation, sets, which))
    return dataclasses.replace(changed, validation=federation.validation)


def _by_number(
    federation: Federation, sets: list[tuple[str, ...]], which: np.ndarray
) -> tuple[Parts, list[tuple[str, ...]], np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the arguments of :meth:`Federation.stack`: all clients in the order of their numbers."""
    offsets = offsets_of(federation.sizes)
    names = [""] * federation.clients
    samples = np.zeros(offsets[-1], dtype=np.int64)
    own = any(group.labels is not None for group in federation.groups)
    labels: np.ndarray | None = None
    for group in federation.groups:
        places = np.arange(len(group.samples)) + np.repeat(offsets[group.ids] - group.offsets[:-1], group.sizes)
        samples[places] = group.samples
        if own:
            read = federation.labels(group)
            labels = np.zeros((offsets[-1], *read.shape[1:]), read.dtype) if labels is None else labels
            labels[places] = read
        for number, name in zip(group.ids.tolist(), group.names):
            names[number] = name
    return Parts(tuple(names), samples, offsets), sets, which, federation.test, labels
