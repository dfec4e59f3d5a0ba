"""Prepared copies: equal to their source, whole or refused, and read by plain TFDS."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from geotiffs import write_v1, write_v2
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl_jax import archives
from mmfl_jax.archives import Archive, ModalitySpec
from mmfl_jax.archives.base import IGNORED
from mmfl_jax.archives.prepared import shards
from mmfl_jax.archives.prepared.prepare import prepare
from mmfl_jax.archives.prepared.writing import Writer
from mmfl_jax.cli import main
from mmfl_jax.errors import UserError

SMALL = {"workers": 1, "shard_bytes": 1}  # a shard a sample


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    return write_v1(tmp_path_factory.mktemp("v1 é")), write_v2(tmp_path_factory.mktemp("v2 é"))


@pytest.fixture(scope="module")
def copies(trees, tmp_path_factory):
    made = []
    for tree in trees:
        made.append(tmp_path_factory.mktemp("copies") / tree.name)
        assert prepare(f"bigearthnet:{tree}", made[-1], **SMALL)["samples"] == 3
    return made


@pytest.fixture
def v2(trees, tmp_path):
    return Path(shutil.copytree(trees[1], tmp_path / "v2"))


def assert_equal(archive, expected):
    order = np.array([2, 0, 1, 0])
    np.testing.assert_array_equal(archive.labels, expected.labels)
    assert archive.labels.dtype == expected.labels.dtype
    assert list(archive.modalities) == list(expected.modalities)
    for name, values in expected.attributes.items():
        np.testing.assert_array_equal(archive.attributes[name], values)
        assert archive.attributes[name].dtype == values.dtype
    assert (archive.splits is None) == (expected.splits is None)
    assert expected.splits is None or archive.splits.tolist() == expected.splits.tolist()
    for modality, spec in expected.modalities.items():
        np.testing.assert_array_equal(archive.modalities[modality].mean, spec.mean)
        np.testing.assert_array_equal(archive.read(modality, order), expected.read(modality, order))
    np.testing.assert_array_equal(archive.read_labels(order), expected.read_labels(order))


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bands": 12, "resampling": "nearest"},
        {"modalities": ["s2", "s1"], "image_size": 30},
        {"modalities": ["s2"], "image_size": 150, "bands": 12},
        {"modalities": ["s1"]},
    ],
)
def test_the_same_as_the_source(trees, copies, version, options):
    archive = archives.open(f"bigearthnet:{copies[version]}", **options)
    expected = archives.open(f"bigearthnet:{trees[version]}", **options)
    assert_equal(archive, expected)
    assert_equal(pickle.loads(pickle.dumps(archive)), expected)
    assert archive.describe()["path"] == str(copies[version])
    assert archive.describe()["left_out_damaged"] == 0


def test_read_by_the_readers_of_others(trees, copies):
    """Arrays whose places are not known are found by ArrayRecord's reader."""
    archive = archives.open(f"bigearthnet:{copies[1]}")
    places = archive._bands._copy.samples.places
    assert all((values >= 0).all() for values in places.values())
    for values in places.values():
        values[:] = shards.UNKNOWN
    assert_equal(archive, archives.open(f"bigearthnet:{trees[1]}"))


def test_tfds_reads_it(trees, copies):
    expected = archives.open(f"bigearthnet:{trees[1]}", resampling="nearest", bands=12)
    found = tfds.data_source("bigearthnet_mm", data_dir=copies[1])
    assert {split: len(source) for split, source in found.items()} == {"train": 1, "validation": 1, "test": 1}
    names = found["train"].dataset_info.features["labels"].feature.names
    assert tuple(names) == expected.class_names
    for row, split in enumerate(expected.splits):
        example = found[split][0]
        assert example["patch_id"].decode() == expected.attribute("patch_id")[row]
        assert example["country"].decode() == expected.attribute("country")[row]
        assert example["season"].decode() == expected.attribute("season")[row]
        assert [int(label) for label in example["labels"]] == np.flatnonzero(expected.labels[row]).tolist()
        types = {name: str(example[name].dtype) for name in ("s1", "s2_10m", "s2_20m", "s2_60m")}
        assert types == {"s1": "float32", "s2_10m": "uint16", "s2_20m": "uint16", "s2_60m": "uint16"}
        images = {modality: expected.read(modality, np.array([row]))[0] for modality in expected.modalities}
        np.testing.assert_array_equal(np.moveaxis(example["s1"], 0, -1), images["s1"])
        channels = expected.modalities["s2"].channels
        for part, step, bands in (
            ("s2_10m", 1, ("B02", "B08")),
            ("s2_20m", 2, ("B05", "B12")),
            ("s2_60m", 6, ("B01",)),
        ):
            for band, at in zip(bands, (0, -1)):
                np.testing.assert_array_equal(example[part][at], images["s2"][::step, ::step, channels.index(band)])


