"""Labels as owners have them: wrong by accident (noise), or on purpose (label flipping).

Both change what clients train on, and nothing else: an owner's wrong labels are its own, even of a place that another
owner holds too, and test labels are never touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.federation import Federation
from mmfl_jax.federation.ragged import row_numbers

KINDS = ("symmetric", "additive", "subtractive")


def noisy_labels(
    labels: np.ndarray, classes: int, task: str, share: float, rng: np.random.Generator, kind: str = "symmetric"
) -> np.ndarray:
    """Return labels of which a share is wrong at random.

    - ``multiclass`` (and labels by pixel): each label becomes one of the other classes with chance ``share``, all of
      them alike. A label outside 0 to ``classes - 1`` (an ignored pixel) stays.
    - ``multilabel``: each class of each sample is flipped with chance ``share``, whatever the others do: noise that
      depends on nothing, as most work on multi-label noise has it. As few classes are present, most flips then add one;
      ``additive`` only adds (absent ones), ``subtractive`` only takes away (present ones).

    Args:
      labels: as an archive has them.
      classes: how many there are.
      task: ``multiclass``, ``multilabel`` or ``pixel``.
      share: chance of a label to be wrong.
      rng: of the draw.
      kind: ``symmetric``; for ``multilabel``, ``additive`` or ``subtractive`` too.

    Raises:
      UserError: for a share that is none, an unknown kind, or a single class, which has no other.

    References:
      Ghosh, Kumar, Sastry, "Robust loss functions under label noise for deep neural networks", AAAI 2017 (symmetric).
      Burgert, Ravanbakhsh, Demir, "On the effects of different types of label noise in multi-label remote sensing image
      classification", IEEE TGRS 2022 (additive, subtractive and mixed).
    """
    if not 0 <= share <= 1:
        raise UserError(f"--label-noise {share:g} is no share; from 0 to 1")
    kinds = KINDS if task == "multilabel" else KINDS[:1]
    if kind not in kinds:
        raise UserError(f"--label-noise-kind {kind!r} is unknown for {task} labels; one of {', '.join(kinds)}")
    wrong = rng.random(labels.shape, dtype=np.float32) < share
    if task == "multilabel":
        if kind != "symmetric":
            wrong &= labels == (kind == "subtractive")
        return np.where(wrong, 1 - labels, labels).astype(labels.dtype)
    if classes < 2:
        raise UserError(f"--label-noise {share:g}: the archive has {classes} class; a wrong label needs another")
    others = (labels + rng.integers(1, classes, labels.shape)) % classes
    return np.where(wrong & (labels >= 0) & (labels < classes), others, labels).astype(labels.dtype)


def flipped_labels(labels: np.ndarray, classes: int, task: str) -> np.ndarray:
    """Return the labels that a poisoner gives: class ``c`` becomes ``classes - 1 - c``, present becomes absent.

    A label outside 0 to ``classes - 1`` (an ignored pixel) stays.

    References:
      Fang, Cao, Jia, Gong, "Local model poisoning attacks to Byzantine-robust federated learning", USENIX Security
      2020.
    """
    if task == "multilabel":
        return (1 - labels).astype(labels.dtype)
    # Labels may be unsigned, of which nothing is below 0.
    inside = (labels >= 0) & (labels < classes)
    return np.where(inside, classes - 1 - labels.astype(np.int64), labels).astype(labels.dtype)


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
    """Return the federation in which a share of training labels is wrong (:func:`noisy_labels`).

    Args:
      federation: the clients.
      share: chance of a label to be wrong.
      seed: of the draw.
      clients: numbers of those that have wrong labels; None for all.
      kind: see :func:`noisy_labels`.

    Raises:
      UserError: as :func:`noisy_labels`.
    """
    task, classes = federation.archive.task, len(federation.archive.class_names)

    def change(labels: np.ndarray, group: int) -> np.ndarray:
        return noisy_labels(labels, classes, task, share, generator(seed, Stream.LABELS, group), kind)

    return _relabelled(federation, change, clients)


def with_flipped_labels(federation: Federation, clients: np.ndarray) -> Federation:
    """Return the federation in which the clients of these numbers have all labels flipped (:func:`flipped_labels`)."""
    task, classes = federation.archive.task, len(federation.archive.class_names)
    return _relabelled(federation, lambda labels, group: flipped_labels(labels, classes, task), clients)


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
