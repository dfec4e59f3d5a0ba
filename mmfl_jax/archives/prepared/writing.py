"""Write the shards of a copy: what a worker process does."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.archives.prepared import shards
from mmfl_jax.archives.prepared.data_set import feature_name, features, is_text
from mmfl_jax.archives.prepared.layout import LABELS, Manifest
from mmfl_jax.errors import UserError, one_line
from mmfl_jax.files import write_whole, writing

READ_AT_ONCE = 16


@dataclass(frozen=True)
class Shard:
    """A shard to write.

    Attributes:
        path: of the file.
        record: of the JSON file that says that the shard is whole, and what is in it.
        split: of its samples.
        indices: of its samples.
    """

    path: Path
    record: Path
    split: str
    indices: np.ndarray


class Writer:
    """Write shards of an archive.

    Args:
        archive: the source.
        manifest: of the copy.
    """

    def __init__(self, archive: Archive, manifest: Manifest):
        from tensorflow_datasets.core.example_serializer import ExampleSerializer

        self._archive, self._manifest = archive, manifest
        self._features = features(archive, manifest)
        self._serializer = ExampleSerializer(self._features.get_serialized_info())

    def write(self, shard: Shard, told: Callable[[int], None]) -> None:
        """Write a shard and its record, each whole or not at all.

        Args:
            shard: to write.
            told: is called with the number of samples that were read.

        Raises:
            UserError: it cannot be written.
        """
        kept: list[int] = []
        damaged: list[tuple[int, str]] = []
        records: list[bytes] = []
        within: dict[str, list[int]] = {part: [] for part in self._manifest.parts}
        missing = 0
        for start in range(0, len(shard.indices), READ_AT_ONCE):
            indices = shard.indices[start : start + READ_AT_ONCE]
            for index, arrays in self._read(indices, damaged):
                record = self._serializer.serialize_example(self._features.encode_example(self._example(index, arrays)))
                for part, array in arrays.items():
                    within[part].append(shards.place_within(record, array.tobytes()))
                missing += any(array.dtype.kind == "f" and np.isnan(array).any() for array in arrays.values())
                kept.append(int(index))
                records.append(record)
            told(len(indices))
        _write_records(shard.path, records)
        places = shards.locate(shard.path, records)
        unknown = shards.UNKNOWN
        found = {
            part: [unknown if unknown in (at, place) else place + at for place, at in zip(places, offsets, strict=True)]
            for part, offsets in within.items()
        }
        content = {"kept": kept, "damaged": damaged, "places": found, "size": shard.path.stat().st_size}
        write_whole(shard.record, json.dumps(content | {"with_missing_pixels": missing}))

    def _read(
        self, indices: np.ndarray, damaged: list[tuple[int, str]]
    ) -> Iterator[tuple[np.integer, dict[str, np.ndarray]]]:
        """Yield each sample that can be read, with its arrays; note the others."""
        try:
            batch = self._read_parts(indices)
        except UserError as error:
            if len(indices) == 1:
                damaged.append((int(indices[0]), one_line(error)))
                return
            for index in indices:
                yield from self._read(np.array([index]), damaged)
            return
        for number, index in enumerate(indices):
            yield index, {part: array[number] for part, array in batch.items()}

    def _read_parts(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = self._archive.read_parts(indices)
        if self._archive.task == "pixel":
            batch[LABELS] = self._archive.read_labels(indices)
        return {name: np.ascontiguousarray(batch[name], part.dtype) for name, part in self._manifest.parts.items()}

    def _example(self, index: np.integer, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        archive, example = self._archive, dict[str, Any](arrays)
        if archive.task == "multilabel":
            example[LABELS] = np.flatnonzero(archive.labels[index]).tolist()
        elif archive.task == "multiclass":
            example["label"] = int(archive.labels[index])
        for name, values in archive.attributes.items():
            value = values[index]
            if is_text(values):
                example[feature_name(name, archive)] = "" if value is None or value != value else str(value)
            else:
                example[feature_name(name, archive)] = float(value) if values.dtype.kind == "f" else int(value)
        return example


def _write_records(path: Path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    part = path.with_name(path.name + ".part")
    try:
        writer = ArrayRecordWriter(os.fspath(part), shards.WRITER_OPTIONS)
        for record in records:
            writer.write(record)
        writer.close()
    except Exception as error:  # of whatever kind array_record raises
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(f"{path}: cannot be written ({one_line(error)}); the same command goes on") from error
    with writing(path):
        os.replace(part, path)
