"""Partitions: how the training samples of an archive are dealt to clients.

All in a number of operations that grows as samples and clients do, whatever their product: owners may be 400,000.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from typing import overload

import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.ragged import offsets_of, stacked
from mmfl_jax.tasks import task_of

# As the federated studies on BigEarthNet by Büyüktaş, Sumbul and Demir name them.
PRESETS = {"ds1": "iid", "ds2": "by:country", "ds3": "by:country+season"}
FORMS = "iid, dirichlet:ALPHA, by:ATTRIBUTE[+ATTRIBUTE], ds1, ds2 or ds3"


@dataclasses.dataclass(frozen=True)
class Part:
    """Hold what one owner has: a name and sample indices."""

    name: str
    samples: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Parts(Sequence[Part]):
    """Hold what all owners have, stacked; a sequence of :class:`Part`.

    Attributes:
      names: of the owners.
      samples: ``[sum of sizes]`` sample indices, owner after owner.
      offsets: ``[owners + 1]`` where each owner's samples begin.
    """

    names: tuple[str, ...]
    samples: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Parts:
        """Return the parts stacked."""
        if isinstance(parts, Parts):
            return parts
        samples = [np.asarray(part.samples, dtype=np.int64) for part in parts]
        flat = np.concatenate([np.zeros(0, dtype=np.int64), *samples])
        return cls(tuple(part.name for part in parts), flat, offsets_of(np.array([len(s) for s in samples], int)))

    @property
    def sizes(self) -> np.ndarray:
        """Return ``[owners]`` numbers of samples."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, i: int) -> Part: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[Part]: ...

    def __getitem__(self, i: int | slice) -> Part | Sequence[Part]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        j = range(len(self))[i]
        return Part(self.names[j], self.samples[self.offsets[j] : self.offsets[j + 1]])


def partition(archive: Archive, reference: str, samples: np.ndarray, clients: int, seed: int) -> Parts:
    """Deal ``samples`` to clients.

    Args:
      archive: gives labels and attributes.
      reference: ``iid``; ``dirichlet:ALPHA`` (each class is dealt in proportions drawn from a symmetric Dirichlet, Hsu
        et al., 2019; a sample with several labels goes by its rarest); ``by:ATTRIBUTE[+ATTRIBUTE]`` (a client a value,
        or, when there are more values than ``clients``, whole values dealt so that sizes are even); or a preset.
      samples: ``[n]`` indices into the archive.
      clients: how many; 0 for as many as the attribute has values, or 10.
      seed: of the draw.

    Returns:
      Parts in a fixed order, none of them empty.

    Raises:
      UserError: for an unknown reference, or more clients than samples or values.
    """
    form = read_partition(reference)
    rng = generator(seed, Stream.PARTITION)
    if clients > len(samples):
        raise UserError(f"--clients {clients} is more than the {len(samples)} training samples: some would have none")
    if form.startswith("by:"):
        return _by_attribute(archive, form.removeprefix("by:").split("+"), samples, clients, rng)
    clients = clients or min(10, len(samples))
    if form == "iid":
        dealt = rng.permutation(samples)
        # As numpy.array_split cuts: the first ones have one more.
        sizes = len(samples) // clients + (np.arange(clients) < len(samples) % clients)
        owners = np.repeat(np.arange(clients), sizes)
    else:
        owners, dealt = _dirichlet(archive, _alpha(reference), samples, clients, rng)
    return _numbered(owners, dealt, clients)


def read_partition(reference: str) -> str:
    """Return the form of a partition: a preset stands for another one.

    Raises:
      UserError: for an unknown reference.
    """
    form = PRESETS.get(reference, reference)
    if form.startswith("dirichlet:"):
        _alpha(form)
    elif form != "iid" and not (form.startswith("by:") and all(form.removeprefix("by:").split("+"))):
        raise UserError(f"--partition {reference!r} is unknown; one of {FORMS}")
    return form