def test_what_a_copy_keeps(trees, tmp_path):
    prepare(f"bigearthnet:{trees[1]}", tmp_path / "out", modalities=["s2"], bands=10, workers=1)
    archive = archives.open(f"bigearthnet:{tmp_path / 'out'}")
    assert_equal(archive, archives.open(f"bigearthnet:{trees[1]}", modalities=["s2"]))
    with pytest.raises(UserError, match=r"'s1' is no modality .*there are: s2"):
        archives.open(f"bigearthnet:{tmp_path / 'out'}", modalities=["s1"])
    with pytest.raises(UserError, match="was prepared without B01, B09; open it with bands=10"):
        archives.open(f"bigearthnet:{tmp_path / 'out'}", bands=12).read("s2", np.array([0]))
    with pytest.raises(UserError, match="image size 60: copies of BigEarthNet keep each band's own size"):
        prepare(f"bigearthnet:{trees[1]}", tmp_path / "other", image_size=60)
    assert not (tmp_path / "other").exists()


class Fields(Archive):
    """Tiles with land cover, missing values, a sensor that some lack, and attributes of all kinds."""

    def __init__(self, modalities):
        rng = np.random.default_rng(0)
        self.name, self.task, self.class_names, self.class_colors = (
            "fields",
            "pixel",
            ("a", "b"),
            ("#000000", "#ff0000"),
        )
        sizes = {"s1": (7, 5, 2), "dem": (7, 5, 1)}
        self.modalities = {m: ModalitySpec(sizes[m], tuple("xy"[: sizes[m][2]])) for m in modalities or sizes}
        self.images = {m: rng.normal(size=(6, *s)).astype(np.float32) for m, s in sizes.items()}
        self.images["s1"][1, 2:4] = np.nan
        self.images["dem"][4] = np.nan
        self.rasters = rng.choice([0, 1, IGNORED], (6, 7, 5)).astype(np.uint8)
        self.labels = np.stack([(self.rasters == c).sum((1, 2)) for c in range(2)], 1).astype(np.int64)
        days = np.array(["2017-01-01", "NaT"] * 3, "M8[D]")
        self.attributes = {
            "region": np.array(["é", "b"] * 3),
            "height": np.arange(6) / 8,
            "day": days,
            "s1": np.arange(6, dtype=np.int16),
            "note": np.array(["x", None] * 3, object),
        }
        self.splits, self.notes, self.copies = np.array(["train", "test"] * 3), {}, np.arange(6) // 2

    def read(self, modality, indices):
        return self.images[modality][self.checked(modality, indices)]

    def read_labels(self, indices):
        return self.rasters[indices]

    def absent(self, modality):
        return np.arange(6) == 4 if modality == "dem" else None


@pytest.fixture
def fields(monkeypatch):
    monkeypatch.setattr(archives, "_KINDS", dict(archives._KINDS))
    archives.register("fields", "fields")(lambda location, options: Fields(options.modalities))


@pytest.mark.parametrize("workers", [1, 2])
def test_pixels_of_any_archive(fields, tmp_path, workers):
    expected = Fields(None)
    done = prepare("fields", tmp_path, workers=workers, shard_bytes=2 * 7 * 5 * 13)
    assert done["samples"] == 6
    assert done["with_missing_pixels"] == 2
    archive = archives.open(f"fields:{tmp_path}")
    assert_equal(archive, expected)
    assert (archive.task, archive.class_names, archive.class_colors) == ("pixel", ("a", "b"), ("#000000", "#ff0000"))
    assert archive.absent("dem").tolist() == [False] * 4 + [True, False]
    assert archive.absent("s1") is None
    np.testing.assert_array_equal(archive.copies, expected.copies)
    assert archives.open(f"fields:{tmp_path}", samples=2).notes["subset_of"] == 6
    with pytest.raises(UserError, match=r"s1 was prepared at 7 x 5 pixels, not 64; prepare it at 64"):
        archives.open(f"fields:{tmp_path}", image_size=64)
    with pytest.raises(UserError, match=f"a copy of fields; write fields:{tmp_path}"):
        archives.open(f"bigearthnet:{tmp_path}")
    example = tfds.data_source("fields_mm", data_dir=tmp_path)["test"][0]
    np.testing.assert_array_equal(example["labels"], expected.rasters[1])
    np.testing.assert_array_equal(example["s1"], expected.images["s1"][1])
    assert (example["attribute_s1"], example["day"], example["note"]) == (1, b"", b"")


