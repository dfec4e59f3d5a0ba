"""Labels as owners have them: few, wrong by accident (noise), or on purpose (label flipping).

All change what clients train on, and nothing else: an owner's wrong labels are its own, even of a place that another
owner holds too, and test labels are never touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.federation import Federation
from mmfl_jax.federation.ragged import ranks, row_numbers
from mmfl_jax.tasks import task_of


def some_clients(federation: Federation, share: float, seed: int, *, option: str = "malicious") -> np.ndarray:
    """Return the sorted numbers of a share of clients (rounded, at least one where the share is above 0).

    One seed and option always choose the same clients, and a greater share chooses those of a smaller one too. Each
    option chooses for itself: that a client is malicious says nothing of its label noise.

    Raises:
      UserError: naming ``--option`` for a share that is none.
    """
    if not 0 <= share <= 1:
        raise UserError(f"--{option} {share:g} is no share of clients; from 0 to 1")
    order = generator(seed, Stream.CHOSEN, *option.encode()).permutation(federation.clients)
    return np.sort(order[: max(round(share * len(order)), int(share > 0))])


def with_noisy_labels(
    federation: Federation, share: float, seed: int, *, clients: np.ndarray | None = None, kind: str = "symmetric"
) -> Federation:
    """Return the federation in which a share of training labels is wrong (:meth:`mmfl_jax.tasks.task.Task.noisy`).

    Args:
      federation: the clients.
      share: chance of a label to be wrong.
      seed: of the draw.
      clients: numbers of those that have wrong labels; None for all.
      kind: one of the task's ``noise``.

    Raises:
      UserError: as the task.
    """
    task = task_of(federation.archive)

    def change(labels: np.ndarray, group: int) -> np.ndarray:
        return task.noisy(labels, share, generator(seed, Stream.LABELS, group), kind)

    return _relabelled(federation, change, clients)


def with_flipped_labels(federation: Federation, clients: np.ndarray) -> Federation:
    """Return the federation in which these clients have all labels flipped, as the task does it."""
    task = task_of(federation.archive)
    return _relabelled(federation, lambda labels, group: task.flipped(labels), clients)


def with_few_labels(federation: Federation, share: float, seed: int) -> Federation:
    """Return the federation in which each client has labels of a share of its samples (rounded, at least one) only.

    Args:
      federation: the clients.
      share: above 0, up to 1.
      seed: of the draw; a greater share only adds labels.
    """
    task = task_of(federation.archive)

    def change(labels: np.ndarray, number: int) -> np.ndarray:
        group = federation.groups[number]
        turns = generator(seed, Stream.LABELLED, number).random(len(group.samples))
        kept = ranks(group.offsets, turns) < np.repeat(np.maximum(np.rint(share * group.sizes), 1), group.sizes)
        return np.where(kept.reshape(-1, *[1] * (labels.ndim - 1)), labels, labels.dtype.type(task.unlabelled))

    return _relabelled(federation, change, None)


def _relabelled(
    federation: Federation, change: Callable[[np.ndarray, int], np.ndarray], clients: np.ndarray | None
) -> Federation:
    groups = []
    for number, group in enumerate(federation.groups):
        touched = np.ones(len(group.ids), bool) if clients is None else np.isin(group.ids, clients)
        if touched.any():
            labels = federation.labels(group)
            samples = touched[row_numbers(group.offsets)].reshape(-1, *[1] * (labels.ndim - 1))
            group = dataclasses.replace(group, labels=np.where(samples, change(labels, number), labels))
        groups.append(group)
    return dataclasses.replace(federation, groups=tuple(groups))
