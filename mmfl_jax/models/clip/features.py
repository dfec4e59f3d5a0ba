"""Image features of a frozen CLIP: computed once, cached on disk, and an archive of them for the rounds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmfl_jax.archives.base import Archive, ModalitySpec, Subset
from mmfl_jax.archives.images import normalize
from mmfl_jax.errors import UserError
from mmfl_jax.models.clip.towers import CLIP, VisionTower
from mmfl_jax.models.variables import values

CACHE = Path("~/.cache/mmfl_jax/features")
# Changes with anything that changes an image's pixels on their way to the tower, so that old features are left alone.
PREPARATION = 1
# Images after which features are put on disk, so that what was broken off goes on from there.
BLOCK = 512
HEARTBEAT = 60.0


def encode_images(
    archive: Archive,
    model: CLIP,
    *,
    modality: str = "rgb",
    batch_size: int = 64,
    cache: str | Path | None = CACHE,
    quiet: bool = False,
) -> np.ndarray:
    """Return the features of an archive's images, from the cache where they are there.

    The cache is keyed by the vision tower's parameters and sizes, the preparation, and the files' names, sizes and
    times of change, in order; a broken-off computation goes on after its last block of 512 images.

    Args:
        archive: with images of the model's size; features are cached where it has an attribute ``file``.
        model: its vision tower is used, as it is.
        modality: of raw red, green and blue, 0 to 255.
        batch_size: images encoded at once; memory does not grow beyond two such batches.
        cache: folder; None neither reads nor writes features, nor does an archive without files.
        quiet: show no progress.

    Returns:
        float32 ``[samples, projection]`` as the tower gives them, not of unit length; NaN for an image that cannot be
        read (a warning names the first, and the next call tries again).

    Raises:
        UserError: images of another size, no image that can be read, a folder that cannot be written.
    """
    size = model.config.image_size
    shape = archive.modalities[modality].shape if modality in archive.modalities else None
    if shape != (size, size, 3):
        raise UserError(
            f"archive {archive.name}: modality {modality!r} has shape {shape}, this CLIP takes {(size, size, 3)}; "
            f"open the archive with image_size {size}"
        )
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}: at least 1 is needed")
    missing = np.full((len(archive), model.config.projection), np.nan, np.float32)
    if cache is None or "file" not in archive.attributes:
        return _encode(missing, archive, model, modality, batch_size, None, quiet)
    blocks = Path(cache).expanduser() / _key(archive, model, modality)
    whole = blocks.with_suffix(".npz")
    known = _load(whole, missing.shape)
    if known is not None and np.isfinite(known).all():
        return known
    features = _encode(missing if known is None else known.copy(), archive, model, modality, batch_size, blocks, quiet)
    if known is None or not np.array_equal(features, known, equal_nan=True):
        _save(whole, features)
    shutil.rmtree(blocks, ignore_errors=True)
    return features


class FeatureArchive(Archive):
    """Show an archive with its images' features, vectors [projection], in place of the images.

    Args:
        archive: gives labels, attributes and splits; kept as ``source``.
        features: float32 [samples, projection]; samples with NaN are left out with a warning.
        modality: name of the only modality.

    Raises:
        UserError: features of another number of samples.
    """

    def __init__(self, archive: Archive, features: np.ndarray, modality: str = "rgb"):
        if features.ndim != 2 or len(features) != len(archive):
            raise UserError(f"features have shape {features.shape}; archive {archive.name} has {len(archive)} samples")
        there = np.isfinite(features).all(axis=1)
        notes = {"left_out_without_features": int((~there).sum())}
        if not there.all():
            first = archive.attributes["file"][~there][0] if "file" in archive.attributes else np.argmin(there)
            warnings.warn(
                f"{(~there).sum()} of {len(archive)} images have no features and are left out, first {first}",
                stacklevel=2,
            )
            archive, features = Subset(archive, np.flatnonzero(there)), features[there]
        self._images = archive
        self.name, self.task, self.class_names = archive.name, archive.task, archive.class_names
        self.labels, self.attributes, self.splits = archive.labels, archive.attributes, archive.splits
        self.notes, self.copies = archive.notes | notes, archive.copies
        self._features = np.ascontiguousarray(features, np.float32)
        width = features.shape[1]
        mean, std = np.zeros(width, np.float32), np.ones(width, np.float32)
        self.modalities = {modality: ModalitySpec((width,), tuple(map(str, range(width))), mean, std)}

    @property
    def source(self) -> Archive:
        """Return the archive of the images."""
        return self._images

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Take the features from memory."""
        return self._features[self.checked(modality, indices)]


