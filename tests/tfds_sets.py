"""Write a tiny data set of TFDS as its own builder would find it on disk, without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer


def write_data_set(directory: Path, name: str, version: str, features: Any, splits: dict[str, list[dict]]) -> Path:
    """Write examples by split into ``directory / name / version``; return ``directory``."""
    folder, dataset = directory / name / version, name.partition("/")[0]
    folder.mkdir(parents=True)
    serializer = ExampleSerializer(features.get_serialized_info())
    infos = []
    for split, examples in splits.items():
        writer = ArrayRecordWriter(str(folder / f"{dataset}-{split}.array_record-00000-of-00001"), "group_size:1")
        for example in examples:
            writer.write(serializer.serialize_example(features.encode_example(example)))
        writer.close()
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=dataset, split=split, filetype_suffix="array_record"
        )
        infos.append(
            tfds.core.SplitInfo(name=split, shard_lengths=[len(examples)], num_bytes=1, filename_template=template)
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos, version=version, check_data=False
    )
    return directory
