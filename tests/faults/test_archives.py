"""Archives that are wrong in some way: what each is answered with, in one line."""

import struct
import time
import zipfile

import numpy as np
import pytest

from mmfl_jax import archives
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
    assert "label of 2000 samples in 2000 classes: 3.8 MiB of memory needed, this machine" in refusal(reference)


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
