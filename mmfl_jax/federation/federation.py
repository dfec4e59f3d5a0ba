"""The federation: clients with modality sets and samples, and test samples that no client sees."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.errors import UserError
from mmfl_jax.federation.partition import Part, partition

ASSIGNMENTS = ("single", "all", "mixed", "split")


@dataclasses.dataclass(frozen=True)
class Group:
    """Hold the clients of one modality set, stacked.

    Attributes:
      modalities: the set, in the archive's order.
      names: of the clients.
      ids: ``[clients]`` numbers of the clients in the federation; they key the clients' randomness.
      samples: ``[sum of sizes]`` sample indices, client after client.
      offsets: ``[clients + 1]`` where each client's samples begin.
    """

    modalities: tuple[str, ...]
    names: tuple[str, ...]
    ids: np.ndarray
    samples: np.ndarray
    offsets: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Return ``[clients]`` numbers of samples."""
        return np.diff(self.offsets)

    def client(self, i: int) -> np.ndarray:
        """Return the sample indices of client ``i`` of the group."""
        return self.samples[self.offsets[i] : self.offsets[i + 1]]


@dataclasses.dataclass(frozen=True)
class Federation:
    """Hold an archive dealt to clients.

    Attributes:
      archive: the samples.
      groups: the clients by modality set.
      test: ``[n]`` indices of samples that no client holds.
    """

    archive: Archive
    groups: tuple[Group, ...]
    test: np.ndarray

    @classmethod
    def split(
        cls,
        archive: Archive,
        partition_by: str = "iid",
        *,
        clients: int = 0,
        assignment: str = "single",
        test_split: str = "auto",
        seed: int = 0,
    ) -> Federation:
        """Deal an archive to clients and give each its modalities.

        Args:
          archive: the samples.
          partition_by: see :func:`mmfl_jax.federation.partition.partition`.
          clients: how many parts; 0 for the partition's own number.
          assignment: ``single`` (each client one modality, so that the samples are shared out evenly), ``all``,
            ``mixed`` (one modality or all of them) or ``split`` (each part becomes one client for each modality: owners
            that look at the same places with different sensors).
          test_split: see :func:`train_and_test`.
          seed: of every draw.

        Raises:
          UserError: for an unknown option, or a federation that cannot be made.
        """
        if assignment not in ASSIGNMENTS:
            raise UserError(f"--modality-assignment {assignment!r} is unknown; one of {', '.join(ASSIGNMENTS)}")
        train, test = train_and_test(archive, test_split, seed)
        parts = partition(archive, partition_by, train, clients, seed)
        sets = _modality_sets(parts, tuple(archive.modalities), assignment, seed)
        return cls.of(archive, [(part.name, held, part.samples) for part, held in sets], test)

    @classmethod
    def of(
        cls, archive: Archive, clients: Sequence[tuple[str, tuple[str, ...], np.ndarray]], test: np.ndarray
    ) -> Federation:
        """Return the federation of ``(name, modalities, sample indices)`` clients.

        Raises:
          UserError: for no client, a client without samples, or a modality the archive lacks.
        """
        if not clients:
            raise UserError("the federation has no client; give at least one")
        order = list(archive.modalities)
        members: dict[tuple[str, ...], list[int]] = {}
        for i, (name, held, samples) in enumerate(clients):
            if not len(samples):
                raise UserError(f"client {name!r} has no samples; leave it out or give it some")
            unknown = set(held) - set(order)
            if unknown or not held:
                raise UserError(f"client {name!r} holds modalities {held}; the archive has {', '.join(order)}")
            members.setdefault(tuple(sorted(held, key=order.index)), []).append(i)
        groups = []
        for held in sorted(members, key=lambda held: (len(held), [order.index(m) for m in held])):
            numbers = members[held]
            parts = [np.asarray(clients[i][2], dtype=np.int64) for i in numbers]
            offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
            names = tuple(clients[i][0] for i in numbers)
            groups.append(Group(held, names, np.array(numbers), np.concatenate(parts), offsets))
        return cls(archive, tuple(groups), np.asarray(test, dtype=np.int64))

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return sum(len(group.ids) for group in self.groups)

    def digest(self) -> str:
        """Return the SHA-256 of who holds what: modality sets, sample indices, labels and test samples."""
        sha = hashlib.sha256()
        for group in self.groups:
            sha.update("+".join(group.modalities).encode())
            for values in (group.ids, group.offsets, group.samples, self.archive.labels[group.samples]):
                sha.update(np.ascontiguousarray(values).tobytes())
        sha.update(self.test.tobytes())
        return sha.hexdigest()

    def describe(self, most: int = 200) -> dict:
        """Return the federation as JSON: sizes, modalities and label counts of the ``most`` largest clients."""
        archive = self.archive
        rows = []
        for group in self.groups:
            for i, name in enumerate(group.names):
                counts = label_counts(archive, group.client(i))[:-1]
                rows.append({"name": name, "modalities": list(group.modalities), "labels": counts.tolist()})
                rows[-1]["samples"] = len(group.client(i))
        rows.sort(key=lambda row: -row["samples"])
        train = np.unique(np.concatenate([group.samples for group in self.groups]))
        return {
            "task": archive.task,
            "class_names": list(archive.class_names),
            "clients_total": len(rows),
            "clients": rows[:most],
            "train_samples": len(train),
            "sha256": self.digest(),
            "test_samples": len(self.test),
        }


