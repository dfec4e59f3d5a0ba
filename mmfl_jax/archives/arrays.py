"""Archives in one ``.npz`` file: modalities of any shape, labels, and attributes as further columns."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mmfl_jax.archives.base import FILL, SPLITS, Archive, ModalitySpec, check_modality, choose_modalities, first_missing
from mmfl_jax.archives.npz import Header, read_arrays, read_headers
from mmfl_jax.archives.resampling import resize
from mmfl_jax.errors import UserError
from mmfl_jax.memory import check_fits

# Different values, among 16 of each modality, from which on two equal samples are copies.
TELLING = 8


class Arrays(Archive):
    """Read ``label``, modalities (two axes or more, samples first) and attributes (one axis) from a file.

    Args:
        path: the ``.npz`` file. ``label`` is int [samples] (multiclass) or 0/1 [samples, classes] (multilabel);
            ``class_names`` and ``split`` (train, validation, test) may be there; NaN is a missing value.
        modalities: which arrays to read, in which order; all by default.
        image_size: height and width to bring images [samples, height, width, channels] to; series and vectors stay.
        resampling: ``bilinear`` or ``nearest``, where images grow.

    Raises:
        UserError: no such file, no such array, lengths that differ, labels without a name or classes without a
            sample, nothing but NaN, infinite or fill values, attributes without a value, more than memory holds.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        modalities: tuple[str, ...] | None = None,
        image_size: int | None = None,
        resampling: str = "bilinear",
    ):
        self.name, self._path, self.notes = "arrays", Path(path), {"path": str(path)}
        self._resampling = resampling
        headers = read_headers(self._path)
        kinds = _sort(headers, path)
        chosen = choose_modalities(modalities, kinds["modality"], str(path))
        columns = read_arrays(self._path, [*kinds["column"], *chosen], headers)
        label = _check_label(columns.pop("label"), path)
        self.task = "multiclass" if label.ndim == 1 else "multilabel"
        self.class_names = _class_names(label, columns.pop("class_names", None), path)
        self.labels = label.astype(np.int32 if label.ndim == 1 else np.uint8)
        self.splits = _check_split(columns.pop("split", None), path)
        self._arrays = {name: columns.pop(name) for name in chosen}
        for name, column in columns.items():
            _check_attribute(name, column, path)
        self.attributes = columns
        self.modalities = {name: self._specify(name, image_size) for name in chosen}
        self.copies = _copies(list(self._arrays.values()))

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Take the samples from memory, and bring images to the size asked for."""
        indices = self.checked(modality, indices)
        samples = self._arrays[modality][indices].astype(np.float32, copy=False)
        shape = self.modalities[modality].shape
        if samples.shape[1:] == shape:
            return samples
        return np.moveaxis(resize(np.moveaxis(samples, -1, 1), shape[:2], self._resampling), 1, -1)

    def absent(self, modality: str) -> np.ndarray | None:
        """Return [samples] whether all values of a sample are missing."""
        array = self._arrays[modality]
        if array.dtype.kind != "f":
            return None
        # Few samples begin with a missing value: only those are looked at as a whole.
        absent = np.isnan(array.reshape(len(array), -1)[:, 0])
        absent[absent] = np.isnan(array[absent]).all(axis=tuple(range(1, array.ndim)))
        return absent

    def _specify(self, name: str, image_size: int | None) -> ModalitySpec:
        array = self._arrays[name]
        if array.dtype.kind == "f":
            # The largest and smallest value first: they need no memory of the array's size.
            low, high = (float(f.reduce(array, axis=None)) for f in (np.fmin, np.fmax))
            if np.isnan(low):
                raise UserError(f"{self._path}: modality {name!r} is NaN throughout; leave it out by modalities")
            if not (low > -FILL and high < FILL):
                self._refuse_fill(name, array)
        shape = array.shape[1:]
        if image_size is not None and len(shape) == 3:
            shape = (image_size, image_size, shape[-1])
        return ModalitySpec(shape, tuple(str(channel) for channel in range(shape[-1])))

    def _refuse_fill(self, name: str, array: np.ndarray) -> None:
        wrong = np.abs(array.reshape(len(array), -1)) >= np.float64(FILL)
        row = int(wrong.any(axis=1).argmax())
        value = array.reshape(len(array), -1)[row][wrong[row]][0]
        what = "infinite values" if np.isinf(value) else "fill values"
        raise UserError(
            f"{self._path}: modality {name!r} holds {what}, {wrong.sum()} of {wrong.size} numbers, the first {value:g} "
            f"in row {row}; missing ones must be NaN"
        )


def _sort(headers: dict[str, Header], path: str | Path) -> dict[str, list[str]]:
    """Return which arrays are modalities and which are columns, once shapes and kinds of numbers are right."""
    if "label" not in headers:
        raise UserError(f"{path}: no array `label`; found: {', '.join(headers) or 'nothing'}")
    label = headers["label"]
    if len(label.shape) not in (1, 2) or label.dtype.kind not in "iub":
        found = f"{label.dtype} {label.shape}"
        raise UserError(f"{path}: label is {found}; integers [samples] or 0/1 [samples, classes] are needed")
    if 0 in label.shape:
        raise UserError(f"{path}: label is empty; at least one sample is needed")
    kinds: dict[str, list[str]] = {"modality": [], "column": ["label"]}
    for name, header in headers.items():
        if name in ("label", "class_names"):
            continue
        if not header.shape or header.shape[0] != label.shape[0]:
            found = f"{header.shape[0]} rows" if header.shape else "a single value"
            raise UserError(f"{path}: array {name!r} has {found}, label has {label.shape[0]}; all must be as long")
        kind = "column" if len(header.shape) == 1 or name == "split" else "modality"
        kinds[kind].append(name)
        if kind == "modality":
            _check_modality(name, header, path)
    kinds["column"] += [name for name in ("class_names",) if name in headers]
    if not kinds["modality"]:
        raise UserError(f"{path}: no modality; an array with samples first and two axes or more is needed")
    return kinds


def _check_modality(name: str, header: Header, path: str | Path) -> None:
    check_modality(name, str(path))
    if header.dtype.kind not in "fiub":
        raise UserError(f"{path}: modality {name!r} holds {header.dtype}; numbers are needed")
    if 0 in header.shape:
        raise UserError(f"{path}: modality {name!r} has shape {header.shape}; no axis may be empty")
    if len(header.shape) > 4:
        form = "samples, height, width, channels] (or [samples, time, channels], [samples, features"
        raise UserError(
            f"{path}: modality {name!r} has {len(header.shape)} axes {header.shape}; at most four, [{form}])"
        )


def _check_label(label: np.ndarray, path: str | Path) -> np.ndarray:
    if label.min() < 0 or (label.ndim == 2 and label.max() > 1):
        wrong = label.min() if label.min() < 0 else label.max()
        right = "0 or more" if label.ndim == 1 else "0 or 1"
        raise UserError(f"{path}: label holds {wrong}; each must be {right}")
    if label.min() == label.max():
        found = f"class {label.min()} alone" if label.ndim == 1 else f"{int(label.max())} throughout"
        raise UserError(f"{path}: label holds {found}; at least two classes are needed")
    return label


def _class_names(label: np.ndarray, names: np.ndarray | None, path: str | Path) -> tuple[str, ...]:
    classes = int(label.max()) + 1 if label.ndim == 1 else label.shape[1]
    if names is None:
        used = len(np.unique(label)) if label.ndim == 1 else classes
        if used < classes:
            raise UserError(
                f"{path}: label holds {classes - 1}, but {classes - used} of the {classes} classes up to it have no "
                "sample; number the classes without gaps, name them all in class_names, or take out samples without one"
            )
        found = tuple(str(number) for number in range(classes))
    else:
        found = _check_names(names, path)
        if classes > len(found) or (label.ndim == 2 and classes != len(found)):
            has = f"label holds class {classes - 1}" if label.ndim == 1 else f"label has {classes} columns"
            raise UserError(f"{path}: {has}, class_names has {len(found)} names")
    # Labels by class, and in scores how often which class was taken for which.
    needed = max(len(label) * len(found), 8 * len(found) ** 2 if label.ndim == 1 else 0)
    check_fits(f"{path}: label of {len(label)} samples in {len(found)} classes", needed)
    return found


def _check_names(names: np.ndarray, path: str | Path) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "Uiu":
        raise UserError(f"{path}: class_names is {names.dtype} {names.shape}; a list of different names is needed")
    found = [str(name) for name in names.tolist()]
    first: dict[str, int] = {}
    for place, name in enumerate(found):
        if not name.strip() or not name.isprintable():
            raise UserError(f"{path}: class_names holds {name!r} for class {place}; every class needs a name")
        if first.setdefault(name, place) != place:
            raise UserError(f"{path}: class_names holds {name!r} for classes {first[name]} and {place}")
    return tuple(found)


def _check_split(split: np.ndarray | None, path: str | Path) -> np.ndarray | None:
    if split is None:
        return None
    unknown = sorted(set(np.unique(split).tolist()) - set(SPLITS))
    if split.ndim != 1 or unknown:
        raise UserError(f"{path}: split holds {unknown[:3]}; each must be one of: {', '.join(SPLITS)}")
    return split.astype(str)


def _check_attribute(name: str, column: np.ndarray, path: str | Path) -> None:
    if column.dtype.kind not in "fiubUM":
        raise UserError(f"{path}: attribute {name!r} holds {column.dtype}; texts, numbers or dates are needed")
    if not name or not name.isprintable():
        raise UserError(f"{path}: an attribute is called {name!r}; it needs a name")
    if (row := first_missing(column)) is not None:
        raise UserError(f"{path}: attribute {name!r} has no value in row {row} ({column[row]}); every sample needs one")


def _copies(arrays: list[np.ndarray]) -> np.ndarray | None:
    """Return numbers [samples], equal where all values of samples are; None where no two samples are the same.

    Samples of few different values may well be equal by chance, and are taken to be different.
    """
    rows = [array.reshape(len(array), -1) for array in arrays]
    # A few values tell most samples apart; only the others are compared as a whole.
    probe = np.concatenate([r[:, np.linspace(0, r.shape[1] - 1, 16).astype(int)].astype(np.float32) for r in rows], 1)
    _, first, counts = np.unique(_bytes(probe), return_inverse=True, return_counts=True)
    numbers, seen = np.arange(len(probe)), dict[bytes, int]()
    for i in np.flatnonzero(counts[first] > 1).tolist():
        if len(np.unique(probe[i])) >= TELLING:
            digest = hashlib.sha256(b"".join(row[i].tobytes() for row in rows)).digest()
            numbers[i] = seen.setdefault(digest, i)
    return numbers if (numbers != np.arange(len(numbers))).any() else None


def _bytes(rows: np.ndarray) -> np.ndarray:
    """Return [rows] values of bytes, equal where rows are."""
    return np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
