"""Tiles that are not alike, not of one place or damaged: one clear line each."""

import shutil
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasters import NAMES, cut_short, image, labels, refusal, tree, write

from mmfl_jax import archives
from mmfl_jax.errors import UserError


def opened(root, **options):
    return archives.open(f"tiles:{root}", **options)


def error(root, **options):
    return refusal(f"tiles:{root}", **options)


def everything(archive):
    return np.arange(len(archive))


def spoil(root, what):
    """Spoil one thing of a tree of tiles, and return the line that says so."""
    s1, label, far = root / "S1" / "east.tif", root / "labels" / "east.tif", (900000, 5000000)
    here = (501000, 5000000)
    local = 'LOCAL_CS["a field",UNIT["metre",1]]'
    match what:
        case "no overlap":
            write(s1, image(0), origin=far)
            return f"{s1}: does not overlap with its labels in {label}; are the files of one place?"
        case "no way between":
            write(s1, image(0), origin=here, crs=local)
            return (
                f"{s1}: cannot be brought to its labels in {label}: its coordinate reference system cannot be brought"
            )
        case "another hemisphere":
            write(s1, image(0), origin=(15, -1), step=0.001, crs="EPSG:4326")
            return f"{s1}: does not overlap with its labels in {label}"
        case "no reference system":
            write(s1, image(0), origin=here, crs=None)
            return "a coordinate reference system in the labels and none in the image; both or neither must have one"
        case "no georeference":
            write(label, labels(0), origin=None)
            return (
                f"{s1}: cannot be brought to its labels in {label}: a georeference in the image and none in the labels"
            )
        case "size":
            for path in (s1, root / "S2" / "east.tif"):
                write(path, image(0, 2 if path == s1 else 3, dtype="float32" if path == s1 else "uint16"), origin=None)
            write(label, labels(0, 17, 15), origin=None)
            write(root / "labels" / "north.tif", labels(0, 17, 15))
            write(root / "labels" / "south.tif", labels(0, 17, 15), origin=(502000, 5000000))
            write(root / "labels" / "west.tif", labels(0, 17, 15), origin=(503000, 5000000))
            return (
                "16 x 16 pixels for labels of 17 x 15, neither with a georeference; sizes must be equal, or one a multi"
            )
        case "sizes":
            write(label, labels(0, 20, 24), origin=here)
            return (
                f"16 x 16 pixels, but 20 x 24 in {label}; tiles of several sizes have to be cut into blocks, such as im"
            )
        case "bands":
            write(s1, image(0, 3), origin=here)
            return f"{root}/S1/north.tif: bands 2, but 3 in {s1}; all files of a modality are alike"
        case "dtype":
            write(s1, image(0).astype(np.float64), origin=here)
            return f"{root}/S1/north.tif: pixels float32, but float64 in {s1}"
        case "complex":
            write(s1, image(0).astype(np.complex64), origin=here)
            return f"{s1}: pixels are complex64; real numbers are needed"
        case "labels of floats":
            write(label, image(0, 1), origin=here)
            return f"{label}: labels are float32; class numbers are integers"
        case "labels of bands":
            write(label, image(0, 3, dtype="uint8"), origin=here)
            return f"{label}: 3 bands; labels are one band of class numbers"
        case "twice":
            shutil.copy(s1, s1.with_suffix(".tiff"))
            return f"{s1}f: {s1} has the same name; take one of them away"
        case "ignored":
            for path in (root / "labels").iterdir():
                write(path, np.full((16, 16), 255, np.uint8))
            return f"{root}: all pixels of 4 label rasters are ignored (255); two classes are needed"
        case "nodata":
            for path in (root / "labels").iterdir():
                write(path, np.full((16, 16), 3, np.uint8), nodata=3)
            return f"{root}: all pixels of 4 label rasters are ignored (nodata); two classes are needed"
        case "one class":
            for path in (root / "labels").iterdir():
                write(path, np.full((16, 16), 3, np.uint8))
            return f"{root}: one class alone in the label rasters, 'class 3'; two are needed"
        case "no classes":
            write(label, np.arange(400, dtype=np.uint16).reshape(20, 20), origin=here)
            return f"{root}: 399 different values from 0 to 399 in label rasters; there may be 255 classes"
        case "no value":
            for path in [*(root / "S1").iterdir(), *(root / "S2").iterdir()]:
                write(path, np.full((1, 16, 16), np.nan, np.float32), origin=None)
            for path in (root / "labels").iterdir():
                write(path, labels(0), origin=None)
            return f"{root}: no sample is left of 4: 0 have no label, 4 no value in any of s1, s2"
        case "no label folder":
            shutil.rmtree(root / "labels")
            return f"{root}: no folder of label rasters (labels, label, lulc, mask, masks); folders there: S1, S2"
        case "two label folders":
            shutil.copytree(root / "labels", root / "Mask")
            return f"{root}: Mask and labels are both folders of label rasters; keep one"
        case "no labels":
            shutil.rmtree(root / "labels")
            (root / "labels").mkdir()
            return f"{root}/labels: no GeoTIFF in it; it should hold the label rasters"
        case "empty folder":
            (root / "DEM").mkdir()
            return (
                f"{root}/DEM: no GeoTIFF in it; put images there, take the folder away, or name the others by modaliti"
            )
        case "labels alone":
            shutil.rmtree(root / "S1")
            shutil.rmtree(root / "S2")
            return f"{root}: no folder of images beside the labels; a folder for each modality is needed"
        case "other names":
            for path in (root / "S1").iterdir():
                path.rename(path.with_name(f"{path.stem}_s1.tif"))
            return (
                f"{root}/S1: none of its 4 images has the name of a label raster; images are called such as east_s1, la"
            )
        case "one modality twice":
            shutil.copytree(root / "S1", root / "s1")
            return f"{root}/s1: the modality of {root}/S1 as well; rename one of the folders"
        case "modality's name":
            (root / "S1").rename(root / "S1 GRD")
            return f"{root}: modality 's1 grd'; names are made of letters, digits, '_', '-' and '.', as in s1"
        case "file":
            shutil.rmtree(root)
            root.write_text("no folder")
            return f"{root}: no such folder; tiles:DIR needs the one with a folder for each modality"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "no overlap",
        "no way between",
        "another hemisphere",
        "no reference system",
        "no georeference",
        "size",
        "sizes",
        "bands",
        "dtype",
        "complex",
        "labels of floats",
        "labels of bands",
        "twice",
        "ignored",
        "nodata",
        "one class",
        "no classes",
        "no value",
        "no label folder",
        "two label folders",
        "no labels",
        "empty folder",
        "labels alone",
        "other names",
        "one modality twice",
        "modality's name",
        "file",
    ],
)
def test_what_is_refused(tmp_path, what):
    line = spoil(tree(tmp_path / "my tiles é"), what)
    options = {"image_size": 20} if what == "no classes" else {}
    assert line in error(tmp_path / "my tiles é", **options)


