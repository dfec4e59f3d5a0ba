"""The federation: clients with modality sets and samples, and test samples that no client sees."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from mmfl_jax.archives.base import Archive, check_modality
from mmfl_jax.errors import UserError
from mmfl_jax.federation.absent import without_absent
from mmfl_jax.federation.assignment import assign_modalities, read_assignment
from mmfl_jax.federation.holdout import train_and_test, without_validation
from mmfl_jax.federation.partition import Part, Parts, partition
from mmfl_jax.federation.ragged import offsets_of, positions, row_numbers
from mmfl_jax.tasks import task_of


@dataclasses.dataclass(frozen=True)
class Group:
    """Hold the clients of one modality set, stacked.

    Attributes:
      modalities: the set, in the archive's order.
      names: of the clients.
      ids: ``[clients]`` numbers of the clients in the federation; they key the clients' randomness.
      samples: ``[sum of sizes]`` sample indices, client after client.
      offsets: ``[clients + 1]`` where each client's samples begin.
      labels: what the clients take their samples' labels to be, as long as ``samples``; None for what they are.
    """

    modalities: tuple[str, ...]
    names: tuple[str, ...]
    ids: np.ndarray
    samples: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None = None

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
      validation: ``[n]`` indices of further samples that no client trains on, to choose options and thresholds by.
    """

    archive: Archive
    groups: tuple[Group, ...]
    test: np.ndarray
    validation: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def split(
        cls,
        archive: Archive,
        partition_by: str = "iid",
        *,
        clients: int = 0,
        assignment: str = "single",
        test_split: str = "auto",
        validation_share: float = 0.0,
        seed: int = 0,
    ) -> Federation:
        """Deal an archive to clients and give each its modalities.

        Args:
          archive: the samples.
          partition_by: see :func:`mmfl_jax.federation.partition.partition`.
          clients: how many parts; 0 for the partition's own number.
          assignment: ``single`` (each client one modality, so that the samples are shared out evenly), ``all``,
            ``mixed`` (one modality or all of them), ``split`` (each part becomes one client for each modality: owners
            that look at the same sites with different sensors) or ``rare:MODALITY`` (one client of ten holds it).
          test_split: see :func:`mmfl_jax.federation.holdout.train_and_test`.
          validation_share: share of each owner's samples that is held out; 0 for the archive's official ones.
          seed: of every draw.

        Raises:
          UserError: for an unknown option, or a federation that cannot be made.
        """
        read_assignment(assignment)
        for modality in archive.modalities:
            check_modality(modality, f"archive {archive.name}")
        train, test = train_and_test(archive, test_split, seed)
        parts = partition(archive, partition_by, train, clients, seed)
        parts, validation = without_validation(archive, parts, test_split, validation_share, seed)
        parts, sets, which = assign_modalities(parts, tuple(archive.modalities), assignment, seed)
        federation = cls.stack(archive, *without_absent(archive, parts, sets, which), test)
        return dataclasses.replace(federation, validation=validation)

    @classmethod
    def of(
        cls, archive: Archive, clients: Sequence[tuple[str, tuple[str, ...], np.ndarray]], test: np.ndarray
    ) -> Federation:
        """Return the federation of ``(name, modalities, sample indices)`` clients.

        Raises:
          UserError: for no client, a client without samples, a modality or a sample the archive lacks, or a client's
            sample that is a test sample.
        """
        if not clients:
            raise UserError("the federation has no client; give at least one")
        numbers: dict[tuple[str, ...], int] = {}
        tested = np.zeros(len(archive), bool)
        tested[test] = True
        for name, held, samples in clients:
            if not len(samples):
                raise UserError(f"client {name!r} has no samples; leave it out or give it some")
            if not 0 <= np.min(samples) <= np.max(samples) < len(archive):
                raise UserError(f"client {name!r} holds sample {np.max(samples)}; there are 0 to {len(archive) - 1}")
            if shared := int(tested[samples].sum()):
                raise UserError(f"client {name!r} holds {shared} test samples; no client may see one")
            if tuple(held) not in numbers:
                if not held or set(held) - set(archive.modalities):
                    known = ", ".join(archive.modalities)
                    raise UserError(f"client {name!r} holds modalities {held}; the archive has {known}")
                numbers[tuple(held)] = len(numbers)
        parts = Parts.of([Part(name, samples) for name, _, samples in clients])
        which = np.array([numbers[tuple(held)] for _, held, _ in clients])
        return cls.stack(archive, parts, list(numbers), which, test)

    @classmethod
    def stack(
        cls,
        archive: Archive,
        parts: Parts,
        sets: Sequence[tuple[str, ...]],
        which: np.ndarray,
        test: np.ndarray,
        labels: np.ndarray | None = None,
    ) -> Federation:
        """Return the federation of stacked clients: what :meth:`of` makes, for as many as there may be.

        Args:
          archive: the samples.
          parts: the clients' names and samples; none without samples.
          sets: modality sets, in any order.
          which: ``[clients]`` which of ``sets`` each client holds.
          test: ``[n]`` indices of samples that no client holds.
          labels: what the clients take their samples' labels to be, as long as ``parts.samples``; None for what they
            are.
        """
        order = list(archive.modalities)
        same: dict[tuple[str, ...], list[int]] = {}
        for number, held in enumerate(sets):
            same.setdefault(tuple(sorted(held, key=order.index)), []).append(number)
        groups = []
        for held in sorted(same, key=lambda held: (len(held), [order.index(m) for m in held])):
            ids = np.flatnonzero(np.isin(which, same[held]))
            if not len(ids):
                continue
            places = positions(parts.offsets, ids)
            names = tuple(parts.names[i] for i in ids.tolist())
            own = None if labels is None else labels[places]
            groups.append(Group(held, names, ids, parts.samples[places], offsets_of(parts.sizes[ids]), own))
        return cls(archive, tuple(groups), np.asarray(test, dtype=np.int64))

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return sum(len(group.ids) for group in self.groups)

    @property
    def sizes(self) -> np.ndarray:
        """Return ``[clients]`` numbers of samples, by client number."""
        sizes = np.zeros(self.clients, dtype=np.int64)
        for group in self.groups:
            sizes[group.ids] = group.sizes
        return sizes

    @property
    def train(self) -> np.ndarray:
        """Return the sorted indices of samples that clients hold, each once."""
        held = np.zeros(len(self.archive), dtype=bool)
        for group in self.groups:
            held[group.samples] = True
        return np.flatnonzero(held)

    def slots(self, group: Group) -> np.ndarray:
        """Return each sample's place in :attr:`train`, as long as ``group.samples``."""
        return np.searchsorted(self.train, group.samples)

    def labels(self, group: Group, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return the labels that the clients of a group train on, of these rows of ``group.samples``."""
        return self.archive.read_labels(group.samples[rows]) if group.labels is None else group.labels[rows]

    def table(self, group: Group) -> np.ndarray:
        """Return the table of a group's labels (:class:`mmfl_jax.tasks.task.Task`), as long as ``group.samples``."""
        if group.labels is None:
            return self.archive.labels[group.samples]
        return task_of(self.archive).table(group.labels)

    def label_counts(self, group: Group) -> np.ndarray:
        """Return ``[clients, classes + 1]``: how often each class occurs among a client's labels, then of how many."""
        return task_of(self.archive).counts(self.table(group), row_numbers(group.offsets), len(group.ids))

    def digest(self) -> str:
        """Return the SHA-256 of who holds what: modality sets, sample indices, labels and test samples."""
        sha = hashlib.sha256()
        for group in self.groups:
            sha.update("+".join(group.modalities).encode())
            for values in (group.ids, group.offsets, group.samples, self.table(group)):
                sha.update(np.ascontiguousarray(values).tobytes())
        sha.update(self.test.tobytes())
        return sha.hexdigest()

    def describe(self, most: int = 200) -> dict:
        """Return the federation as JSON: sizes, modalities and label counts of the ``most`` largest clients."""
        archive = self.archive
        begins = offsets_of(np.array([len(group.ids) for group in self.groups]))
        sizes = np.concatenate([group.sizes for group in self.groups])
        rows = []
        for place in np.argsort(-sizes, kind="stable")[:most].tolist():
            g = int(np.searchsorted(begins, place, side="right")) - 1
            rows.append(self._row(self.groups[g], place - int(begins[g])))
        return {
            "task": archive.task,
            "class_names": list(archive.class_names),
            "clients_total": len(sizes),
            "clients": rows,
            "train_samples": len(self.train),
            "sha256": self.digest(),
            "test_samples": len(self.test),
            "validation_samples": len(self.validation),
            "images": self._images(),
        }

    def _images(self, most: int = 8) -> dict:
        """Return by modality its shape, its channels, and a digest of ``most`` samples as they are read."""
        used = np.concatenate([self.train, self.test])
        chosen = used[np.linspace(0, len(used) - 1, most).astype(np.int64)]
        found = {}
        for modality, spec in self.archive.modalities.items():
            # Features differ in their last bits from machine to machine; the images that they are of do not.
            source = self.archive.source if modality in self.archive.source.modalities else self.archive
            pixels = np.ascontiguousarray(source.read(modality, chosen), np.float32)
            sha = hashlib.sha256(pixels.tobytes()).hexdigest()
            found[modality] = {"shape": list(spec.shape), "channels": list(spec.channels), "sha256": sha}
        return found

    def _row(self, group: Group, i: int) -> dict:
        own = slice(*group.offsets[i : i + 2].tolist())
        task = task_of(self.archive)
        table = self.archive.labels[group.samples[own]] if group.labels is None else task.table(group.labels[own])
        return {
            "name": group.names[i],
            "modalities": list(group.modalities),
            "labels": task.counts(table, np.zeros(len(table), np.int64), 1)[0, :-1].tolist(),
            "samples": own.stop - own.start,
        }


def pooled(federation: Federation) -> Federation:
    """Return the federation with all samples of a modality set in one place: one client a set."""
    groups = []
    for number, group in enumerate(federation.groups):
        offsets = np.array([0, len(group.samples)])
        name = ("all of " + "+".join(group.modalities),)
        groups.append(dataclasses.replace(group, names=name, ids=np.array([number]), offsets=offsets))
    return dataclasses.replace(federation, groups=tuple(groups))