def label_counts(archive: Archive, samples: np.ndarray) -> np.ndarray:
    """Return ``[classes + 1]`` numbers of samples with each class, then of all samples."""
    labels = archive.labels[samples]
    if archive.task == "multilabel":
        counts = labels.sum(axis=0, dtype=np.int64)
    else:
        counts = np.bincount(labels, minlength=len(archive.class_names))
    return np.concatenate([counts, [len(samples)]])


def train_and_test(archive: Archive, test_split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of training and of test samples.

    Args:
      archive: the samples.
      test_split: ``official`` (the archive's own ``train`` and ``test``), ``by:ATTRIBUTE[:FOLD/FOLDS]`` (whole values
        of an attribute, so that no value is on both sides: fold FOLD of scikit-learn's
        ``GroupKFold(FOLDS, shuffle=True)`` with random state 0; default 0/5), a number between 0 and 1 (that share of
        samples, at random), or ``auto`` (official where there is one, else 0.2).
      seed: of a random share.

    Raises:
      UserError: for an unknown form, or when either side is empty.
    """
    everything = np.arange(len(archive))
    form = ("official" if archive.splits is not None else "0.2") if test_split == "auto" else test_split
    if form == "official":
        if archive.splits is None:
            raise UserError(f"--test-split official: archive {archive.name} has no official split; try 0.2")
        train, test = everything[archive.splits == "train"], everything[archive.splits == "test"]
    elif form.startswith("by:"):
        held_out = _fold(archive, form)
        train, test = everything[~held_out], everything[held_out]
    else:
        order = np.random.default_rng([seed, 0]).permutation(everything)
        count = round(_share(test_split, form) * len(archive))
        train, test = np.sort(order[count:]), np.sort(order[:count])
    if not len(train) or not len(test):
        raise UserError(
            f"--test-split {test_split}: {len(train)} training and {len(test)} test samples of {len(archive)}; "
            "both must have some"
        )
    return train, test


def _share(option: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(
            f"--test-split {option!r} is unknown; official, by:ATTRIBUTE[:FOLD/FOLDS], or a share between 0 and 1"
        )
    return share


def _fold(archive: Archive, form: str) -> np.ndarray:
    name, _, numbers = form.removeprefix("by:").partition(":")
    try:
        fold, folds = (int(number) for number in (numbers or "0/5").split("/"))
    except ValueError:
        raise UserError(f"--test-split {form!r}: folds are written by:ATTRIBUTE:FOLD/FOLDS, such as 0/5") from None
    values, inverse = np.unique(archive.attribute(name), return_inverse=True)
    if not 0 <= fold < folds <= len(values) or folds < 2:
        raise UserError(f"--test-split {form!r}: needs 0 <= FOLD < FOLDS <= {len(values)}, the values of {name}")
    # What GroupKFold(shuffle=True) does: the values in random order, cut into folds of equal numbers of values.
    order = np.random.RandomState(0).permutation(len(values))
    chosen = np.array_split(order, folds)[fold]
    return np.isin(inverse, chosen)


def _modality_sets(
    parts: list[Part], modalities: tuple[str, ...], assignment: str, seed: int
) -> list[tuple[Part, tuple[str, ...]]]:
    if assignment == "all":
        return [(part, modalities) for part in parts]
    if assignment == "split":
        return [(Part(f"{part.name}:{m}", part.samples), (m,)) for part in parts for m in modalities]
    sets: list[tuple[str, ...]] = [(m,) for m in modalities]
    if assignment == "mixed":
        sets = [*sets, modalities]
    # Largest first to the set with fewest samples: every sensor sees about as much. Equal parts are dealt in turn, in
    # an order drawn by the seed, so that no sensor has always the first of them.
    rng = np.random.default_rng([seed, 2])
    first = rng.permutation(len(sets))
    totals = np.zeros(len(sets), dtype=np.int64)
    held: dict[int, tuple[str, ...]] = {}
    for i in sorted(range(len(parts)), key=lambda i: -len(parts[i].samples)):
        least = min(range(len(sets)), key=lambda s: (totals[s], first[s]))
        held[i] = sets[least]
        totals[least] += len(parts[i].samples)
    return [(part, held[i]) for i, part in enumerate(parts)]
