"""What a prepared copy's directory holds, and the manifest that says so."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.base import ModalitySpec, Part
from mmfl_jax.errors import UserError

MANIFEST, SAMPLES, DAMAGED, UNFINISHED = "prepared.json", "samples.parquet", "damaged.json", "unfinished"
FORMAT, VERSION = 1, "1.0.0"
LABELS = "labels"
"""The part, and the feature, that is the labels."""


@dataclass(frozen=True)
class Manifest:
    """Say what a copy is.

    Attributes:
        kind, source: of the reference that it was made from.
        options: that its source was opened with.
        digest: of all that was known of its source's samples before their images were read.
        dataset: name of the TFDS data set.
        parts: what is kept of each sample.
        archive: what is known of the archive but its samples.
        shards: file name, number of samples and bytes of each; none while the copy is not whole.
    """

    kind: str
    source: str
    options: dict[str, Any]
    digest: str
    dataset: str
    parts: dict[str, Part]
    archive: dict[str, Any]
    shards: tuple[tuple[str, int, int], ...] = ()

    def to_json(self) -> str:
        """Return the manifest as text."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1, default=_plain)

    def specs(self) -> dict[str, ModalitySpec]:
        """Return the specifications of the modalities."""
        return {
            name: ModalitySpec(
                tuple(spec["shape"]),
                tuple(spec["channels"]),
                *(None if spec[key] is None else np.array(spec[key], np.float32) for key in ("mean", "std")),
            )
            for name, spec in self.archive["modalities"].items()
        }


def is_prepared(directory: str | Path) -> bool:
    """Return whether a directory holds a prepared copy, or the beginning of one."""
    return os.path.isfile(os.path.join(directory, MANIFEST))


def read_manifest(directory: Path) -> Manifest:
    """Read a copy's manifest.

    Raises:
        UserError: it cannot be read, or another version wrote it.
    """
    path = directory / MANIFEST
    try:
        found = json.loads(path.read_bytes())
        if (version := found.pop("format")) != FORMAT:
            raise UserError(f"{path}: format {version!r}; this version reads {FORMAT}, prepare the archive again")
        parts = {name: Part(tuple(shape), str(np.dtype(dtype))) for name, (shape, dtype) in found.pop("parts").items()}
        shards = tuple((str(name), int(samples), int(size)) for name, samples, size in found.pop("shards"))
        return Manifest(**found, parts=parts, shards=shards)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a prepared copy's manifest ({error!r})") from error


def shard_name(dataset: str, split: str, number: int, count: int) -> str:
    """Return what TFDS calls a shard."""
    return f"{dataset}-{split}.array_record-{number:05d}-of-{count:05d}"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
