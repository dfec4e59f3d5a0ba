"""Archives in one ``.npz`` file: modalities of any shape, labels, and attributes as further columns."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.base import Archive, ModalitySpec, choose_modalities
from mmfl_jax.archives.resampling import resize
from mmfl_jax.errors import UserError

SPLITS = ("train", "validation", "test")


class Arrays(Archive):
    """Read ``label``, modalities (two axes or more, samples first) and attributes (one axis) from a file.

    Args:
        path: the ``.npz`` file. ``label`` is int [samples] (multiclass) or 0/1 [samples, classes] (multilabel);
            ``class_names`` and ``split`` (train, validation, test) may be there; NaN is a missing value.
        modalities: which arrays to read, in which order; all by default.
        image_size: height and width to bring images [samples, height, width, channels] to; series and vectors stay.
        resampling: ``bilinear`` or ``nearest``, where images grow.

    Raises:
        UserError: no such file, no such array, lengths that differ, labels without a name, nothing but NaN.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        modalities: tuple[str, ...] | None = None,
        image_size: int | None = None,
        resampling: str = "bilinear",
    ):
        columns = _load(Path(path))
        self.name, self._path, self.notes = "arrays", Path(path), {"path": str(path)}
        self._resampling = resampling
        label = _pop_label(columns, path)
        names = columns.pop("class_names", None)
        self.task = "multiclass" if label.ndim == 1 else "multilabel"
        self.class_names = _class_names(label, names, path)
        self.labels = label.astype(np.int32 if label.ndim == 1 else np.uint8)
        for key, column in columns.items():
            if column.ndim == 0 or len(column) != len(label):
                found = "a single value" if column.ndim == 0 else f"{len(column)} rows"
                raise UserError(f"{path}: array {key!r} has {found}, label has {len(label)}; all must be as long")
        self.splits = _pop_split(columns, path)
        self._arrays = {key: column for key, column in columns.items() if column.ndim >= 2}
        self.attributes = {key: column for key, column in columns.items() if column.ndim == 1}
        if not self._arrays:
            raise UserError(f"{path}: no modality; an array with samples first and two axes or more is needed")
        chosen = choose_modalities(modalities, self._arrays, str(path))
        self.modalities = {name: self._specify(name, image_size) for name in chosen}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Take the samples from memory, and bring images to the size asked for."""
        indices = self.checked(modality, indices)
        samples = self._arrays[modality][indices].astype(np.float32, copy=False)
        shape = self.modalities[modality].shape
        if samples.shape[1:] == shape:
            return samples
        return np.moveaxis(resize(np.moveaxis(samples, -1, 1), shape[:2], self._resampling), 1, -1)

    def _specify(self, name: str, image_size: int | None) -> ModalitySpec:
        array = self._arrays[name]
        if array.dtype.kind not in "fiub":
            raise UserError(f"{self._path}: modality {name!r} holds {array.dtype}; numbers are needed")
        if 0 in array.shape:
            raise UserError(f"{self._path}: modality {name!r} has shape {array.shape}; no axis may be empty")
        if array.dtype.kind == "f":
            if np.isnan(array).all():
                raise UserError(f"{self._path}: modality {name!r} is NaN throughout; leave it out by modalities")
            if np.isinf(array).any():
                raise UserError(f"{self._path}: modality {name!r} holds infinite values; missing ones must be NaN")
        shape = array.shape[1:]
        if image_size is not None and len(shape) == 3:
            shape = (image_size, image_size, shape[-1])
        return ModalitySpec(shape, tuple(str(channel) for channel in range(shape[-1])))


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; arrays:FILE.npz needs a file written by numpy.savez")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not an .npz file (or a damaged one); write it by numpy.savez")
    columns: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            try:
                columns[key] = file[key]
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise UserError(f"{path}: array {key!r} cannot be read ({error}); objects are not allowed") from error
            if not isinstance(columns[key], np.ndarray):  # a member that is no .npy file comes back as bytes
                raise UserError(f"{path}: member {key!r} is not a NumPy array; write the file by numpy.savez")
    return columns


def _pop_label(columns: dict[str, np.ndarray], path: str | Path) -> np.ndarray:
    if "label" not in columns:
        raise UserError(f"{path}: no array `label`; found: {', '.join(columns) or 'nothing'}")
    label = columns.pop("label")
    if label.ndim not in (1, 2) or label.dtype.kind not in "iub":
        raise UserError(
            f"{path}: label is {label.dtype} {label.shape}; integers [samples] or 0/1 [samples, classes] are needed"
        )
    if label.size == 0:
        raise UserError(f"{path}: label is empty; at least one sample is needed")
    if label.min() < 0 or (label.ndim == 2 and label.max() > 1):
        wrong = label.min() if label.min() < 0 else label.max()
        right = "0 or more" if label.ndim == 1 else "0 or 1"
        raise UserError(f"{path}: label holds {wrong}; each must be {right}")
    return label


def _class_names(label: np.ndarray, names: np.ndarray | None, path: str | Path) -> tuple[str, ...]:
    classes = int(label.max()) + 1 if label.ndim == 1 else label.shape[1]
    if names is None:
        return tuple(str(number) for number in range(classes))
    if names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise UserError(f"{path}: class_names has shape {names.shape}; a list of different names is needed")
    if classes > len(names) or (label.ndim == 2 and classes != len(names)):
        found = f"label holds class {classes - 1}" if label.ndim == 1 else f"label has {classes} columns"
        raise UserError(f"{path}: {found}, class_names has {len(names)} names")
    return tuple(str(name) for name in names)


def _pop_split(columns: dict[str, np.ndarray], path: str | Path) -> np.ndarray | None:
    split = columns.pop("split", None)
    if split is None:
        return None
    unknown = sorted(set(np.unique(split).tolist()) - set(SPLITS))
    if split.ndim != 1 or unknown:
        raise UserError(f"{path}: split holds {unknown[:3]}; each must be one of: {', '.join(SPLITS)}")
    return split.astype(str)
