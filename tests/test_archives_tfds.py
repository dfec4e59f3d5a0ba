"""Data sets of TensorFlow Datasets, written as TFDS's own builders describe them."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tfds_sets import write_data_set

from mmfl_jax import archives
from mmfl_jax.errors import UserError


def examples(features, count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        example = {}
        for name, kind in features.items():
            if isinstance(kind, tfds.features.ClassLabel):
                example[name] = (3 * number + seed) % kind.num_classes
            elif isinstance(kind, tfds.features.Text):
                example[name] = f"é{number}.tif"
            elif kind.shape == ():
                example[name] = number
            else:
                example[name] = rng.normal(size=kind.shape).astype(kind.np_dtype)
        made.append(example)
    return made


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tensorflow datasets")


@pytest.fixture(scope="module")
def so2sat(data_dir):
    features = tfds.builder("so2sat/all", data_dir=data_dir).info.features
    splits = {"train": examples(features, 5), "validation": examples(features, 3, seed=1)}
    write_data_set(data_dir, "so2sat/all", "2.1.0", features, splits)
    return splits


@pytest.fixture(scope="module")
def eurosat(data_dir):
    features = tfds.builder("eurosat/all", data_dir=data_dir).info.features
    splits = {"train": examples(features, 4)}
    write_data_set(data_dir, "eurosat/all", "2.0.0", features, splits)
    return splits


def test_both_sensors_of_so2sat(data_dir, so2sat):
    archive = archives.open(f"tfds:so2sat/all@{data_dir}")
    assert {name: spec.shape for name, spec in archive.modalities.items()} == {"s1": (32, 32, 8), "s2": (32, 32, 10)}
    assert archive.modalities["s2"].channels[7] == "B8A"
    assert (archive.task, len(archive.class_names)) == ("multiclass", 17)
    whole = so2sat["train"] + so2sat["validation"]
    assert archive.labels.tolist() == [example["label"] for example in whole]
    assert archive.splits.tolist() == ["train"] * 5 + ["validation"] * 3
    assert archive.attribute("sample_id").tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    order = np.array([7, 0, 3, 7])
    for modality, feature in (("s1", "sentinel1"), ("s2", "sentinel2")):
        expected = np.stack([whole[number][feature] for number in order])
        np.testing.assert_array_equal(archive.read(modality, order), expected)


def test_bands_of_eurosat(data_dir, eurosat, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    archive = archives.open("tfds:eurosat/all", image_size=32)
    assert list(archive.modalities) == ["s2"]
    assert archive.modalities["s2"].channels[-2:] == ("B12", "B8A")
    assert archive.splits is None
    assert archive.attribute("filename").tolist() == [f"é{number}.tif" for number in range(4)]
    whole = np.stack([example["sentinel2"] for example in eurosat["train"]])
    means = whole.reshape(4, 32, 2, 32, 2, 13).mean((2, 4))
    np.testing.assert_allclose(archive.read("s2", np.arange(4)), means, atol=1e-6)


def test_a_data_set_of_no_builder(tmp_path):
    features = tfds.features.FeaturesDict(
        {
            "radar": tfds.features.Tensor(shape=(9, 7), dtype=np.int16, encoding="bytes"),
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "cover": tfds.features.Sequence(tfds.features.ClassLabel(names=["wood", "sea", "town"])),
        }
    )
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    made = []
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(path := tmp_path / f"{number}.png")
        radar = rng.integers(-99, 99, (9, 7)).astype(np.int16)
        made.append({"radar": radar, "image": str(path), "cover": [number % 3, 1]})
    write_data_set(tmp_path, "mine", "1.0.0", features, {"train": made, "other": made[:1]})
    archive = archives.open(f"tfds:mine@{tmp_path}")
    assert (archive.task, archive.labels.tolist()) == ("multilabel", [[1, 1, 0], [0, 1, 0], [0, 1, 1]])
    assert archive.describe()["left_out_splits"] == ["other"]
    np.testing.assert_array_equal(archive.read("radar", np.arange(3))[..., 0], [m["radar"] for m in made])
    np.testing.assert_array_equal(archive.read("rgb", np.arange(3)), pictures)


def test_no_tensorflow(data_dir, so2sat):
    script = (
        "import sys, numpy as np; from mmfl_jax import archives; "
        f"archives.open({f'tfds:so2sat/all@{data_dir}'!r}).read('s1', np.arange(2)); "
        "print(sorted({'tensorflow', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_mistakes(data_dir, so2sat, tmp_path):
    def refused(reference, message):
        with pytest.raises(UserError, match=message) as caught:
            archives.open(reference)
        assert "\n" not in str(caught.value)

    refused("tfds:", "a location is missing; write tfds:NAME@DIR")
    refused(f"tfds:nonsuch@{tmp_path}", "nonsuch@.*: TFDS has no data set of that name, nor does one lie in")
    refused(f"tfds:eurosat/all@{tmp_path}", r"is not on disk; .*/eurosat/all/2.0.0 should hold it")
    info = data_dir / "so2sat/all/2.1.0/dataset_info.json"
    whole = info.read_text()
    info.write_text(whole.replace('"array_record"', '"tfrecord"'))
    refused(
        f"tfds:so2sat/all@{data_dir}", "lies there as tfrecord, which needs TensorFlow; `tfds build so2sat/all --file"
    )
    info.write_text(whole)
    features = tfds.features.FeaturesDict({"a": tfds.features.Text(), "b": tfds.features.ClassLabel(num_classes=2)})
    write_data_set(tmp_path, "texts", "1.0.0", features, {"train": [{"a": "x", "b": 1}]})
    refused(f"tfds:texts@{tmp_path}", r"no feature is an image \[height, width, channels\]; found: a, b")
    shard = next((data_dir / "so2sat/all/2.1.0").glob("*train*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    refused(f"tfds:so2sat/all@{data_dir}", "cannot be read")
    shard.write_bytes(content)
