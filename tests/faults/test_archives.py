"""Archives that are wrong in some way: what each is answered with, in one line."""

import json
import shutil
import struct
import time
import warnings
import zipfile

import geotiffs
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.errors import NotGeoreferencedWarning

from mmfl_jax import archives
from mmfl_jax.archives.bigearthnet.geotiffs import read_band
from mmfl_jax.errors import UserError

ROWS = 6


def refusal(reference, **options):
    """Return the line that an archive is refused with; it takes no longer than a few seconds."""
    begin = time.monotonic()
    with pytest.raises(UserError) as caught:
        archives.open(reference, **options)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 5
    return str(caught.value)


def columns(**changes):
    rng = np.random.default_rng(0)
    whole = {
        "series": rng.normal(size=(ROWS, 5, 2)).astype(np.float32),
        "label": np.array([0, 1, 2, 0, 1, 2]),
        "region": np.array(list("aabbcc")),
    }
    return {key: column for key, column in {**whole, **changes}.items() if column is not None}


def save(folder, **changes):
    np.savez(folder / "archive.npz", **columns(**changes))
    return f"arrays:{folder / 'archive.npz'}"


def but(value, row=2, start=0.5, shape=(ROWS, 5, 2), dtype=np.float32):
    """Return an array with one odd value."""
    array = np.full(shape, start, dtype)
    array[(row, *[0] * (len(shape) - 1))] = value
    return array


