"""Write a prepared copy of an archive, a shard at a time; a second call goes on where the first was ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax import archives
from mmfl_jax.archives.base import PLACES, SPLITS, Archive, Part
from mmfl_jax.archives.prepared.data_set import write_data_set
from mmfl_jax.archives.prepared.layout import (
    DAMAGED,
    LABELS,
    MANIFEST,
    SAMPLES,
    UNFINISHED,
    VERSION,
    Manifest,
    is_prepared,
    read_manifest,
    shard_name,
)
from mmfl_jax.archives.prepared.samples import digest, known, where, write_samples
from mmfl_jax.archives.prepared.workers import write_shards
from mmfl_jax.archives.prepared.writing import Shard
from mmfl_jax.errors import UserError
from mmfl_jax.files import write_whole, writing
from mmfl_jax.lock import LOCK, locked

SHARD_BYTES = 128 << 20
Progress = Callable[[int, int], None]


def prepare(
    reference: str,
    output: str | Path,
    *,
    modalities: Sequence[str] | None = None,
    image_size: int | None = None,
    bands: archives.Bands = 12,
    workers: int = 0,
    progress: Progress = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write a copy of an archive as a TFDS data set that opens under the same kind of reference.

    Args:
        reference: of the archive, such as ``bigearthnet:DIR``.
        output: directory of the copy: new, empty, or of a call that was ended before.
        modalities: as in :func:`mmfl_jax.archives.open`.
        image_size: as there; BigEarthNet's bands keep their own sizes.
        bands: as there.
        workers: processes that read and write; 1 for this one alone, 0 for one a core.
        progress: is called with the samples that are done and all samples.
        shard_bytes: of the arrays in a shard, about.

    Returns:
        ``samples`` and ``damaged`` numbers, ``with_missing_pixels``, and the copy's ``bytes``.

    Raises:
        UserError: no such archive, a directory that is not to be written into, a full disk, no sample that can be read.
    """
    kind, _, source = reference.partition(":")
    output = Path(output)
    _check_output(output, source)
    archive = archives.open(reference, modalities=modalities, image_size=image_size, bands=bands)
    columns = known(archive)
    manifest = _manifest(archive, kind, source, {"image_size": image_size, "bands": bands}, columns)
    with locked(output):
        if is_prepared(output):
            if (found := _same(output, manifest)).shards:
                return _summary(output, found)
        else:
            write_whole(output / MANIFEST, manifest.to_json())
        shards = _plan(archive, manifest, output, shard_bytes)
        with writing(output):
            for folder in (shards[0].path.parent, shards[0].record.parent):
                folder.mkdir(parents=True, exist_ok=True)
        left = [shard for shard in shards if not _is_whole(shard)]
        before = len(archive) - sum(len(shard.indices) for shard in left)
        tell = lambda done: progress(before + done, len(archive))
        write_shards(archive, manifest, left, workers or os.cpu_count() or 1, tell)
        return _finish(archive, manifest, columns, shards, output)


