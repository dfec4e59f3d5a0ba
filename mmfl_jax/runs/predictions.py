"""Keep what the report shows beyond scores: some test scenes with the model's answers, and each client's accuracy."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmfl_jax import cluster
from mmfl_jax.archives.base import IGNORED
from mmfl_jax.archives.pictures import picture
from mmfl_jax.errors import UserError, one_line
from mmfl_jax.files import write_whole
from mmfl_jax.tasks import task_of

if TYPE_CHECKING:
    from mmfl_jax.archives.base import Archive
    from mmfl_jax.rounds import Rounds

FILE = "predictions.npz"
SHOWN, TILES = 24, 9
# Pixels of a side at least that a scene keeps: the page shows it as a thumbnail.
_SIDE = 96


def gather(simulation: Rounds, personal: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return of some test samples the image, the label and the global model's answer, and accuracy by client.

    Of labels by pixel these are tiles, the worst, typical and best, with an answer by modality set. Of others, scenes,
    where images are red, green and blue with one class each. Empty where there is nothing to show; of several
    processes all must ask.

    Args:
      simulation: after its last round.
      personal: accuracy of each client's own model, ``[clients]``, where it is known.
    """
    archive = simulation.federation.archive
    arrays: dict[str, np.ndarray] = {} if personal is None else {"personal": personal.astype(np.float32)}
    source = _images(archive)
    if task_of(archive).spatial:
        arrays |= _tiles(simulation)
    elif source is not None:
        modality = next(iter(source.modalities))
        samples = spread(simulation.federation.test, archive.labels, SHOWN)
        arrays["answers"] = simulation.predict(samples).argmax(axis=-1)
        arrays["labels"] = archive.labels[samples]
        if cluster.leads():  # who alone writes them
            arrays["images"] = _thumbnails(source.read(modality, samples))
    return arrays


def keep(arrays: dict[str, np.ndarray], run_dir: Path) -> None:
    """Write ``predictions.npz`` of what was gathered, nothing where that is nothing.

    Args:
      arrays: of :func:`gather`.
      run_dir: of the run.
    """
    if arrays:
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        write_whole(run_dir / FILE, content.getvalue())