def damage(tree, pattern="*27_55_B05.tif"):
    path = next(tree.rglob(pattern))
    path.write_bytes(path.read_bytes()[:300])
    return path


def test_damaged_patches_are_left_out_and_listed(trees, v2, tmp_path, capsys):
    path = damage(v2)
    main(["prepare", f"bigearthnet:{v2}", "--output", str(tmp_path / "out"), "--quiet"])
    said = capsys.readouterr()
    assert (
        said.err
        == f"mmfl-jax: 1 samples are damaged and left out; {tmp_path / 'out'}/damaged.json says which and why\n"
    )
    assert said.out.startswith("2 samples, 0.00 GB, in ")
    report = json.loads((tmp_path / "out" / "damaged.json").read_text())
    assert report["damaged"] == 1
    assert report["samples"][0]["name"] == path.parent.name
    assert report["samples"][0]["reason"].startswith(f"{path}: cannot be read as a GeoTIFF")
    archive = archives.open(f"bigearthnet:{tmp_path / 'out'}")
    assert archive.describe()["left_out_damaged"] == 1
    expected = archives.open(f"bigearthnet:{trees[1]}")
    assert archive.attribute("patch_id").tolist() == expected.attribute("patch_id")[[0, 2]].tolist()
    np.testing.assert_array_equal(archive.read("s2", np.arange(2)), expected.read("s2", np.array([0, 2])))
    found = tfds.data_source("bigearthnet_mm", data_dir=tmp_path / "out")
    assert {split: len(source) for split, source in found.items()} == {"train": 1, "test": 1}


def test_nothing_can_be_read(v2, tmp_path):
    for path in v2.rglob("*_VV.tif"):
        path.unlink()
    with pytest.raises(UserError, match=r"none of 3 samples can be read, the first as .*_VV\.tif: no such file"):
        prepare(f"bigearthnet:{v2}", tmp_path / "out", **SMALL)
    with pytest.raises(UserError, match=r"the copy is not whole yet; `mmfl-jax prepare bigearthnet:.* goes on"):
        archives.open(f"bigearthnet:{tmp_path / 'out'}")


def test_a_second_call_goes_on(trees, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    whole, written = Writer.write, []

    def stopping(self, shard, told):
        if len(written) == 2:
            shard.path.write_bytes(b"half")  # a kill between the shard and its record
            raise Stop
        whole(self, shard, told)
        written.append(shard.path)

    monkeypatch.setattr(Writer, "write", stopping)
    with pytest.raises(Stop):
        prepare(f"bigearthnet:{trees[1]}", tmp_path, **SMALL)
    monkeypatch.setattr(Writer, "write", whole)
    with pytest.raises(UserError, match="is not whole yet"):
        archives.open(f"bigearthnet:{tmp_path}")
    before, told = [path.stat().st_ino for path in written], []
    prepare(f"bigearthnet:{trees[1]}", tmp_path, **SMALL, progress=lambda *done: told.append(done))
    assert told == [(2, 3), (3, 3)]
    assert [path.stat().st_ino for path in written] == before
    assert_equal(archives.open(f"bigearthnet:{tmp_path}"), archives.open(f"bigearthnet:{trees[1]}"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "bigearthnet_mm",
        "damaged.json",
        "prepared.json",
        "samples.parquet",
    }


COMMAND = "from mmfl_jax.archives.prepared.prepare import prepare\nif __name__ == '__main__':\n    "


def start(code, tmp_path, **options):
    script = tmp_path / "script.py"
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, script], start_new_session=True, stderr=subprocess.PIPE, text=True, **options
    )


def test_killed_with_its_workers(trees, v2, tmp_path):
    output = tmp_path / "out"
    path = next(v2.rglob("*57_38_B12.tif"))
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)  # opening it waits for ever
    code = f"prepare({f'bigearthnet:{v2}'!r}, {str(output)!r}, workers=2, shard_bytes=1)"
    process = start(COMMAND + code, tmp_path)
    until(lambda: len(list((output / "unfinished").glob("*.json"))) == 2)
    process.kill()
    process.communicate()
    until(lambda: not alive(process.pid))
    path.unlink()
    path.write_bytes(content)
    assert prepare(f"bigearthnet:{v2}", output, workers=2, shard_bytes=1)["damaged"] == 0
    assert_equal(archives.open(f"bigearthnet:{output}"), archives.open(f"bigearthnet:{trees[1]}"))


