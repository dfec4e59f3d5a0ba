"""Data sets of TensorFlow Datasets that lie on disk: images and a label, without TensorFlow."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from mmfl_jax.archives.base import SPLITS, Archive, ModalitySpec, check_modality, choose_modalities
from mmfl_jax.archives.resampling import resize
from mmfl_jax.errors import UserError, one_line

READ_AT_ONCE = 64
# What features are called here; others keep their names.
_MODALITIES = {"sentinel1": "s1", "sentinel2": "s2", "image": "rgb"}
_BANDS = "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12"
_CHANNELS = {
    "so2sat/sentinel1": "VH.real VH.imaginary VV.real VV.imaginary VH VV VVVH.real VVVH.imaginary",
    "so2sat/sentinel2": _BANDS,
    "eurosat/sentinel2": "B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A",
}


class Tfds(Archive):
    """Read a TFDS data set whose examples hold images of fixed or any size, and one label or several of one list.

    All labels are read when it is opened.

    Args:
        location: ``NAME`` as TFDS calls it, such as ``so2sat/all``, or ``NAME@DIR`` with the data directory, else that
            of ``TFDS_DATA_DIR`` or TFDS's own.
        modalities: of the images; all by default.
        image_size: height and width to bring images to; None for their own, which then must be one.
        resampling: ``bilinear`` or ``nearest``, for images that grow.

    Raises:
        UserError: no such data set there, not in ArrayRecord files, or without images or labels.
    """

    def __init__(
        self,
        location: str,
        *,
        modalities: tuple[str, ...] | None = None,
        image_size: int | None = None,
        resampling: str = "bilinear",
    ):
        name, _, folder = location.partition("@")
        self._where = f"tfds:{location}"
        found = _open(name, folder or os.environ.get("TFDS_DATA_DIR") or None, self._where)
        self._sources = {split: found[split] for split in SPLITS if split in found}
        if not self._sources:
            raise UserError(f"{self._where}: has the splits {', '.join(found)}, none of {', '.join(SPLITS)}")
        features = dict(next(iter(self._sources.values())).dataset_info.features.items())
        self._features = self._images(features, name, image_size)
        chosen = choose_modalities(modalities, self._features, self._where)
        self._size, self._resampling = image_size, resampling
        self.name = "tfds"
        self.modalities = {modality: self._features[modality][1] for modality in chosen}
        lengths = [len(source) for source in self._sources.values()]
        self._starts = np.cumsum([0, *lengths])
        self.splits = np.repeat(list(self._sources), lengths) if len(lengths) > 1 else None
        self._read_labels(features)
        self.notes = {"path": location, "left_out_splits": sorted(set(found) - set(SPLITS))}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Read images, and bring them to the size that was asked for."""
        indices = self.checked(modality, indices)
        feature, spec = self._features[modality]
        images = np.empty((len(indices), *spec.shape), np.float32)
        for number, (source, sources) in enumerate(zip(self._sources, self._sources.values(), strict=True)):
            places = np.flatnonzero((indices >= self._starts[number]) & (indices < self._starts[number + 1]))
            rows = (indices[places] - self._starts[number]).tolist()
            for start in range(0, len(rows), READ_AT_ONCE):
                examples = self._examples(source, sources, rows[start : start + READ_AT_ONCE])
                for place, example in zip(places[start : start + READ_AT_ONCE], examples, strict=True):
                    image = np.asarray(example[feature])
                    planes = np.moveaxis(image.reshape(*image.shape[:2], -1), -1, 0)
                    images[place] = np.moveaxis(resize(planes, spec.shape[:2], self._resampling), 0, -1)
        return images

    def _examples(self, split: str, source: Any, rows: list[int]) -> list[dict[str, Any]]:
        try:
            return list(source.__getitems__(rows))
        except Exception as error:  # of whatever kind array_record or TFDS raises on damaged files
            raise UserError(
                f"{self._where}: {split} {rows[0]} to {rows[-1]}: cannot be read ({one_line(error)})"
            ) from error

    def _images(self, features: dict[str, Any], name: str, size: int | None) -> dict[str, tuple[str, ModalitySpec]]:
        """Return the feature and the specification of each modality."""
        found = {}
        for feature, kind in features.items():
            shape = kind.shape if isinstance(kind.shape, tuple) else ()
            if len(shape) not in (2, 3) or np.dtype(kind.np_dtype).kind not in "uif":
                continue
            if None in shape[:2] and size is None:
                raise UserError(f"{self._where}: {feature} has images of many sizes; give --image-size")
            height, width, channels = *shape[:2], (shape[2] or 1) if len(shape) == 3 else 1
            names = _CHANNELS.get(f"{name.partition('/')[0].partition(':')[0]}/{feature}", "").split()
            if len(names) != channels:
                names = [f"{feature}.{number}" for number in range(channels)]
            modality = _MODALITIES.get(feature, feature)
            modality = feature if modality == "rgb" and channels != 3 else modality
            check_modality(modality, self._where)
            found[modality] = feature, ModalitySpec((size or height, size or width, channels), tuple(names))
        if not found:
            raise UserError(
                f"{self._where}: no feature is an image [height, width, channels]; found: {', '.join(sorted(features))}"
            )
        return found

    def _read_labels(self, features: dict[str, Any]) -> None:
        """Read the labels, and as attributes all else that is one text or whole number."""
        import tensorflow_datasets as tfds

        one = [name for name, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
        many = [
            name
            for name, kind in features.items()
            if isinstance(kind, tfds.features.Sequence) and isinstance(kind.feature, tfds.features.ClassLabel)
        ]
        if len(one) + len(many) != 1:
            raise UserError(f"{self._where}: one feature must be a label or a list of labels; found: {one + many}")
        label = (one + many)[0]
        kind = features[label] if one else features[label].feature
        others = [
            n for n, f in features.items() if n != label and f.shape == () and np.dtype(f.np_dtype).kind in "OSUiu"
        ]
        self.task = "multiclass" if one else "multilabel"
        self.class_names = tuple(kind.names)
        labels: list[Any] = []
        columns: dict[str, list[Any]] = {name: [] for name in others}
        for split, source in self._sources.items():
            for start in range(0, len(source), READ_AT_ONCE):
                rows = list(range(start, min(start + READ_AT_ONCE, len(source))))
                for example in self._examples(split, source, rows):
                    labels.append(example[label])
                    for name, values in columns.items():
                        values.append(_plain(example[name]))
        if not labels:
            raise UserError(f"{self._where}: the data set is empty")
        if one:
            self.labels = np.array(labels, np.int32)
        else:
            self.labels = np.zeros((len(labels), len(self.class_names)), np.uint8)
            for row, numbers in enumerate(labels):
                self.labels[row, np.asarray(numbers, np.int64)] = 1
        self.attributes = {name: np.array(values) for name, values in columns.items()}


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _open(name: str, folder: str | None, where: str) -> dict[str, Any]:
    """Return the data source of each split."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        there = folder or "the data directory of TFDS"
        raise UserError(f"{where}: TFDS has no data set of that name, nor does one lie in {there}") from None
    except Exception as error:  # TFDS has a kind of its own for each mistake
        raise UserError(f"{where}: cannot be opened ({one_line(error)[:200]})") from error
    if not builder.info.splits:
        raise UserError(
            f"{where}: is not on disk; {builder.data_dir} should hold it (write tfds:NAME@DIR, or TFDS_DATA_DIR)"
        )
    if (kept := builder.info.file_format.file_suffix) != "array_record":
        needed = f"`tfds build {name} --file_format=array_record` writes what is read here"
        raise UserError(f"{where}: lies there as {kept}, which needs TensorFlow; {needed}")
    try:
        return dict(builder.as_data_source())
    except Exception as error:  # array_record has no error of its own for damaged files
        raise UserError(f"{where}: cannot be read ({one_line(error)[:200]})") from error