def _tiles(simulation: Rounds) -> dict[str, np.ndarray]:
    """Return what is kept of tiles: pictures and labels, and accuracy and answers by modality set."""
    archive, test = simulation.federation.archive, simulation.federation.test
    right = simulation.test_tiles()
    # Tiles of which hardly anything is labelled tell little.
    labelled = archive.labels[test].sum(axis=1)
    order = np.argsort(np.where(np.isnan(right) | (labelled < labelled.max() / 4), np.inf, right), kind="stable")
    count = max(1, int((np.isfinite(right) & (labelled >= labelled.max() / 4)).sum()))
    each = min(TILES // 3, max(1, count // 3))
    middle = max(0, (count - each) // 2)
    ranks = [*range(each), *range(middle, middle + each), *range(count - each, count)]
    samples = test[order[sorted(set(ranks))]]
    answers = np.stack([simulation.predict(samples, seen).argmax(axis=-1) for seen in simulation.scored_sets])
    if not cluster.leads():  # who alone writes them
        return {}
    pictures = [picture(archive.read(m, samples), m, spec.channels) for m, spec in archive.modalities.items()]
    labels = archive.read_labels(samples)
    hits = ((answers == labels) & (labels != IGNORED)).sum(axis=(2, 3))
    return {
        "tile_pictures": np.stack(pictures),
        "tile_modalities": np.array(list(archive.modalities)),
        "tile_labels": labels,
        "tile_sets": np.array(["+".join(seen) for seen in simulation.scored_sets]),
        "tile_answers": answers.astype(np.uint8),
        "tile_accuracy": hits / np.maximum((labels != IGNORED).sum(axis=(1, 2)), 1),
        "class_colors": np.array(archive.class_colors or ()),
    }


def load(run_dir: Path, classes: int) -> dict[str, np.ndarray]:
    """Return what :func:`keep` wrote, empty where there is nothing.

    Args:
      run_dir: of the run.
      classes: how many there are.

    Raises:
      UserError: for a damaged file.
    """
    path = run_dir / FILE
    if not path.is_file():
        return {}
    try:
        # Of a damaged file NumPy would leave its own handle open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        _check(found, classes)
    except Exception as error:  # zipfile, zlib and NumPy each raise their own kinds
        raise UserError(
            f"{path}: damaged ({one_line(error)[:200]}); delete it, and the report leaves scenes out"
        ) from error
    return found


def _check(found: dict[str, np.ndarray], classes: int) -> None:
    """Raise ValueError for arrays that are not those of :func:`keep`."""
    if "tile_labels" in found:
        _check_tiles(found, classes)
    personal = found.get("personal", np.zeros(0, np.float32))
    if personal.ndim != 1 or personal.dtype.kind != "f":
        raise ValueError(f"personal is {personal.dtype} {personal.shape}, not a number a client")
    if "images" not in found:
        return
    images = found["images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"images are {images.dtype} {images.shape}, not of red, green and blue")
    for name in ("labels", "answers"):
        values = found[name]
        if (
            values.shape != images.shape[:1]
            or values.dtype.kind not in "iu"
            or not ((values >= 0) & (values < classes)).all()
        ):
            raise ValueError(f"{name} are {values.dtype} {values.shape}, not one of {classes} classes an image")


def _check_tiles(found: dict[str, np.ndarray], classes: int) -> None:
    """Raise ValueError for arrays of tiles that do not fit each other."""
    modalities, sets = len(found["tile_modalities"]), len(found["tile_sets"])
    count, *side = found["tile_labels"].shape
    wanted = {
        "tile_pictures": (np.dtype(np.uint8), (modalities, count, *side, 3)),
        "tile_labels": (np.dtype(np.uint8), (count, *side)),
        "tile_answers": (np.dtype(np.uint8), (sets, count, *side)),
        "tile_accuracy": (np.dtype(np.float64), (sets, count)),
    }
    for name, (dtype, shape) in wanted.items():
        if found[name].dtype != dtype or found[name].shape != shape or len(side) != 2:
            raise ValueError(f"{name} are {found[name].dtype} {found[name].shape}, not {dtype} {shape}")
    if found["tile_answers"].size and found["tile_answers"].max() >= classes:
        raise ValueError(f"tile_answers name class {found['tile_answers'].max()} of {classes}")
    for name in ("tile_modalities", "tile_sets", "class_colors"):
        if found[name].ndim != 1 or (found[name].size and found[name].dtype.kind != "U"):
            raise ValueError(f"{name} are {found[name].dtype} {found[name].shape}, not texts")
    if not all(re.fullmatch("#[0-9a-fA-F]{6}", color) for color in found["class_colors"].tolist()):
        raise ValueError("class_colors are not like #1a2b3c")


def spread(samples: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` samples with the classes in turn, in the order of the classes."""
    order = np.random.default_rng(0).permutation(samples)
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(starts, counts)  # within the class: the first of all classes come first
    return order[np.sort(np.argsort(rank, kind="stable")[:count])]


def _images(archive: Archive) -> Archive | None:
    """Return the archive with the images of ``archive``'s samples, in the same order, if it has any to show."""
    source = archive.source
    shapes = [spec.shape for spec in source.modalities.values()]
    # One label a sample: [samples].
    is_scene = archive.labels.ndim == 1 and len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][-1] == 3
    return source if is_scene else None


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Return uint8 images of fewer pixels, each the mean of a square of them."""
    step = max(1, images.shape[1] // _SIDE)
    side = images.shape[1] // step
    cut = images[:, : side * step, : side * step].reshape(len(images), side, step, side, step, 3)
    return np.clip(np.round(cut.mean(axis=(2, 4))), 0, 255).astype(np.uint8)