LABELS = [0, 1, 2, 0, 1, 2]
ARRAYS = {
    "a label of no class": ({"label": np.array([0, 1, 2, 0, 1, 255])}, "label holds 255, but 252 of the 256 classes"),
    "a label of many classes": ({"label": np.array([0, 1, 2, 0, 1, 300_000])}, "label holds 300000, but 299997 of the"),
    "a label beyond 32 bits": ({"label": np.array([*LABELS[:5], 2**31 + 1])}, "label holds 2147483649, but 2147483646"),
    "a label beyond 63 bits": (
        {"label": np.array([*LABELS[:5], 2**64 - 1], np.uint64)},
        "label holds 1844674407370955",
    ),
    "one class": ({"label": np.full(ROWS, 1)}, "label holds class 1 alone; at least two classes are needed"),
    "all-zero multi-hot": ({"label": np.zeros((ROWS, 3), int)}, "label holds 0 throughout; at least two classes"),
    "all-one multi-hot": ({"label": np.ones((ROWS, 3), int)}, "label holds 1 throughout; at least two classes"),
    "a class without a name": ({"class_names": np.array(["a", " ", "c"])}, "class_names holds ' ' for class 1; every"),
    "a class name twice": ({"class_names": np.array(["a", "b", "a"])}, "class_names holds 'a' for classes 0 and 2"),
    "a class name of two lines": (
        {"class_names": np.array(["a", "b\nc", "d"])},
        r"class_names holds 'b\nc' for class 1",
    ),
    "class names of numbers": ({"class_names": np.array([0.5, 1, np.nan])}, "class_names is float64 (3,); a list of"),
    "NaN in an attribute": ({"height": but(np.nan, shape=(ROWS,))}, "attribute 'height' has no value in row 2 (nan)"),
    "an infinite attribute": ({"height": but(np.inf, shape=(ROWS,))}, "attribute 'height' has no value in row 2 (inf)"),
    "an empty attribute": ({"region": np.array(list("aab cc"))}, "attribute 'region' has no value in row 3 ( );"),
    "no date": (
        {"day": np.array(["2017-01-01"] * 5 + ["NaT"], "M8[D]")},
        "attribute 'day' has no value in row 5 (NaT)",
    ),
    "an attribute of bytes": (
        {"region": np.array(list("aabbcc"), "S1")},
        "attribute 'region' holds |S1; texts, numbers",
    ),
    "an attribute of records": ({"region": np.zeros(ROWS, "i4,i4")}, "array 'region' holds [('f0', '<i4')"),
    "an attribute without a name": ({"": np.arange(ROWS)}, "an attribute is called ''; it needs a name"),
    "a modality like a set": ({"s1+s2": np.ones((ROWS, 2))}, "modality 's1+s2'; names are made of letters, digits"),
    "a modality without a name": ({"": np.ones((ROWS, 2))}, "modality ''; names are made of letters, digits"),
    "a modality like a list": ({"s1,s2": np.ones((ROWS, 2))}, "modality 's1,s2'; names are made of letters, digits"),
    "five axes": ({"cube": np.ones((ROWS, 1, 2, 2, 2))}, "modality 'cube' has 5 axes (6, 1, 2, 2, 2); at most four"),
    "infinite": ({"series": but(np.inf)}, "'series' holds infinite values, 1 of 60 numbers, the first inf in row 2"),
    "minus infinite": ({"series": but(-np.inf)}, "'series' holds infinite values, 1 of 60 numbers, the first -inf"),
    "1e38": ({"series": but(1e38)}, "'series' holds fill values, 1 of 60 numbers, the first 1e+38 in row 2; missing"),
    "float64's largest": ({"series": but(1e308, dtype=np.float64)}, "'series' holds fill values, 1 of 60 numbers"),
    "float16's infinity": ({"series": but(np.inf, dtype=np.float16)}, "'series' holds infinite values, 1 of 60"),
    "complex": ({"series": np.ones((ROWS, 2), complex)}, "array 'series' holds complex128; real numbers or texts"),
    "texts": ({"series": np.array([["a"]] * ROWS)}, "modality 'series' holds <U1; numbers are needed"),
    "a split of bytes": ({"split": np.array(["train"] * 6, "S5")}, "split holds [b'train']; each must be one of"),
    "a split of two axes": ({"split": np.array([["train"] * 2] * 6)}, "split holds []; each must be one of"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(tmp_path, case):
    changes, message = ARRAYS[case]
    reference = save(tmp_path, **changes)
    line = refusal(reference)
    assert line.startswith(reference.removeprefix("arrays:"))
    assert message in line


def test_empty_classes_are_fine_where_they_have_names(tmp_path):
    archive = archives.open(save(tmp_path, class_names=np.array(list("abcd"))))
    assert archive.class_names == tuple("abcd")


def claim(shape, dtype="<f4"):
    """Return the bytes of an array's file whose header claims a shape, and which ends there."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("series", (10**13, 5, 2), "array 'series' of shape (10000000000000, 5, 2): 364 TiB of memory needed, this"),
        ("label", (10**13,), "array 'label' of shape (10000000000000,): 36.4 TiB of memory needed, this machine has"),
        ("series", (10**400, 5, 2), "of memory needed, this machine has"),
        ("series", (6, 5, 2), "array 'series' of shape (6, 5, 2) is 240 bytes, its file has 0 bytes"),
        ("series", (-6, 5, 2), "array 'series' of shape (-6, 5, 2) is"),
    ],
)
def test_headers_that_claim_more_than_there_is(tmp_path, name, shape, message):
    reference = save(tmp_path, **{name: None})
    with zipfile.ZipFile(tmp_path / "archive.npz", "a") as file:
        file.writestr(f"{name}.npy", claim(shape))
    assert message in refusal(reference)


def test_zeros_that_unpack_to_more_than_the_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr("mmfl_jax.memory.available_bytes", lambda: 2**20)
    np.savez_compressed(tmp_path / "archive.npz", **columns(series=np.zeros((ROWS, 1000, 60))))
    assert (tmp_path / "archive.npz").stat().st_size < 10_000
    assert "array 'series' of shape (6, 1000, 60): 2.7 MiB of memory needed, this machine has 1.0 MiB" in refusal(
        f"arrays:{tmp_path / 'archive.npz'}"
    )


def test_labels_that_take_more_than_the_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr("mmfl_jax.memory.available_bytes", lambda: 2**20)
    reference = save(tmp_path, series=np.ones((2000, 1)), label=np.arange(2000), region=None)
    assert "label of 2000 samples in 2000 classes: 30.5 MiB of memory needed, this machine" in refusal(reference)


def test_300000_classes_take_more_than_most_machines_have(tmp_path, monkeypatch):
    monkeypatch.setattr("mmfl_jax.memory.available_bytes", lambda: 64 * 2**30)
    names = np.arange(300_001)
    line = refusal(save(tmp_path, label=np.array([0, 1, 2, 0, 1, 300_000]), class_names=names))
    assert "label of 6 samples in 300001 classes: 671 GiB of memory needed, this machine has 64.0 GiB" in line


def patch(path, signature, offset, value):
    """Change the bytes at an offset behind the last signature in a file."""
    content = bytearray(path.read_bytes())
    at = content.rindex(signature) + offset
    content[at : at + len(value)] = value
    path.write_bytes(content)


def test_members_that_cannot_be_read(tmp_path):
    path = tmp_path / "archive.npz"
    reference = save(tmp_path)
    patch(path, b"PK\x01\x02", 8, b"\x01\x00")  # general purpose flag: encrypted
    assert "array 'region' is encrypted" in refusal(reference)
    save(tmp_path)
    patch(path, b"PK\x01\x02", 10, b"\x63\x00")  # method 99
    patch(path, b"PK\x03\x04", 8, b"\x63\x00")
    assert "array 'region' cannot be read, damaged (That compression method is not supported)" in refusal(reference)
    save(tmp_path)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("region.npy", file.read("region.npy"))
    assert "array 'region' is there 2 times" in refusal(reference)
    save(tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("readme.txt", "no array")
    assert "member 'readme.txt' is not a NumPy array" in refusal(reference)
    save(tmp_path)
    content = path.read_bytes()
    at = content.index(b"series.npy") + 200
    path.write_bytes(content[:at] + b"\xff" * 8 + content[at + 8 :])
    assert "array 'series' cannot be read, damaged (Bad CRC-32" in refusal(reference)


def test_paths_that_are_none(tmp_path):
    for location in ("a" * 5000, "a\0b", str(tmp_path), "/dev/null", "\udcff"):
        assert "file" in refusal(f"arrays:{location}")


def bare(directory, version):
    """Write a tree without its images, which are not looked at when an archive is opened."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(geotiffs, "write_band", lambda path, *_: path.parent.mkdir(parents=True, exist_ok=True))
        return {"v1": geotiffs.write_v1, "v2": geotiffs.write_v2}[version](directory)


@pytest.fixture
def v1(tmp_path):
    return bare(tmp_path, "v1")


@pytest.fixture
def v2(tmp_path):
    return bare(tmp_path, "v2")


RIGHT = "right is S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
FIRST, SECOND, THIRD = (name for name, *_ in geotiffs.V2_PATCHES)
METADATA = {
    "no patch": ({"patch_id": None}, f"column 'patch_id', row 1: holds nothing; {RIGHT}"),
    "another name": ({"patch_id": "33UUP_1"}, f"column 'patch_id', row 1: holds '33UUP_1'; {RIGHT}"),
    "no such month": (
        {"patch_id": SECOND.replace("0613", "1313")},
        "column 'patch_id', row 1: holds 'S2A_MSIL2A_20171313T",
    ),
    "no split": ({"split": None}, "column 'split', row 1: holds nothing; right is train or validation or test"),
    "another split": ({"split": "val"}, "column 'split', row 1: holds 'val'; right is train or validation or test"),
    "no country": ({"country": None}, "column 'country', row 1: holds nothing; right is Portugal, Ireland"),
    "another country": ({"country": "Atlantis"}, "column 'country', row 1: holds 'Atlantis'; right is Portugal"),
    "an empty country": ({"country": ""}, "column 'country', row 1: holds ''; right is Portugal"),
    "no pair": ({"s1_name": None}, "column 's1_name', row 1: holds nothing; right is S1B_IW_GRDH_1SDV_"),
    "a pair elsewhere": (
        {"s1_name": "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_28_55"},
        f"column 's1_name', row 1: S1A_IW_GRDH_1SDV_20170613T165043_33UUP_28_55 is no pair of {SECOND}, it lies else",
    ),
    "no name of v1": ({"s2v1_name": None}, "column 's2v1_name', row 1: holds nothing; right is S2A_MSIL2A_2017"),
    "no labels": ({"labels": None}, "column 'labels', row 1: holds nothing; a list of labels is needed"),
    "a label that is nothing": (
        {"labels": ["Pastures", None]},
        "column 'labels', row 1: holds a label that is nothing",
    ),
    "another label": ({"labels": ["Lava"]}, "column 'labels', row 1: label 'Lava' is none of BigEarthNet's classes"),
    "the same patch twice": (
        {"patch_id": FIRST, "s1_name": "S1B_IW_GRDH_1SDV_20170613T165043_33UUP_26_57"},
        f"column 'patch_id': 1 patches are named by several rows, such as {FIRST}",
    ),
    "two patches of one pair": (
        {
            "patch_id": FIRST.replace("0613", "0614"),
            "s1_name": geotiffs.s1_name(FIRST, "33UUP"),
        },
        "column 's1_name': 1 patches are named by several rows, such as S1A_IW_GRDH_1SDV_20170613T165043_33UUP_26_57",
    ),
}


def rewrite(directory, change):
    path = directory / "metadata.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(change(table), path)
    return f"bigearthnet:{directory}"


@pytest.mark.parametrize("case", METADATA)
def test_metadata(v2, case):
    changes, message = METADATA[case]

    def change(table):
        rows = table.to_pylist()
        rows[1] |= changes
        return pyarrow.Table.from_pylist(rows, table.schema)

    assert f"{v2}/metadata.parquet: {message}" in refusal(rewrite(v2, change))


def replaced(name, values):
    return lambda table: table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("country", pyarrow.array([1, 2, 3])), "column 'country' holds int64; texts such as Portugal"),
        (replaced("labels", pyarrow.array(["a", "b", "c"])), "column 'labels' holds string; lists of texts"),
        (replaced("labels", pyarrow.array([[1], [2], [3]])), "column 'labels' holds lists of int64; lists of texts"),
        (replaced("labels", pyarrow.array([[["a"]]] * 3)), "column 'labels' holds lists of list<"),
        (replaced("labels", pyarrow.array([[], [], []])), "no patch is left of 3"),
        (lambda table: table.drop_columns(["split"]), "column 'split' is missing; found: patch_id"),
        (
            lambda table: table.append_column("split", table["split"]),
            "column 'split' is there 2 times; found: patch_id",
        ),
        (lambda table: table.slice(0, 0), "none of the 3 s1 patches has a row in metadata.parquet"),
    ],
)
def test_metadata_of_other_types(v2, change, message):
    assert message in refusal(rewrite(v2, change))