def until(happened):
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_disk_full(trees, tmp_path):
    output, reference = tmp_path / "out", f"bigearthnet:{trees[1]}"
    code = (
        "import resource, sys\nfrom mmfl_jax.cli import main\nif __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))\n"
        f"    main(['prepare', {reference!r}, '--output', {str(output)!r}, '--quiet'])"
    )
    process = start(code, tmp_path)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert len(said.splitlines()) == 1
    assert "cannot be written (write() failed: File too large" in said
    assert not list((output / "unfinished").iterdir())
    assert not list(output.rglob("*.part"))
    with pytest.raises(UserError, match="is not whole yet"):
        archives.open(f"bigearthnet:{output}")
    assert prepare(reference, output, workers=1)["samples"] == 3


def test_workers_import_no_jax(trees, tmp_path):
    code = """import sys

class Absent:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("jax", "flax"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
"""
    call = f"prepare({f'bigearthnet:{trees[1]}'!r}, {str(tmp_path / 'out')!r}, workers=2, shard_bytes=1)"
    process = start(code + COMMAND + call, tmp_path)
    assert process.communicate(timeout=120)[1] == ""
    assert process.returncode == 0


def refused(message, *arguments, **options):
    with pytest.raises(UserError, match=message) as caught:
        prepare(*arguments, **SMALL, **options)
    assert "\n" not in str(caught.value)


def test_refusals(trees, copies, v2, tmp_path):
    reference, output = f"bigearthnet:{v2}", tmp_path / "out"
    refused("no such folder", f"bigearthnet:{tmp_path / 'none'}", output)
    refused("'bigearthnets' is no kind of archive", "bigearthnets:x", output)
    refused("lies inside the source", reference, v2 / "copy")
    refused("lies inside the source", reference, v2)
    refused("is a prepared copy itself", f"bigearthnet:{copies[1]}", output)
    assert not output.exists()
    output.write_text("")
    refused("out: is a file; --output names a directory", reference, output)
    output.unlink()
    output.mkdir()
    (output / "mine").write_text("")
    refused("holds 'mine' and is no prepared copy; name a new or an empty directory", reference, output)
    (output / "mine").unlink()
    prepare(reference, output, **SMALL)
    inode = (output / "prepared.json").stat().st_ino
    prepare(reference, output, **SMALL)  # is done
    assert (output / "prepared.json").stat().st_ino == inode
    refused("holds a copy of bigearthnet:.*v2, not of bigearthnet:.*; name another", f"bigearthnet:{trees[0]}", output)
    refused("was begun with other options", reference, output, bands=10)
    refused("was begun with other options", reference, output, modalities=["s1"])
    shutil.rmtree(next((v2 / "BigEarthNet-S2").glob("*/*")))
    refused("its source .*v2 has changed since", reference, output)


@pytest.mark.parametrize("what", ["shard", "no shard", "manifest", "format", "table"])
def test_copies_that_are_damaged(copies, tmp_path, what):
    copy = Path(shutil.copytree(copies[1], tmp_path / "copy"))
    shard, manifest, table = next(copy.rglob("*record-*")), copy / "prepared.json", copy / "samples.parquet"
    message = {
        "shard": r"record-00000-of-00001: 1000 bytes, not \d+; prepare the archive again",
        "no shard": "record-00000-of-00001: missing; prepare the archive again",
        "manifest": r"prepared\.json: cannot be read as a prepared copy's manifest",
        "format": r"prepared\.json: format 9; this version reads 1, prepare the archive again",
        "table": r"samples\.parquet: cannot be read \(.*\); prepare the archive again",
    }[what]
    if what == "shard":
        shard.write_bytes(shard.read_bytes()[:1000])
    elif what == "no shard":
        shard.unlink()
    elif what == "table":
        table.write_bytes(table.read_bytes()[:-30])
    else:
        content = manifest.read_text()
        manifest.write_text(content[:200] if what == "manifest" else content.replace('"format": 1', '"format": 9'))
    with pytest.raises(UserError, match=message) as caught:
        archives.open(f"bigearthnet:{copy}")
    assert "\n" not in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 200_000), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_records_are_found_where_they_lie(tmp_path_factory, sizes, seed):
    from array_record.python.array_record_module import ArrayRecordWriter

    path = tmp_path_factory.mktemp("records") / "shard"
    rng = np.random.default_rng(seed)
    # Some are of one value: the beginning of each is the beginning of all.
    arrays = [rng.integers(0, 256 if n % 2 else 1, size, dtype=np.uint8) for n, size in enumerate(sizes)]
    writer = ArrayRecordWriter(str(path), shards.WRITER_OPTIONS)
    for array in arrays:
        writer.write(array.tobytes())
    writer.close()
    places = shards.locate(path, [array.tobytes() for array in arrays])
    assert shards.UNKNOWN not in places
    for place, array in zip(places, arrays):
        found = np.empty_like(array)
        shards.read_into(str(path), [(place, found)])
        np.testing.assert_array_equal(found, array)
