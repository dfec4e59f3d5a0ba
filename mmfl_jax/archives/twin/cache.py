"""Images of the twin that are kept on disk, so that each is drawn once on a machine."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import jax
import numpy as np

from mmfl_jax.archives.base import Archive, Kept
from mmfl_jax.files import write_whole, writing

# Pixels below which drawing again takes a moment, and bytes above which the disk would fill.
_WORTH, _MOST = 1 << 20, 2 << 30


class Drawn(Kept):
    """Show an archive that draws its images; those of a modality are drawn at its first use, and read from disk after.

    Args:
        archive: that draws.
        folder: of the files.
        identity: all that the images depend on, but the code that draws them.
    """

    def __init__(self, archive: Archive, folder: Path, identity: object):
        super().__init__(archive)
        self._folder, self._identity = folder, identity

    def _whole(self, modality: str) -> np.ndarray:
        facts = repr((self.name, modality, self._identity, jax.__version__, jax.default_backend(), _code()))
        path = self._folder / f"{self.name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}-{modality}.npy"
        if not path.is_file():
            content = io.BytesIO()
            np.save(content, super()._whole(modality))
            with writing(path):
                self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, content.getvalue())
        return np.load(path, mmap_mode="r")


def kept_on_disk(archive: Archive, folder: str, identity: object) -> Archive:
    """Return the archive with its images kept in a folder, where there is one and they are neither few nor too many."""
    pixels = len(archive) * next(iter(archive.modalities.values())).shape[0] ** 2
    if not folder or pixels < _WORTH or archive.image_bytes > _MOST:
        return archive
    return Drawn(archive, Path(folder).expanduser(), identity)


def _code() -> str:
    """Return a digest of what draws."""
    sha = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()
