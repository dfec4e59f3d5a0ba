"""BigEarthNet-MM, v1 and v2, wherever its bands are kept."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmfl_jax.archives.base import Archive, Part, choose_modalities
from mmfl_jax.archives.bigearthnet import nomenclature
from mmfl_jax.archives.bigearthnet.copies import PreparedBands, part_name
from mmfl_jax.archives.bigearthnet.geotiffs import GeoTiffs
from mmfl_jax.archives.bigearthnet.patches import PatchTable, Scan
from mmfl_jax.archives.bigearthnet.rico_hdl import DATABASE, Database, find_database
from mmfl_jax.archives.bigearthnet.trees_v1 import scan_v1
from mmfl_jax.archives.bigearthnet.trees_v2 import scan_v2
from mmfl_jax.archives.prepared import is_prepared
from mmfl_jax.archives.resampling import resize
from mmfl_jax.errors import UserError


class Bands(Protocol):
    """What keeps the bands of patches: a tree of GeoTIFFs, an LMDB, a prepared copy."""

    modalities: tuple[str, ...]

    def table(self, modalities: Sequence[str]) -> PatchTable:
        """Return what is known of the patches that all these modalities have."""

    def map(self, work: Callable[[Any], Any], rows: Iterable[Any]) -> Iterator[Any]:
        """Do work that reads planes, in as many threads as reading is worth; yield what it returns, in order."""

    def planes(self, modality: str, patch: Any, groups: dict[int, tuple[str, ...]]) -> Sequence[np.ndarray]:
        """Return the bands of each size, uint16 or float32 [bands, size, size]; NaN where nothing was measured."""

    def where(self, modality: str, patch: Any, band: str) -> str:
        """Return what an error calls the place of a band."""


class BigEarthNet(Archive):
    """Read pairs of Sentinel-1 and Sentinel-2 patches, or one of the two.

    Args:
        directory: holds ``BigEarthNet-v1.0`` and ``BigEarthNet-S1-v1.0`` (v1), or ``BigEarthNet-S2``,
            ``BigEarthNet-S1`` and ``metadata.parquet`` (v2), or rico-hdl's LMDB of v2 and ``metadata.parquet``, or what
            ``mmfl-jax prepare`` wrote.
        modalities: of ``s1`` (VV and VH in dB) and ``s2`` (reflectance x 10,000); those that are there by default.
        image_size: height and width; bands are averaged over area where they shrink.
        bands: 10, or 12 with the two 60 m bands; those have no published statistics.
        resampling: ``bilinear`` or ``nearest``, for bands that grow.

    Raises:
        UserError: no such tree, no patch, no pair, a label that is unknown.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        modalities: tuple[str, ...] | None = None,
        image_size: int = nomenclature.PATCH_SIZE,
        bands: int = 10,
        resampling: str = "bilinear",
    ):
        self._bands = _look(Path(directory))
        chosen = choose_modalities(modalities, self._bands.modalities, f"{directory}")
        table = self._bands.table(chosen)
        self.name, self.task = "bigearthnet", "multilabel"
        self.class_names = nomenclature.CLASS_NAMES
        self.modalities = {name: nomenclature.specify(name, image_size, bands) for name in chosen}
        self.labels = table.labels
        self.attributes = {
            "country": np.array(table.country),
            "season": np.array(table.season),
            "patch_id": np.array(table.patch_id),
            "place": np.array(table.place),
        }
        self.splits = None if table.split is None else np.array(table.split)
        self.notes = {"path": str(directory), **table.notes}
        self._patches, self._resampling = table.patches, resampling
        self._missing: dict[str, int] = {}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Read the bands of the patches, several patches at a time, and bring them to one size."""
        indices = self.checked(modality, indices)
        spec, patches = self.modalities[modality], self._patches[modality]
        groups = nomenclature.by_size(spec.channels)
        runs = [_runs([spec.channels.index(band) for band in bands]) for bands in groups.values()]
        images = np.empty((len(indices), *spec.shape), np.float32)
        planes = np.empty((len(spec.channels), *spec.shape[:2]), np.float32)
        missing: dict[str, int] = {}
        stacks_of = self._bands.map(lambda row: (row, self._bands.planes(modality, patches[row], groups)), indices)
        # Here and not in the threads that read: products of many threads at once wait for each other.
        for image, (row, stacks) in zip(images, stacks_of, strict=True):
            for bands, stack, found in zip(groups.values(), stacks, runs, strict=True):
                self._count_missing(stack, modality, patches[row], bands, missing)
                for start, channel, length in found:
                    run = stack[start : start + length]
                    resize(run, spec.shape[:2], self._resampling, out=planes[channel : channel + length])
            _interleave(planes, image)
        self._warn_missing(missing)
        return images

    def parts(self) -> dict[str, Part]:
        """Return the bands of each sensor and size, [bands, height, width], as they were published."""
        if sizes := {spec.shape[0] for spec in self.modalities.values()} - {nomenclature.PATCH_SIZE}:
            raise UserError(f"image size {sizes.pop()}: copies of BigEarthNet keep each band's own size; leave it out")
        return {
            part_name(modality, size): Part((len(bands), size, size), "float32" if modality == "s1" else "uint16")
            for modality, spec in self.modalities.items()
            for size, bands in nomenclature.by_size(spec.channels).items()
        }

    def read_parts(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Read bands as they were published, several patches at a time."""
        arrays = {name: np.empty((len(indices), *part.shape), part.dtype) for name, part in self.parts().items()}

        def fill(place: int) -> None:
            for modality, spec in self.modalities.items():
                patch, groups = self._patches[modality][indices[place]], nomenclature.by_size(spec.channels)
                for (size, bands), stack in zip(
                    groups.items(), self._bands.planes(modality, patch, groups), strict=True
                ):
                    target = arrays[part_name(modality, size)][place]
                    if target.dtype == np.uint16 and stack.dtype != target.dtype:
                        self._check_whole(stack, modality, patch, bands)
                    target[...] = stack

        list(self._bands.map(fill, range(len(indices))))
        return arrays

    def _check_whole(self, stack: np.ndarray, modality: str, patch: Any, bands: Sequence[str]) -> None:
        for plane, band in zip(stack, bands, strict=True):
            if not ((plane == np.floor(plane)) & (plane >= 0) & (plane <= np.iinfo(np.uint16).max)).all():
                path = self._bands.where(modality, patch, band)
                raise UserError(f"{path}: pixels are no whole numbers from 0 to 65535, which a copy keeps")

    def _count_missing(
        self, stack: np.ndarray, modality: str, patch: Any, bands: Sequence[str], missing: dict[str, int]
    ) -> None:
        if stack.dtype.kind == "f" and (absent := np.isnan(stack)).any():
            counts = zip(bands, absent.sum((1, 2)).tolist(), strict=True)
            missing.update((self._bands.where(modality, patch, band), count) for band, count in counts if count)

    def _warn_missing(self, missing: dict[str, int]) -> None:
        if new := {path: count for path, count in missing.items() if path not in self._missing}:
            self._missing.update(new)
            self.notes["missing_pixels"] = {"files": len(self._missing), "pixels": sum(self._missing.values())}
            first, count = next(iter(new.items()))
            warnings.warn(
                f"{len(new)} files have pixels that are no measurements (NaN, infinite or fill values) and count as "
                f"missing, first {first} with {count}",
                stacklevel=3,
            )