def _numbered(owners: np.ndarray, samples: np.ndarray, clients: int) -> Parts:
    return Parts(tuple(f"client-{i}" for i in range(clients)), *stacked(owners, samples, clients, ordered=True))


def _alpha(reference: str) -> float:
    text = reference.removeprefix("dirichlet:")
    try:
        alpha = float(text)
    except ValueError:
        alpha = 0.0
    if not 0 < alpha < np.inf:
        raise UserError(f"--partition {reference!r}: ALPHA must be a positive number such as 0.3, not {text!r}")
    return alpha


def _dirichlet(
    archive: Archive, alpha: float, samples: np.ndarray, clients: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[n]`` owners and ``[n]`` their samples."""
    classes = task_of(archive).sorting_class(archive.labels)[samples]
    owners, dealt = [], []
    for value in np.unique(classes):
        members = rng.permutation(samples[classes == value])
        cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha))) * len(members)).astype(int)[:-1]
        owners.append(np.repeat(np.arange(clients), np.diff(cuts, prepend=0, append=len(members))))
        dealt.append(members)
    rows, values = np.concatenate(owners), np.concatenate(dealt)
    # Owner after owner, so that the first sample of each is known.
    flat, offsets = stacked(rows, values, clients, ordered=False)
    return _filled(offsets), flat


def _filled(offsets: np.ndarray) -> np.ndarray:
    """Return the owner of every sample once each owner without any took the first of whoever had most.

    A client without samples is no client.
    """
    sizes = np.diff(offsets)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    begins = offsets[:-1].copy()
    # Only owners of two or more can be the richest while anybody has none.
    richest = [(-int(sizes[i]), int(i)) for i in np.flatnonzero(sizes > 1)]
    heapq.heapify(richest)
    for poor in np.flatnonzero(sizes == 0).tolist():
        size, rich = richest[0]
        owners[begins[rich]] = poor
        begins[rich] += 1
        heapq.heapreplace(richest, (size + 1, rich))
    return owners


def _by_attribute(
    archive: Archive, names: list[str], samples: np.ndarray, clients: int, rng: np.random.Generator
) -> Parts:
    values, number = _keys([archive.attribute(name)[samples] for name in names])
    if clients > len(values):
        raise UserError(
            f"--clients {clients} is more than the {len(values)} values of {'+'.join(names)} in the training samples; "
            f"at most {len(values)}"
        )
    if not clients or clients == len(values):
        return Parts(tuple(values.tolist()), *stacked(number, samples, len(values), ordered=False))
    # Whole values to the client that has least so far, largest first; ties are broken by chance.
    sizes = np.bincount(number, minlength=len(values))
    order = np.lexsort((rng.random(len(values)), -sizes))
    owner = np.zeros(len(values), dtype=np.int64)
    least = [(0, client) for client in range(clients)]
    for value, size in zip(order.tolist(), sizes[order].tolist()):
        total, client = least[0]
        owner[value] = client
        heapq.heapreplace(least, (total + size, client))
    return _numbered(owner[number], samples, clients)


def _keys(columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted texts ``A+B`` of the rows of columns, ``[values]``, and each row's place among them.

    Text is made and sorted once a value, not once a row.
    """
    found, number = _texts(columns[0])
    for column in columns[1:]:
        texts, place = _texts(column)
        pairs, row = np.unique(number * len(texts) + place, return_inverse=True)
        joined = [f"{found[p // len(texts)]}+{texts[p % len(texts)]}" for p in pairs.tolist()]
        # Pairs that read alike ("a+b" and "c", "a" and "b+c") are one value.
        found, merged = np.unique(np.array(joined), return_inverse=True)
        number = merged[row]
    return found, number


def _texts(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column's sorted values as text, ``[values]``, and each row's place among them, ``[rows]``."""
    if column.dtype.kind in "iub":
        values, number = np.unique(column, return_inverse=True)
        texts, place = np.unique(values.astype(str), return_inverse=True)
        return texts, place[number]
    return np.unique(column.astype(str), return_inverse=True)
