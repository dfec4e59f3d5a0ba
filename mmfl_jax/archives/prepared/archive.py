"""Read a prepared copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmfl_jax.archives.base import Archive, choose_modalities
from mmfl_jax.archives.prepared import shards
from mmfl_jax.archives.prepared.layout import LABELS, SAMPLES, VERSION, read_manifest
from mmfl_jax.archives.prepared.samples import Samples, read_samples
from mmfl_jax.errors import UserError

if TYPE_CHECKING:
    from mmfl_jax.archives import OpenOptions


class Copy:
    """Read the parts of samples from a prepared copy.

    Args:
        directory: of the copy.
        kind: of archive that it must be a copy of.

    Raises:
        UserError: it is a copy of another kind, not whole, or damaged.
    """

    def __init__(self, directory: Path, kind: str):
        self.directory, self.manifest = directory, read_manifest(directory)
        if kind != self.manifest.kind:
            raise UserError(f"{directory}: a copy of {self.manifest.kind}; write {self.manifest.kind}:{directory}")
        if not self.manifest.shards:
            source = f"{self.manifest.kind}:{self.manifest.source}"
            raise UserError(
                f"{directory}: the copy is not whole yet; `mmfl-jax prepare {source} --output {directory}` goes on"
            )
        self.samples: Samples = read_samples(directory / SAMPLES, self.manifest.parts)
        folder = directory / self.manifest.dataset / VERSION
        self._paths = [str(folder / name) for name, *_ in self.manifest.shards]
        for path, (_, _, size) in zip(self._paths, self.manifest.shards, strict=True):
            found = Path(path).stat().st_size if Path(path).is_file() else None
            if found != size:
                state = "missing" if found is None else f"{found} bytes, not {size}"
                raise UserError(f"{path}: {state}; prepare the archive again")

    def read(self, row: int, wanted: dict[str, np.ndarray]) -> None:
        """Read parts of a sample into arrays, by name, each of the part's shape and dtype and C-contiguous.

        Raises:
            UserError: a shard that cannot be read.
        """
        samples = self.samples
        path = self._paths[samples.shard[row]]
        places = [(int(samples.places[part][row]), array) for part, array in wanted.items()]
        if all(place != shards.UNKNOWN for place, _ in places):
            shards.read_into(path, places)
            return
        from tensorflow_datasets.proto import tf_example_pb2

        record = tf_example_pb2.Example.FromString(shards.read_record(path, int(samples.position[row])))
        for part, array in wanted.items():
            content = record.features.feature[part].bytes_list.value[0]
            array[...] = np.frombuffer(content, array.dtype).reshape(array.shape)


class Prepared(Archive):
    """Read a copy of an archive whose modalities are its parts.

    Args:
        directory: of the copy.
        kind: of archive that it must be a copy of.
        options: of which modalities are taken; the images' size is the copy's.

    Raises:
        UserError: as :class:`Copy`, or images of another size are asked for.
    """

    def __init__(self, directory: str | Path, kind: str, options: OpenOptions):
        self._copy = copy = Copy(Path(directory), kind)
        known, specs = copy.manifest.archive, copy.manifest.specs()
        chosen = choose_modalities(options.modalities, specs, f"{directory}")
        self.name, self.task = known["name"], known["task"]
        self.class_names = tuple(known["class_names"])
        self.class_colors = None if known["class_colors"] is None else tuple(known["class_colors"])
        self.modalities = {name: specs[name] for name in chosen}
        for name, spec in self.modalities.items():
            if options.image_size and len(spec.shape) == 3 and spec.shape[:2] != (options.image_size,) * 2:
                size, wanted = "{} x {}".format(*spec.shape[:2]), options.image_size
                raise UserError(
                    f"{directory}: {name} was prepared at {size} pixels, not {wanted}; prepare it at {wanted}"
                )
        samples = copy.samples
        self.labels, self.attributes, self.splits = samples.labels, samples.attributes, samples.splits
        self.copies = samples.copies
        self.notes = known["notes"] | {"path": str(directory)}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Read images as they were prepared."""
        indices = self.checked(modality, indices)
        return self._read(modality, indices, np.empty((len(indices), *self.modalities[modality].shape), np.float32))

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Read rasters as they were prepared."""
        if self.task != "pixel":
            return super().read_labels(indices)
        indices = self.checked(next(iter(self.modalities)), indices)
        part = self._copy.manifest.parts[LABELS]
        return self._read(LABELS, indices, np.empty((len(indices), *part.shape), part.dtype))

    def absent(self, modality: str) -> np.ndarray | None:
        """Tell what the source told."""
        return self._copy.samples.absent.get(modality)

    def _read(self, part: str, indices: np.ndarray, arrays: np.ndarray) -> np.ndarray:
        for row, array in zip(indices.tolist(), arrays, strict=True):
            self._copy.read(row, {part: array})
        return arrays
