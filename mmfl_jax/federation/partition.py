"""Partitions: how the training samples of an archive are dealt to clients."""

from __future__ import annotations

import dataclasses

import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.errors import UserError

# As the sibling studies on BigEarthNet name them.
PRESETS = {"ds1": "iid", "ds2": "by:country", "ds3": "by:country+season"}
FORMS = "iid, dirichlet:ALPHA, by:ATTRIBUTE[+ATTRIBUTE], ds1, ds2 or ds3"


@dataclasses.dataclass(frozen=True)
class Part:
    """Hold what one owner has: a name and sample indices."""

    name: str
    samples: np.ndarray


def partition(archive: Archive, reference: str, samples: np.ndarray, clients: int, seed: int) -> list[Part]:
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
    form = PRESETS.get(reference, reference)
    rng = np.random.default_rng([seed, 1])
    if form != "iid" and not form.startswith(("dirichlet:", "by:")):
        raise UserError(f"--partition {reference!r} is unknown; one of {FORMS}")
    if clients > len(samples):
        raise UserError(f"--clients {clients} is more than the {len(samples)} training samples: some would have none")
    if form.startswith("by:"):
        return _by_attribute(archive, form.removeprefix("by:").split("+"), samples, clients, rng)
    clients = clients or min(10, len(samples))
    if form == "iid":
        parts = list(np.array_split(rng.permutation(samples), clients))
    else:
        parts = _dirichlet(archive, _alpha(reference), samples, clients, rng)
    return [Part(f"client-{i}", np.sort(part)) for i, part in enumerate(parts)]


def _alpha(reference: str) -> float:
    text = reference.removeprefix("dirichlet:")
    try:
        alpha = float(text)
    except ValueError:
        alpha = 0.0
    if not 0 < alpha < np.inf:
        raise UserError(f"--partition {reference!r}: ALPHA must be a positive number such as 0.3, not {text!r}")
    return alpha


def sorting_class(archive: Archive) -> np.ndarray:
    """Return one class for each sample, ``[samples]``: its label, or the rarest of its labels (-1 for none)."""
    if archive.task == "multiclass":
        return archive.labels.astype(np.int64)
    frequency = archive.labels.sum(axis=0, dtype=np.int64)
    rarity = np.where(archive.labels > 0, frequency, np.iinfo(np.int64).max)
    return np.where(archive.labels.any(axis=1), rarity.argmin(axis=1), -1)


def _dirichlet(
    archive: Archive, alpha: float, samples: np.ndarray, clients: int, rng: np.random.Generator
) -> list[np.ndarray]:
    classes = sorting_class(archive)[samples]
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for value in np.unique(classes):
        members = rng.permutation(samples[classes == value])
        cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha))) * len(members)).astype(int)[:-1]
        for pieces, piece in zip(parts, np.split(members, cuts)):
            pieces.append(piece)
    dealt = [np.concatenate(pieces) for pieces in parts]
    # A client without samples is no client: it takes one from whoever has most.
    for i, part in enumerate(dealt):
        if not len(part):
            rich = max(range(clients), key=lambda j: len(dealt[j]))
            dealt[i], dealt[rich] = dealt[rich][:1], dealt[rich][1:]
    return dealt


def _by_attribute(
    archive: Archive, names: list[str], samples: np.ndarray, clients: int, rng: np.random.Generator
) -> list[Part]:
    columns = [archive.attribute(name)[samples].astype(str) for name in names]
    keys = np.array(["+".join(row) for row in zip(*columns)])
    found, inverse = np.unique(keys, return_inverse=True)
    values = [(str(name), samples[inverse == i]) for i, name in enumerate(found)]
    if clients > len(values):
        raise UserError(
            f"--clients {clients} is more than the {len(values)} values of {'+'.join(names)} in the training samples; "
            f"at most {len(values)}"
        )
    if not clients or clients == len(values):
        return [Part(name, members) for name, members in values]
    # Whole values to the client that has least so far, largest first; ties are broken by chance.
    order = sorted(range(len(values)), key=lambda i: (-len(values[i][1]), rng.random()))
    bins: list[list[int]] = [[] for _ in range(clients)]
    sizes = np.zeros(clients, dtype=np.int64)
    for i in order:
        least = int(sizes.argmin())
        bins[least].append(i)
        sizes[least] += len(values[i][1])
    return [Part(f"client-{k}", np.sort(np.concatenate([values[i][1] for i in b]))) for k, b in enumerate(bins)]