def _interleave(planes: np.ndarray, image: np.ndarray) -> None:
    """Copy [channels, height, width] into [height, width, channels]."""
    if len(planes) > 4:
        image[...] = planes.transpose(1, 2, 0)
    else:  # NumPy walks along the channels, which are too few for it to be quick
        for number, plane in enumerate(planes):
            image[..., number] = plane


def _runs(channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return where bands that follow each other begin, where their channels do, and how many they are."""
    starts = [n for n, channel in enumerate(channels) if not n or channel != channels[n - 1] + 1]
    return [
        (start, channels[start], end - start) for start, end in zip(starts, [*starts[1:], len(channels)], strict=True)
    ]


def _look(directory: Path) -> Bands:
    """Return what keeps the bands of the archive in a directory."""
    if not os.path.isdir(directory):
        raise UserError(f"{directory}: no such folder; bigearthnet:DIR needs the one that holds the archive")
    if is_prepared(directory):
        return PreparedBands(directory)
    versions: dict[Scan, dict[str, str]] = {
        scan_v1: {"s1": "BigEarthNet-S1-v1.0", "s2": "BigEarthNet-v1.0"},
        scan_v2: {"s1": "BigEarthNet-S1", "s2": "BigEarthNet-S2"},
    }
    found = {
        scan: present
        for scan, names in versions.items()
        if (present := {modality: directory / name for modality, name in names.items() if (directory / name).is_dir()})
    }
    if not found and (database := find_database(directory)):
        return Database(database)
    if not found:
        expected = " or ".join("+".join(names.values()) for names in versions.values())
        raise UserError(
            f"{directory}: not a BigEarthNet tree; it should hold the folders {expected}, or an LMDB ({DATABASE})"
        )
    if len(found) > 1:
        raise UserError(f"{directory}: holds both v1 and v2 of BigEarthNet; give each a folder of its own")
    scan, folders = found.popitem()
    return GeoTiffs(directory, folders, scan)
