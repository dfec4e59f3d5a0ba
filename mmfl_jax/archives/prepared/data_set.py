"""The TFDS data set that a copy is: its features, and the metadata beside its shards."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.archives.prepared.layout import LABELS, VERSION, Manifest
from mmfl_jax.files import writing


def features(archive: Archive, manifest: Manifest) -> Any:
    """Return the TFDS features of a sample: its arrays as bytes, its labels by number, its attributes."""
    from tensorflow_datasets import features as tfds

    found: dict[str, Any] = {
        name: tfds.Tensor(shape=part.shape, dtype=np.dtype(part.dtype), encoding="bytes")
        for name, part in manifest.parts.items()
    }
    classes = tfds.ClassLabel(names=list(archive.class_names))
    if archive.task == "multilabel":
        found[LABELS] = tfds.Sequence(classes)
    elif archive.task == "multiclass":
        found["label"] = classes
    for name, values in archive.attributes.items():
        number = tfds.Scalar(np.float32 if values.dtype.kind == "f" else np.int64)
        found[feature_name(name, archive)] = tfds.Text() if is_text(values) else number
    return tfds.FeaturesDict(found)


def feature_name(attribute: str, archive: Archive) -> str:
    """Return what an attribute is called among the features."""
    taken = attribute in (*archive.modalities, *archive.parts(), LABELS, "label")
    return f"attribute_{attribute}" if taken else attribute


def is_text(values: np.ndarray) -> bool:
    """Return whether an attribute is written as text."""
    return values.dtype.kind not in "biuf"


def write_data_set(archive: Archive, manifest: Manifest, shards: Sequence[tuple[str, int, int]], folder: Path) -> None:
    """Write the metadata that TFDS reads.

    Args:
        archive: the source.
        manifest: of the copy.
        shards: file name, number of samples and bytes of each.
        folder: of the shards.
    """
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=manifest.dataset, filetype_suffix="array_record", split=None
    )
    lengths: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    for name, samples, size in shards:
        split = name.removeprefix(f"{manifest.dataset}-").partition(".")[0]
        lengths.setdefault(split, []).append(samples)
        sizes[split] = sizes.get(split, 0) + size
    splits = [
        tfds.core.SplitInfo(
            name=split, shard_lengths=counts, num_bytes=sizes[split], filename_template=template.replace(split=split)
        )
        for split, counts in lengths.items()
    ]
    with writing(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=features(archive, manifest),
            split_infos=splits,
            version=VERSION,
            check_data=False,
            description=f"{archive.name}, prepared by mmfl_jax from {manifest.kind}:{manifest.source}",
        )