def test_texts_coded_by_number_are_texts(v2):
    coded = lambda table: table.set_column(3, "country", table["country"].dictionary_encode())
    assert archives.open(rewrite(v2, coded)).attribute("country").tolist() == ["Austria", "Austria", "Finland"]


def test_texts_that_are_no_utf8(v2):
    path = v2 / "metadata.parquet"
    path.write_bytes(path.read_bytes().replace(b"Austria", b"Austr\xe9a"))
    assert "metadata.parquet: cannot be read as a parquet file (Column 3: In chunk 0: Invalid: Invalid UTF8" in refusal(
        f"bigearthnet:{v2}"
    )


def test_the_same_patch_in_two_scenes(v2):
    shutil.copytree(next((v2 / "BigEarthNet-S2").iterdir()), v2 / "BigEarthNet-S2" / "S2A_copy")
    assert ": the same patch is in" in refusal(f"bigearthnet:{v2}")


JSON = {
    "nested lists": ({"labels": [["Mixed forest"]]}, "labels holds ['Mixed forest']; a text is needed"),
    "numbers": ({"labels": [5]}, "labels holds 5; a text is needed"),
    "nothing": ({"labels": None}, "no list of labels"),
    "another pair": ({"corresponding_s2_patch": "../x"}, "corresponding_s2_patch is '../x', which no patch of v1 is"),
    "pairs": ({"corresponding_s2_patch": ["a"]}, "corresponding_s2_patch is \"['a']\", which no patch of v1 is called"),
    "no pair": ({"corresponding_s2_patch": None}, "no corresponding_s2_patch"),
    "a source of numbers": ({"tile_source": 3}, "tile_source holds 3; a text is needed"),
    "not closed": (b'{"labels": [', "cannot be read as json"),
    "deep": (b"[" * 100_000, "cannot be read as json"),
    "Latin-1": ('{"labels": ["Forêt"]}'.encode("latin-1"), "cannot be read as json"),
    "NaN": (b"NaN", "no list of labels"),
}