def _key(archive: Archive, model: CLIP, modality: str) -> str:
    vision = model.vision
    sha = hashlib.sha256()
    for name, value in values(vision)[0].items():
        array = np.ascontiguousarray(jax.device_get(value))
        sha.update(f"{name} {array.shape} {array.dtype};".encode())
        sha.update(array.tobytes())
    sha.update(f"{model.config} {vision.patch_embedding.dtype} {PREPARATION} {modality};".encode())
    for path in archive.attribute("file").tolist():
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); open the archive anew") from error
        name = "/".join(Path(path).parts[-2:])  # an archive may be moved
        sha.update(f"{name} {status.st_size} {status.st_mtime_ns};".encode())
    return sha.hexdigest()


@nnx.jit
def _tower(vision: VisionTower, images: jax.Array | np.ndarray) -> jax.Array:
    return vision(jnp.asarray(normalize(images)))


def _encode(
    features: np.ndarray,
    archive: Archive,
    model: CLIP,
    modality: str,
    batch_size: int,
    blocks: Path | None,
    quiet: bool,
) -> np.ndarray:
    """Return ``features`` with those that are NaN computed, or taken from a block on disk."""
    batch_size = min(batch_size, BLOCK, len(archive))
    reasons: dict[int, str] = {}
    with _Progress(len(archive), quiet) as progress:
        for start in range(0, len(archive), BLOCK):
            block = features[start : start + BLOCK]
            path = None if blocks is None else blocks / f"{start}-{start + len(block)}.npz"
            if path is not None and np.isnan(block).all() and (known := _load(path, block.shape)) is not None:
                block[:] = known
            missing = start + np.flatnonzero(np.isnan(block).any(axis=1))
            progress.advance(len(block) - len(missing), computed=False)
            batches = _batches(archive, modality, missing, batch_size, reasons)
            _fill(features, batches, batch_size, lambda images: _tower(model.vision, images), progress.advance)
            if path is not None and len(missing):
                _save(path, block)
    first = next(iter(reasons.values()), "the model's weights are not finite")
    if np.isnan(features).any(axis=1).all():
        raise UserError(f"archive {archive.name}: no image has finite features; {first}")
    if reasons:
        warnings.warn(f"{len(reasons)} of {len(archive)} images have no features: {first}", stacklevel=3)
    return features


def _batches(
    archive: Archive, modality: str, samples: np.ndarray, size: int, reasons: dict[int, str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read samples and their images in batches, without those that cannot be read; ``reasons`` says why."""
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        try:
            yield part, archive.read(modality, part)
        except UserError:
            read = {}
            for sample in part.tolist():
                try:
                    read[sample] = archive.read(modality, np.array([sample]))[0]
                except UserError as error:
                    reasons[sample] = str(error)
            if read:
                yield np.array(list(read)), np.stack(list(read.values()))


def _fill(
    features: np.ndarray,
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    size: int,
    encode: Callable[[np.ndarray], jax.Array],
    advance: Callable[[int], None],
) -> None:
    """Write the features of all batches; the next batch is read while the device encodes the last."""
    pending: tuple[np.ndarray, jax.Array] | None = None

    def collect() -> None:
        if pending is not None:
            samples, encoded = pending
            features[samples] = np.asarray(encoded)[: len(samples)]
            advance(len(samples))

    for samples, images in batches:
        # A batch that is not full is filled up, so that one shape is compiled.
        encoded = encode(np.pad(images, [(0, size - len(images))] + [(0, 0)] * 3))
        collect()
        pending = samples, encoded
    collect()


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a file's features, None where there is no such file or it is damaged (its checksum tells)."""
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            features = file["features"]
        if (features.shape, features.dtype) == (shape, np.float32):
            return features
        reason = f"{features.dtype} {features.shape}"
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error)
    warnings.warn(f"{path}: damaged ({reason}); the features are computed again", stacklevel=3)
    return None


def _save(path: Path, features: np.ndarray) -> None:
    """Write features so that the file is there as a whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, features=features)
        os.replace(part, path)
    except FileNotFoundError:
        return  # another process has finished the same features and cleared the blocks
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(
            f"{path.parent}: features cannot be cached there ({error.strerror}); choose another cache"
        ) from error


class _Progress:
    """Show on stderr how many images are done: a bar on a terminal, else a line a minute."""

    def __init__(self, total: int, quiet: bool):
        self._total, self._quiet, self._done, self._computed = total, quiet, 0, 0
        self._start = self._last = time.monotonic()
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(*Progress.get_default_columns(), console=Console(stderr=True))
            self._task = self._bar.add_task("image features", total=total)

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, images: int, computed: bool = True) -> None:
        """Count images, computed now or found in the cache."""
        self._done += images
        self._computed += images * computed
        now = time.monotonic()
        rate = f"{self._computed / max(now - self._start, 1e-3):.1f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=rate)
        elif not self._quiet and now - self._last > HEARTBEAT:
            self._last = now
            print(f"image features {self._done}/{self._total} · {rate}", file=sys.stderr, flush=True)
