"""Read the bands of patches from the LMDB that rico-hdl writes: a safetensors dict by band under each patch's name."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.bigearthnet.geotiffs import measured
from mmfl_jax.archives.bigearthnet.patches import METADATA, PatchTable, pool
from mmfl_jax.archives.bigearthnet.trees_v2 import tabulate
from mmfl_jax.errors import UserError, one_line

DATABASE = "data.mdb"
_SENSORS = {"s1": "S1", "s2": "S2"}


def find_database(directory: Path) -> Path | None:
    """Return the folder of the LMDB in a directory: itself, or the one of its folders that is an LMDB."""
    if (directory / DATABASE).is_file():
        return directory
    found = sorted(path.parent for path in directory.glob(f"*/{DATABASE}"))
    if len(found) > 1:
        raise UserError(f"{directory}: holds {len(found)} LMDBs, {found[0].name} and {found[1].name}; name one of them")
    return found[0] if found else None


class Database:
    """Read bands from an LMDB.

    Args:
        path: its folder; ``metadata.parquet`` lies in it, or beside it.
    """

    def __init__(self, path: Path):
        self._path = path
        beside = [folder / METADATA for folder in (path, path.parent)]
        self._metadata = next((file for file in beside if file.is_file()), beside[-1])
        with self._begin() as transaction, transaction.cursor() as cursor:
            names = [bytes(key).decode("utf-8", "replace") for key in cursor.iternext(keys=True, values=False)]
        found = {m: {n: n for n in names if n.startswith(start)} for m, start in _SENSORS.items()}
        # Reference maps have keys of their own.
        self._keys = {m: {n: n for n in keys if not n.endswith("_map")} for m, keys in found.items() if keys}
        self.modalities = tuple(self._keys)
        if not self._keys:
            raise UserError(f"{path}: the LMDB has no key that begins with S1 or S2, as patches of BigEarthNet do")

    def table(self, modalities: Sequence[str]) -> PatchTable:
        """Keep the rows of the metadata whose patches are in the LMDB."""
        return tabulate(self._path, self._metadata, {modality: self._keys[modality] for modality in modalities})

    def where(self, modality: str, patch: str, band: str) -> str:
        """Return how errors call a band."""
        return f"{self._path}: {patch}: {band}"

    def map(self, work: Callable[[Any], Any], rows: Iterable[Any]) -> Iterator[Any]:
        """Work in threads, for disks that answer late."""
        return pool().map(work, rows)

    def planes(self, modality: str, patch: str, groups: dict[int, tuple[str, ...]]) -> list[np.ndarray]:
        """Return the bands of each size, uint16 or float32 [bands, size, size]; NaN where nothing was measured."""
        from safetensors import numpy

        with self._begin() as transaction:
            content = transaction.get(patch.encode())
        if content is None:
            raise UserError(f"{self._path}: the LMDB has no key {patch} any more")
        try:
            bands = numpy.load(content)
        except Exception as error:  # safetensors has many ways to fail on damaged bytes
            raise UserError(f"{self._path}: {patch}: no safetensors, or damaged ({one_line(error)})") from error
        return [np.stack([self._band(bands, patch, name, size) for name in names]) for size, names in groups.items()]

    def _band(self, bands: dict[str, np.ndarray], patch: str, name: str, size: int) -> np.ndarray:
        if name not in bands:
            raise UserError(f"{self._path}: {patch}: no band {name}; there are {', '.join(sorted(bands))}")
        pixels = bands[name]
        if pixels.shape != (size, size):
            raise UserError(f"{self._path}: {patch}: {name} has shape {list(pixels.shape)}; right is {[size, size]}")
        if pixels.dtype.kind not in "uif":
            raise UserError(f"{self._path}: {patch}: {name} holds {pixels.dtype}; real numbers are needed")
        return measured(pixels)

    def _begin(self) -> Any:
        """Begin to read; the file is opened once a process."""
        try:
            import lmdb
        except ModuleNotFoundError:
            raise UserError(f"{self._path}: an LMDB is read by lmdb; pip install 'mmfl_jax[lmdb]'") from None
        try:
            with _opening:
                return _opened(self._path, lmdb).begin()
        except lmdb.Error as error:
            raise UserError(f"{self._path}: cannot be read as an LMDB ({one_line(error)})") from error


# A process may open a database once; it stays open.
_open_now: dict[str, tuple[Any, Any]] = {}
_opening = threading.Lock()


def _opened(path: Path, lmdb: Any) -> Any:
    """Return the environment of a database, opened anew where its file is another one than before."""
    found = (path / DATABASE).stat()
    stamp = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    before, environment = _open_now.get(name := os.path.realpath(path), (None, None))
    if before == stamp:
        return environment
    if environment is not None:
        environment.close()
    # No lock file: the archive may lie where nothing can be written. No readahead: reads are random.
    environment = lmdb.open(os.fspath(path), readonly=True, lock=False, readahead=False)
    # What is cut short would be mapped all the same, and end the process where it is touched.
    if found.st_size < (whole := environment.stat()["psize"] * (environment.info()["last_pgno"] + 1)):
        environment.close()
        raise UserError(f"{path / DATABASE}: cut short, {found.st_size} bytes of {whole}; copy it again")
    _open_now[name] = stamp, environment
    return environment