def test_a_folder_that_is_not_there_and_a_modality_that_is_not(tmp_path):
    assert "tiles:DIR" in error("")
    assert error(tmp_path / "no").startswith(f"{tmp_path}/no: no such folder")
    assert "'s3' is no modality" in error(tree(tmp_path), modalities=("s3",))


@pytest.mark.parametrize("folder", ["S1", "labels"])
@pytest.mark.parametrize("damage", ["empty", "cut short", "no tiff"])
def test_a_few_damaged_files_are_left_out(tmp_path, folder, damage):
    root = tree(tmp_path, size=64)
    path = root / folder / "east.tif"
    if damage == "cut short":
        cut_short(path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"these are words" * 100)
    with pytest.warns(UserWarning, match="1 of 12 files cannot be read and are left out, first ") as caught:
        archive = opened(root)
    assert len(caught) == 1
    assert archive.notes["left_out_damaged"] == 1
    assert archive.notes["damaged"][0].startswith(f"{path}: ")
    assert "\n" not in archive.notes["damaged"][0]
    there = dict(zip(archive.attribute("tile"), archive.absent("s1")))
    assert (
        there == {"east": True} | dict.fromkeys(("north", "south", "west"), False)
        if folder == "S1"
        else (set(there) == set(NAMES) - {"east"})
    )
    for name in set(NAMES) - {"east"}:
        shutil.copy(path, root / folder / f"{name}.tif")
    assert f"none of 4 {'images of s1' if folder == 'S1' else 'label rasters'} can be read, first {root}" in error(root)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["none", "deflate", "tiled"]), st.booleans())
def test_a_file_cut_short_is_never_read_as_if_whole(tmp_path, keep, form, of_labels):
    shutil.rmtree(tmp_path)
    options = {"none": {}, "deflate": {"compress": "deflate"}, "tiled": {"tiled": True, "blockxsize": 16}}[form]
    for name in ("a", "b"):
        write(tmp_path / "s1" / f"{name}.tif", image(0, 2, 64, 64), **options)
        write(tmp_path / "labels" / f"{name}.tif", labels(0, 64, 64), **options)
    whole = opened(tmp_path)
    images, rasters = whole.read("s1", [0]), whole.read_labels([0])
    cut_short(tmp_path / ("labels" if of_labels else "s1") / "b.tif", keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive = opened(tmp_path)
    for sample, tile in enumerate(archive.attribute("tile")):
        try:
            np.testing.assert_array_equal(archive.read("s1", [sample])[0], images[0])
            np.testing.assert_array_equal(archive.read_labels([sample]), rasters)
        except UserError as caught:
            if tile == "a" or "damaged or cut short" not in str(caught):
                raise


def test_files_that_go_or_break_after_opening_are_one_line(tmp_path):
    archive = opened(tree(tmp_path))
    (tmp_path / "S1" / "north.tif").unlink()
    (tmp_path / "labels" / "north.tif").write_bytes(b"")
    with pytest.raises(UserError, match=r"north\.tif: no such file$"):
        archive.read("s1", everything(archive))
    with pytest.raises(UserError, match=r"north\.tif: the file is empty$"):
        archive.read_labels(everything(archive))