def _check_output(output: Path, source: str) -> None:
    """Refuse a directory that is not to be written into, before the archive is looked at."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output names a directory")
    if source and os.path.isdir(source):
        if is_prepared(source):
            raise UserError(f"{source}: is a prepared copy itself; prepare its source")
        inner, outer = Path(os.path.realpath(output)), Path(os.path.realpath(source))
        if inner == outer or outer in inner.parents:
            raise UserError(f"{output}: lies inside the source {source}; name a directory outside of it")
    if output.is_dir() and not is_prepared(output) and (there := set(os.listdir(output)) - {LOCK}):
        raise UserError(f"{output}: holds {min(there)!r} and is no prepared copy; name a new or an empty directory")


def _manifest(
    archive: Archive, kind: str, source: str, options: dict[str, Any], columns: dict[str, np.ndarray]
) -> Manifest:
    parts = archive.parts()
    if archive.task == "pixel":
        if LABELS in parts:
            raise UserError(f"archive {archive.name}: a modality is called {LABELS!r}, as the labels are")
        size = next(iter(archive.modalities.values())).shape[:2]
        parts[LABELS] = Part(size, "uint8")
    about = {
        "name": archive.name,
        "task": archive.task,
        "class_names": archive.class_names,
        "class_colors": archive.class_colors,
        "modalities": {name: dataclasses.asdict(spec) for name, spec in archive.modalities.items()},
        "notes": archive.notes,
    }
    source = os.path.realpath(source) if os.path.exists(source) else source
    return Manifest(kind, source, options, digest(columns), f"{kind}_mm", parts, about)


def _same(output: Path, manifest: Manifest) -> Manifest:
    """Return the manifest of a copy that is there; refuse one of another source or of other options."""
    found = read_manifest(output)
    if (found.kind, found.source) != (manifest.kind, manifest.source):
        theirs, ours = (f"{one.kind}:{one.source}" for one in (found, manifest))
        raise UserError(f"{output}: holds a copy of {theirs}, not of {ours}; name another directory")
    if found.options != manifest.options or found.parts != manifest.parts:
        theirs, ours = (f"{', '.join(one.parts)} with {one.options}" for one in (found, manifest))
        raise UserError(f"{output}: was begun with other options ({theirs}; now {ours}); name another directory")
    if found.digest != manifest.digest:
        raise UserError(f"{output}: its source {found.source} has changed since; name another directory")
    return found


def _plan(archive: Archive, manifest: Manifest, output: Path, shard_bytes: int) -> list[Shard]:
    """Return the shards of all splits; the same for the same archive."""
    size = sum(math.prod(part.shape) * np.dtype(part.dtype).itemsize for part in manifest.parts.values())
    each = max(1, shard_bytes // size)
    splits = np.full(len(archive), SPLITS[0]) if archive.splits is None else archive.splits
    shards: list[Shard] = []
    for split in SPLITS:
        rows = np.flatnonzero(splits == split)
        count = -(-len(rows) // each)
        for number, indices in enumerate(np.array_split(rows, count) if count else []):
            path = output / manifest.dataset / VERSION / shard_name(manifest.dataset, split, number, count)
            record = output / UNFINISHED / f"{path.name}.json"
            shards.append(Shard(path, record, split, indices))
    return shards


def _is_whole(shard: Shard) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads(shard.record.read_bytes())["size"] == shard.path.stat().st_size
    return False


def _finish(
    archive: Archive, manifest: Manifest, columns: dict[str, np.ndarray], shards: Sequence[Shard], output: Path
) -> dict[str, Any]:
    """Write what stands beside the shards, the manifest last."""
    records = [json.loads(shard.record.read_bytes()) for shard in shards]
    damaged = sorted((index, reason) for record in records for index, reason in record["damaged"])
    names = next(
        (archive.attributes[name] for name in reversed(PLACES) if name in archive.attributes), np.arange(len(archive))
    )
    report = [{"sample": index, "name": str(names[index]), "reason": reason} for index, reason in damaged]
    write_whole(output / DAMAGED, json.dumps({"damaged": len(report), "samples": report}, indent=1))
    kept = np.array([index for record in records for index in record["kept"]], np.int64)
    if not len(kept):
        shutil.rmtree(output / UNFINISHED)  # files that were mended are to be read again
        raise UserError(f"{output}: none of {len(archive)} samples can be read, the first as {damaged[0][1]}")
    shards, records = _without_empty_splits(shards, records)
    order = np.argsort(kept)
    numbers = np.concatenate([np.full(len(record["kept"]), number) for number, record in enumerate(records)])
    positions = np.concatenate([np.arange(len(record["kept"])) for record in records])
    places = {
        part: np.array([place for record in records for place in record["places"][part]], np.int64)[order]
        for part in manifest.parts
    }
    rows = {name: values[kept[order]] for name, values in columns.items()}
    write_samples(output / SAMPLES, rows | where(numbers[order], positions[order], places))
    sizes = [
        (shard.path.name, len(record["kept"]), record["size"]) for shard, record in zip(shards, records, strict=True)
    ]
    write_data_set(archive, manifest, sizes, shards[0].path.parent)
    missing = sum(record["with_missing_pixels"] for record in records)
    notes = archive.notes | {"left_out_damaged": len(report), "with_missing_pixels": missing}
    whole = dataclasses.replace(manifest, archive=manifest.archive | {"notes": notes}, shards=tuple(sizes))
    write_whole(output / MANIFEST, whole.to_json())
    shutil.rmtree(output / UNFINISHED)
    return _summary(output, whole)


def _without_empty_splits(shards: Sequence[Shard], records: list[Any]) -> tuple[list[Shard], list[Any]]:
    """Take away the files of splits of which no sample can be read: TFDS opens none without samples."""
    there = {shard.split for shard, record in zip(shards, records, strict=True) if record["kept"]}
    for shard in shards:
        if shard.split not in there:
            shard.path.unlink(missing_ok=True)
    pairs = [(shard, record) for shard, record in zip(shards, records, strict=True) if shard.split in there]
    return [shard for shard, _ in pairs], [record for _, record in pairs]


def _summary(output: Path, manifest: Manifest) -> dict[str, Any]:
    notes = manifest.archive["notes"]
    return {
        "samples": sum(samples for _, samples, _ in manifest.shards),
        "damaged": notes["left_out_damaged"],
        "with_missing_pixels": notes["with_missing_pixels"],
        "bytes": sum(size for *_, size in manifest.shards),
    }
