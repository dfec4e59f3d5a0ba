"""Read the bands of patches from a prepared copy, which keeps those of one size together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.bigearthnet import nomenclature
from mmfl_jax.archives.bigearthnet.patches import PatchTable
from mmfl_jax.archives.prepared.archive import Copy
from mmfl_jax.errors import UserError


class PreparedBands:
    """Read bands from a copy that :func:`mmfl_jax.archives.prepared.prepare` wrote.

    Args:
        directory: of the copy.
    """

    def __init__(self, directory: Path):
        self._copy = Copy(directory, "bigearthnet")
        self._channels = {name: spec.channels for name, spec in self._copy.manifest.specs().items()}
        self.modalities = tuple(self._channels)

    def table(self, modalities: Sequence[str]) -> PatchTable:
        """Return all patches of the copy."""
        samples = self._copy.samples
        texts = {name: values.tolist() for name, values in samples.attributes.items()}
        return PatchTable(
            {modality: range(len(samples.labels)) for modality in modalities},
            samples.labels,
            texts["patch_id"],
            texts["place"],
            texts["country"],
            texts["season"],
            None if samples.splits is None else samples.splits.tolist(),
            self._copy.manifest.archive["notes"] | {"path": str(self._copy.directory)},
        )

    def where(self, modality: str, row: Any, band: str) -> str:
        """Return how errors call a band."""
        return f"{self._copy.directory}: {self._copy.samples.attributes['patch_id'][row]}: {band}"

    def map(self, work: Callable[[Any], Any], rows: Iterable[Any]) -> Iterator[Any]:
        """Work in this thread: reading is a copy of memory."""
        return map(work, rows)

    def planes(self, modality: str, row: Any, groups: dict[int, tuple[str, ...]]) -> list[np.ndarray]:
        """Return the bands of each size, uint16 or float32 [bands, size, size]; NaN where nothing was measured."""
        kept = nomenclature.by_size(self._channels[modality])
        if lacking := [band for size, bands in groups.items() for band in bands if band not in kept.get(size, ())]:
            raise UserError(f"{self._copy.directory}: was prepared without {', '.join(lacking)}; open it with bands=10")
        arrays = {}
        for size in groups:
            part = self._copy.manifest.parts[name := part_name(modality, size)]
            arrays[name] = np.empty(part.shape, part.dtype)
        self._copy.read(int(row), arrays)
        return [
            array if bands == kept[size] else array[[kept[size].index(band) for band in bands]]
            for (size, bands), array in zip(groups.items(), arrays.values(), strict=True)
        ]


def part_name(modality: str, size: int) -> str:
    """Return what the bands of one size are called in a copy: by their pixels' size in metres."""
    return modality if modality == "s1" else f"{modality}_{10 * nomenclature.PATCH_SIZE // size}m"