@pytest.mark.parametrize("case", JSON)
def test_json(v1, case):
    change, message = JSON[case]
    path = next(v1.glob("BigEarthNet-S1-v1.0/*87_48/*.json"))
    path.write_bytes(
        change if isinstance(change, bytes) else json.dumps(json.loads(path.read_text()) | change).encode()
    )
    assert f"{path}: {message}" in refusal(f"bigearthnet:{v1}")


def test_two_patches_of_one_sensor_for_one_of_the_other(v1):
    pair = geotiffs.V1_PATCHES[0][0]
    for path in v1.glob("BigEarthNet-S1-v1.0/*/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"corresponding_s2_patch": pair}))
    line = refusal(f"bigearthnet:{v1}")
    assert f"2 Sentinel-2 patches are named by two Sentinel-1 patches, such as {pair} is the pair of S1A" in line


LISTS = {
    "the same patch on both sides": (
        [0, 1],
        [1, 2],
        "test.csv: 1 patches are in train.csv as well, such as S2B_MSIL2A",
    ),
    "Latin-1": ([0], "Forêt\n".encode("latin-1"), "test.csv: not in UTF-8 (byte 0xea after row 0); save it as UTF-8"),
    "another table": ([0], b"a;b;c\n", "test.csv: row 1 holds 'a;b;c', which no patch of v1 is called"),
    "a zero byte": ([0], b"\0\n", "test.csv: "),
    "a long field": ([0], b"a" * 200_000, "test.csv: cannot be read as csv (field larger than field limit (131072))"),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists(v1, case):
    *contents, message = LISTS[case]
    for name, content in zip(("train.csv", "test.csv"), contents):
        if not isinstance(content, bytes):
            content = "".join(f"{geotiffs.V1_PATCHES[number][0]},other\n" for number in content).encode()
        (v1 / name).write_bytes(content)
    assert message in refusal(f"bigearthnet:{v1}")


def test_folders_of_other_names(v1):
    folder = next(v1.glob("BigEarthNet-v1.0/*"))
    (folder.parent / "S2A_new_patch").mkdir()
    assert "BigEarthNet-v1.0/S2A_new_patch': no patch of v1 is called so; such as S2A_" in refusal(f"bigearthnet:{v1}")


def test_links_that_lead_nowhere(v1):
    loop = v1 / "BigEarthNet-v1.0" / geotiffs.V1_PATCHES[0][0].replace("87", "88")
    loop.symlink_to(loop)
    assert "BigEarthNet-v1.0: cannot be listed (Too many levels of symbolic links)" in refusal(f"bigearthnet:{v1}")


def write_tif(path, pixels, count=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        height, width = pixels.shape
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype
        ) as file:
            for band in range(count):
                file.write(pixels, band + 1)
    return str(path)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e38, -3.4e38])
