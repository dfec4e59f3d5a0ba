"""BigEarthNet in the LMDB of rico-hdl."""

import pickle
import shutil
import sys

import lmdb
import numpy as np
import pytest
import safetensors.numpy
from geotiffs import V2_PATCHES, write_v2
from lmdbs import bands_of, write_lmdb

from mmfl_jax import archives
from mmfl_jax.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_v2(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def patches(tree):
    return {folder.name: bands_of(folder) for folder in tree.glob("BigEarthNet-S?/*/*")}


@pytest.fixture
def make(tree, tmp_path):
    """Return the function that writes an LMDB, with the metadata beside it, and tells its reference."""

    def make(patches, name="BigEarthNet é"):
        write_lmdb(tmp_path / name / "Encoded-BigEarthNet", patches)
        shutil.copy(tree / "metadata.parquet", tmp_path / name)
        return f"bigearthnet:{tmp_path / name}"

    return make


@pytest.mark.parametrize("options", [{}, {"bands": 12, "resampling": "nearest", "modalities": ["s2", "s1"]}])
def test_the_same_as_the_tree(tree, make, patches, options):
    maps = {f"{name}_reference_map": {"Data": np.ones((120, 120), np.uint16)} for name in list(patches)[:1]}
    archive = archives.open(make(patches | maps), **options)
    expected = archives.open(f"bigearthnet:{tree}", **options)
    assert archive.describe() | {"path": ""} == expected.describe() | {"path": ""}
    np.testing.assert_array_equal(archive.labels, expected.labels)
    for modality in expected.modalities:
        for one in (archive, pickle.loads(pickle.dumps(archive))):
            order = np.array([2, 0, 1, 0])
            np.testing.assert_array_equal(one.read(modality, order), expected.read(modality, order))


def test_the_folder_itself(tree, patches, tmp_path):
    folder = write_lmdb(tmp_path / "db", patches)
    with pytest.raises(UserError, match=r"metadata\.parquet: no such file"):
        archives.open(f"bigearthnet:{folder}")
    shutil.copy(tree / "metadata.parquet", folder)
    assert len(archives.open(f"bigearthnet:{folder}")) == 3


def test_missing_keys_are_left_out(make, patches):
    lacking = {name: bands for name, bands in patches.items() if name != V2_PATCHES[1][0]}
    archive = archives.open(make(lacking))
    assert archive.attribute("patch_id").tolist() == [V2_PATCHES[0][0], V2_PATCHES[2][0]]
    assert archive.describe()["left_out_unpaired"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bands: {k: v for k, v in bands.items() if k != "B05"}, "no band B05; there are B01, B02"),
        (lambda bands: bands | {"B05": bands["B02"]}, r"B05 has shape \[120, 120\]; right is \[60, 60\]"),
        (lambda bands: bands | {"B05": bands["B05"] > 0}, "B05 holds bool; real numbers are needed"),
    ],
)
def test_bands_that_are_wrong(make, patches, change, message):
    name = V2_PATCHES[1][0]
    archive = archives.open(make(patches | {name: change(patches[name])}))
    with pytest.raises(UserError, match=f"Encoded-BigEarthNet: {name}: {message}"):
        archive.read("s2", np.array([1]))
    archive.read("s2", np.array([0, 2]))


def test_pixels_that_are_no_measurements_are_missing(make, patches):
    name = next(name for name in patches if name.startswith("S1"))
    odd = patches[name]["VH"].copy()
    odd[3, 5] = np.inf
    archive = archives.open(make(patches | {name: patches[name] | {"VH": odd}}), modalities=["s1"])
    with pytest.warns(UserWarning, match=rf"1 files have pixels .*first .*{name}: VH with 1"):
        images = archive.read("s1", np.arange(3))
    assert np.argwhere(np.isnan(images))[:, 1:].tolist() == [[3, 5, 1]]


def test_databases_that_are_wrong(make, patches, tmp_path, monkeypatch):
    reference = make(patches, "cut")
    path = tmp_path / "cut" / "Encoded-BigEarthNet" / "data.mdb"
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"data\.mdb: cut short, \d+ bytes of \d+; copy it again"):
        archives.open(reference)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="cannot be read as an LMDB"):
        archives.open(reference)
    reference = make({"other": {"a": np.ones(1)}}, "strange")
    with pytest.raises(UserError, match="has no key that begins with S1 or S2"):
        archives.open(reference)
    reference = make(patches, "two")
    write_lmdb(tmp_path / "two" / "second", patches)
    with pytest.raises(UserError, match="holds 2 LMDBs, Encoded-BigEarthNet and second; name one of them"):
        archives.open(reference)
    with lmdb.open(str(tmp_path / "two" / "second")) as database, database.begin(write=True) as transaction:
        transaction.put(V2_PATCHES[0][0].encode(), safetensors.numpy.save(patches[V2_PATCHES[0][0]])[:999])
    shutil.copy(tmp_path / "two" / "metadata.parquet", tmp_path / "two" / "second")
    with pytest.raises(UserError, match=f"second: {V2_PATCHES[0][0]}: no safetensors, or damaged"):
        archives.open(f"bigearthnet:{tmp_path / 'two' / 'second'}").read("s2", np.arange(3))
    reference = make(patches, "third")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"an LMDB is read by lmdb; pip install 'mmfl_jax\[lmdb\]'"):
        archives.open(reference)
