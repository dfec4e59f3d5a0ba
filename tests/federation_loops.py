"""How an archive was dealt before it was vectorised: client by client, as plain as can be. The tests' reference."""

from __future__ import annotations

import hashlib

import numpy as np

from mmfl_jax.federation.holdout import train_and_test
from mmfl_jax.tasks import task_of


def dealt(archive, reference, samples, clients, seed):
    """Return ``(name, sample indices)`` of every owner."""
    rng = np.random.default_rng([seed, 1])
    if reference.startswith("by:"):
        return _by_attribute(archive, reference.removeprefix("by:").split("+"), samples, clients, rng)
    clients = clients or min(10, len(samples))
    if reference == "iid":
        parts = np.array_split(rng.permutation(samples), clients)
    else:
        parts = _dirichlet(archive, float(reference.removeprefix("dirichlet:")), samples, clients, rng)
    return [(f"client-{i}", np.sort(part)) for i, part in enumerate(parts)]


def _dirichlet(archive, alpha, samples, clients, rng):
    classes = task_of(archive).sorting_class(archive.labels)[samples]
    parts = [[] for _ in range(clients)]
    for value in np.unique(classes):
        members = rng.permutation(samples[classes == value])
        cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha))) * len(members)).astype(int)[:-1]
        for pieces, piece in zip(parts, np.split(members, cuts)):
            pieces.append(piece)
    owned = [np.concatenate(pieces) for pieces in parts]
    for i, part in enumerate(owned):
        if not len(part):
            rich = max(range(clients), key=lambda j: len(owned[j]))
            owned[i], owned[rich] = owned[rich][:1], owned[rich][1:]
    return owned


def _by_attribute(archive, names, samples, clients, rng):
    columns = [archive.attribute(name)[samples].astype(str) for name in names]
    keys = np.array(["+".join(row) for row in zip(*columns)])
    found, inverse = np.unique(keys, return_inverse=True)
    values = [(str(name), samples[inverse == i]) for i, name in enumerate(found)]
    if not clients or clients == len(values):
        return values
    order = sorted(range(len(values)), key=lambda i: (-len(values[i][1]), rng.random()))
    bins = [[] for _ in range(clients)]
    sizes = np.zeros(clients, dtype=np.int64)
    for i in order:
        least = int(sizes.argmin())
        bins[least].append(i)
        sizes[least] += len(values[i][1])
    return [(f"client-{k}", np.sort(np.concatenate([values[i][1] for i in b]))) for k, b in enumerate(bins)]


def with_modalities(parts, modalities, assignment, seed):
    """Return ``(name, modalities, sample indices)`` of every client."""
    if assignment == "all":
        return [(name, modalities, samples) for name, samples in parts]
    if assignment == "split":
        return [(f"{name}:{m}", (m,), samples) for name, samples in parts for m in modalities]
    sets = [(m,) for m in modalities] + ([modalities] if assignment == "mixed" else [])
    first = np.random.default_rng([seed, 2]).permutation(len(sets))
    totals = np.zeros(len(sets), dtype=np.int64)
    held = {}
    for i in sorted(range(len(parts)), key=lambda i: -len(parts[i][1])):
        least = min(range(len(sets)), key=lambda s: (totals[s], first[s]))
        held[i] = sets[least]
        totals[least] += len(parts[i][1])
    return [(name, held[i], samples) for i, (name, samples) in enumerate(parts)]


def grouped(archive, clients):
    """Return ``(modalities, names, ids, samples, offsets)`` of every group of clients."""
    order = list(archive.modalities)
    members = {}
    for i, (_, held, _) in enumerate(clients):
        members.setdefault(tuple(sorted(held, key=order.index)), []).append(i)
    groups = []
    for held in sorted(members, key=lambda held: (len(held), [order.index(m) for m in held])):
        parts = [np.asarray(clients[i][2], dtype=np.int64) for i in members[held]]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        names = tuple(clients[i][0] for i in members[held])
        groups.append((held, names, np.array(members[held]), np.concatenate(parts), offsets))
    return groups


def split(archive, reference, clients, assignment, seed):
    """Return the groups and the test samples of a federation."""
    train, test = train_and_test(archive, "auto", seed)
    parts = dealt(archive, reference, train, clients, seed)
    return grouped(archive, with_modalities(parts, tuple(archive.modalities), assignment, seed)), test


def digest(archive, groups, test):
    """Return the SHA-256 of who holds what."""
    sha = hashlib.sha256()
    for held, _, ids, samples, offsets in groups:
        sha.update("+".join(held).encode())
        for values in (ids, offsets, samples, archive.labels[samples]):
            sha.update(np.ascontiguousarray(values).tobytes())
    sha.update(test.tobytes())
    return sha.hexdigest()


def label_counts(archive, samples):
    """Return the number of samples of each class, as a list."""
    labels = archive.labels[samples]
    if archive.task == "multilabel":
        return labels.sum(axis=0, dtype=np.int64).tolist()
    return np.bincount(labels, minlength=len(archive.class_names)).tolist()


def described(archive, groups, most):
    """Return the rows of the largest clients."""
    rows = [
        {
            "name": name,
            "modalities": list(held),
            "labels": label_counts(archive, samples[offsets[i] : offsets[i + 1]]),
            "samples": int(offsets[i + 1] - offsets[i]),
        }
        for held, names, _, samples, offsets in groups
        for i, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: -row["samples"])[:most]