def test_pixels_that_are_no_measurements_are_missing_and_counted(tmp_path, odd):
    directory = geotiffs.write_v1(tmp_path, geotiffs.V1_PATCHES[:1])
    path = next(directory.glob("BigEarthNet-S1-v1.0/*/*_VH.tif"))
    pixels = np.full((120, 120), -15, np.float32)
    pixels[3, 5:8] = odd
    write_tif(path, pixels)
    archive = archives.open(f"bigearthnet:{directory}", modalities=["s1"])
    with pytest.warns(UserWarning, match=rf"1 files have pixels that are no measurements .*first {path} with 3"):
        images = archive.read("s1", np.array([0]))
    assert np.argwhere(np.isnan(images[0])).tolist() == [[3, 5, 1], [3, 6, 1], [3, 7, 1]]
    archive.read("s1", np.array([0]))  # said once
    assert archive.describe()["missing_pixels"] == {"files": 1, "pixels": 3}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_files_of_other_pixels(tmp_path):
    pixels = np.ones((60, 60), np.float32)
    three = write_tif(tmp_path / "three.tif", pixels, count=3)
    with pytest.raises(UserError, match=r"three\.tif: 3 bands in the file, this is of one band"):
        read_band(three, 60)
    with pytest.raises(UserError, match=r"complex\.tif: pixels are complex64; real numbers are needed"):
        read_band(write_tif(tmp_path / "complex.tif", pixels.astype(np.complex64)), 60)


COLUMN = st.one_of(
    hnp.arrays(hnp.scalar_dtypes() | hnp.unicode_string_dtypes(max_len=3), st.sampled_from([(4,), (4, 3)])),
    hnp.arrays(hnp.floating_dtypes(), hnp.array_shapes(max_dims=5, max_side=4)),
    hnp.arrays(hnp.nested_dtypes(max_leaves=2), (4,)),
    hnp.arrays(hnp.integer_dtypes() | hnp.unsigned_integer_dtypes(), st.just(4)),
    hnp.arrays(bool, (4, 3)),
)


@settings(max_examples=60, deadline=None)
@given(
    named=st.dictionaries(st.sampled_from(["label", "class_names", "split", "s1", "s2", "region", "", "+"]), COLUMN),
    good=st.lists(st.sampled_from(["label", "s1", "split"]), unique=True),
)
@pytest.mark.filterwarnings("ignore")
def test_any_columns(tmp_path_factory, named, good):
    """What is right is read, and its images are numbers; all else is refused."""
    right = {"label": [0, 1, 0, 1], "s1": np.arange(12.0).reshape(4, 3), "split": ["train", "train", "test", "test"]}
    path = tmp_path_factory.mktemp("any") / "archive.npz"
    np.savez(path, **named | {name: np.array(right[name]) for name in good})
    try:
        archive = archives.open(f"arrays:{path}")
    except UserError as error:
        lines = str(error).splitlines()
    else:
        lines = [json.dumps(archive.describe())]
        assert not any(np.isinf(archive.read(m, np.arange(len(archive)))).any() for m in archive.modalities)
        assert archive.labels.max() < len(archive.class_names)
        assert all(len(values) == len(archive) for values in archive.attributes.values())
    assert len(lines) == 1
