"""What an archive is: samples with images by modality, labels and attributes."""

from __future__ import annotations

import abc
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mmfl_jax.errors import UserError

SPLITS = ("train", "validation", "test")
# Attributes that say which place or patch a sample shows.
PLACES = ("place", "patch_id")
FILL = 9e36
"""Numbers this large and larger are fill values, no measurements: netCDF writes 9.97e36, GDAL -3.4e38, others 1e38."""
IGNORED = 255
"""The label of a pixel that has none: it is neither trained on nor scored."""


@dataclass(frozen=True)
class ModalitySpec:
    """Describe one kind of image of a place.

    Attributes:
        shape: of one sample: (height, width, channels) of an image, (time, channels) of a series,
            (features,) of a vector.
        channels: names of the last axis.
        mean, std: float32 [channels], the archive's published statistics in raw physical units; None where
            none are published, and they have to be taken from training samples.
    """

    shape: tuple[int, ...]
    channels: tuple[str, ...]
    mean: np.ndarray | None = None
    std: np.ndarray | None = None


class Part(NamedTuple):
    """Say what an array of each sample in a prepared copy is."""

    shape: tuple[int, ...]
    dtype: str


class Archive(abc.ABC):
    """Give random access to samples that are read only when asked for.

    Attributes:
        name: kind of archive, as in its reference.
        task: ``multilabel``, ``multiclass`` or ``pixel``.
        class_names: in the order of the labels.
        modalities: name to specification, in order; of pixel labels, all have one height and width.
        labels: uint8 [samples, classes] of 0 and 1 (multilabel), int32 [samples] (multiclass), or int64 [samples,
            classes] numbers of pixels of each class (pixel), whose rasters :meth:`read_labels` reads.
        attributes: name to [samples] of strings or numbers.
        splits: [samples] of ``train``, ``validation`` or ``test`` where the archive has an official split, else None.
        notes: what else ``describe`` says, such as how many patches were left out and why.
        copies: [samples] numbers, equal where samples are the same images; None where that is not known.
        class_colors: of maps, ``#rrggbb`` in the order of the labels; None where the archive has none.
    """

    name: str
    task: str
    class_names: tuple[str, ...]
    modalities: dict[str, ModalitySpec]
    labels: np.ndarray
    attributes: dict[str, np.ndarray]
    splits: np.ndarray | None
    notes: dict[str, Any]
    copies: np.ndarray | None = None
    class_colors: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_bytes(self) -> int:
        """Return the size of all images as float32."""
        return 4 * len(self) * sum(math.prod(spec.shape) for spec in self.modalities.values())

    @property
    def source(self) -> Archive:
        """Return the archive of the images that features stand for, sample by sample; the archive itself else."""
        return self

    @abc.abstractmethod
    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Read one modality of the given samples.

        Args:
            modality: a name of ``modalities``.
            indices: int [n], in any order, repeats allowed.

        Returns:
            float32 [n, *shape] in raw physical units (dB, reflectance x 10,000, ...); NaN is a missing value.

        Raises:
            UserError: a modality that the archive lacks, an index out of range, a file that cannot be read.
        """

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Read the labels of the given samples.

        Args:
            indices: int [n], in any order, repeats allowed.

        Returns:
            Rows of ``labels``; of pixel labels uint8 [n, height, width] class numbers, ``IGNORED`` where there is none.

        Raises:
            UserError: an index out of range, a file that cannot be read.
        """
        if self.task == "pixel":
            raise NotImplementedError(f"archive {self.name} does not say how its label rasters are read")
        return self.labels[np.asarray(indices, np.int64)]

    def parts(self) -> dict[str, Part]:
        """Return what a prepared copy keeps of each sample, by name: here all modalities as they are read."""
        return {name: Part(spec.shape, "float32") for name, spec in self.modalities.items()}

    def read_parts(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Read what a prepared copy keeps of the given samples, by name [n, *shape].

        Raises:
            UserError: a file that cannot be read, or that holds what a part cannot.
        """
        return {name: self.read(name, indices) for name in self.modalities}

    def attribute(self, name: str) -> np.ndarray:
        """Return one attribute of every sample, [samples]; objects as their texts.

        Raises:
            UserError: no such attribute (lists those there are), or a sample without a value.
        """
        values = self.attributes[choose(name, self.attributes, f"attribute of archive {self.name}")]
        if (row := first_missing(values)) is not None:
            raise UserError(f"attribute {name!r} of archive {self.name}: sample {row} has none ({values[row]!r})")
        return values.astype(str) if values.dtype.kind == "O" else values

    def absent(self, modality: str) -> np.ndarray | None:
        """Return [samples] whether a sample has no value of a modality; None where only its images could tell."""
        return None

    def same(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what a test split must not tear apart: a name, and [samples] values, equal where samples belong."""
        for name in PLACES:
            if name in self.attributes:
                yield name, self.attribute(name)
        if self.copies is not None:
            yield "images", self.copies

    def describe(self) -> dict[str, Any]:
        """Return what the archive holds, small enough for JSON."""
        return {
            "name": self.name,
            "samples": len(self),
            "task": self.task,
            "classes": list(self.class_names),
            "modalities": {
                name: {"shape": list(spec.shape), "channels": list(spec.channels)}
                for name, spec in self.modalities.items()
            },
            "attributes": {name: len(np.unique(values)) for name, values in self.attributes.items()},
            "splits": None if self.splits is None else dict(zip(*map(np.ndarray.tolist, _counts(self.splits)))),
            **self.notes,
        }

    def checked(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Return ``indices`` as int64 [n] once the modality and the range are known to be right."""
        choose(modality, self.modalities, f"modality of archive {self.name}")
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            wrong = indices[(indices < 0) | (indices >= len(self))][0]
            raise UserError(f"index {wrong}: archive {self.name} has samples 0 to {len(self) - 1}")
        return indices


class Subset(Archive):
    """Show some samples of another archive, in the given order."""

    def __init__(self, archive: Archive, indices: np.ndarray):
        self._archive, self._indices = archive, np.asarray(indices, dtype=np.int64)
        self.name, self.task, self.class_names = archive.name, archive.task, archive.class_names
        self.modalities = archive.modalities
        self.labels = archive.labels[self._indices]
        self.attributes = {name: values[self._indices] for name, values in archive.attributes.items()}
        self.splits = None if archive.splits is None else archive.splits[self._indices]
        self.notes = archive.notes | {"subset_of": len(archive)}
        self.copies = None if archive.copies is None else archive.copies[self._indices]
        self.class_colors = archive.class_colors

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Read from the archive that this is a part of."""
        return self._archive.read(modality, self._indices[self.checked(modality, indices)])

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Read from the archive that this is a part of."""
        return self._archive.read_labels(self._indices[indices])

    def absent(self, modality: str) -> np.ndarray | None:
        """Ask the archive that this is a part of."""
        absent = self._archive.absent(modality)
        return None if absent is None else absent[self._indices]


class Kept(Archive):
    """Show another archive, whose images are read once and kept in memory, a modality at its first use."""

    def __init__(self, archive: Archive):
        self._archive, self._images = archive, dict[str, np.ndarray]()
        self.name, self.task, self.class_names = archive.name, archive.task, archive.class_names
        self.modalities, self.labels, self.attributes = archive.modalities, archive.labels, archive.attributes
        self.splits, self.notes, self.copies = archive.splits, archive.notes, archive.copies
        self.class_colors = archive.class_colors

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Read from the archive whose images are kept."""
        return self._archive.read_labels(indices)

    def absent(self, modality: str) -> np.ndarray | None:
        """Ask the archive whose images are kept."""
        return self._archive.absent(modality)

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Take rows of what is kept."""
        indices = self.checked(modality, indices)
        if modality not in self._images:
            self._images[modality] = self._whole(modality)
        return self._images[modality][indices]

    def _whole(self, modality: str) -> np.ndarray:
        return self._archive.read(modality, np.arange(len(self)))


def random_subset(archive: Archive, samples: int | None, seed: int) -> Archive:
    """Take at most ``samples`` samples at random, kept in the archive's own order."""
    if samples is None or samples >= len(archive):
        return archive
    return Subset(archive, np.sort(np.random.default_rng(seed).permutation(len(archive))[:samples]))


def choose(name: str, known: Iterable[str], what: str) -> str:
    """Return ``name`` if it is known, else raise UserError that lists what is and guesses what was meant."""
    known = list(known)
    if name in known:
        return name
    close = difflib.get_close_matches(str(name).lower(), [k.lower() for k in known], n=1)
    meant = next((f" (did you mean {k}?)" for k in known if close and k.lower() == close[0]), "")
    raise UserError(f"{name!r} is no {what}{meant}; there are: {', '.join(known) or 'none'}")


def choose_modalities(wanted: Sequence[str] | None, known: Iterable[str], archive: str) -> tuple[str, ...]:
    """Return the modalities to read, in the wanted order; all known ones where none are named."""
    known = list(known)
    names = tuple(choose(name, known, f"modality of {archive}") for name in (known if wanted is None else wanted))
    if not names or len(set(names)) != len(names):
        raise UserError(f"modalities {list(names)}: name each modality once, at least one of: {', '.join(known)}")
    return names


def check_modality(name: str, archive: str) -> None:
    """Raise UserError for a name that cannot stand in options, lists of sets and names of variables."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"{archive}: modality {name!r}; names are made of letters, digits, '_', '-' and '.', as in s1")


def first_missing(values: np.ndarray) -> int | None:
    """Return the first row without a value (None, NaN, no date, an empty text), None where all have one."""
    if values.dtype.kind == "O":
        missing = np.array([v is None or v != v or not str(v).strip() for v in values.tolist()], bool)
    elif values.dtype.kind == "U":
        missing = np.char.strip(values) == ""
    elif values.dtype.kind in "fmM":
        missing = ~np.isfinite(values)
    else:
        return None
    return int(missing.argmax()) if missing.any() else None


def _counts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    names, counts = np.unique(values, return_counts=True)
    return names, counts
