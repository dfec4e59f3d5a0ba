"""Folders of tiles: images and labels as rasterio reads them, on one grid, whole or in blocks."""

import json
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasters import NAMES, image, labels, own, refusal, tree, write
from real_data import REAL_DATA

from mmfl_jax import Federation, archives
from mmfl_jax.errors import UserError

REAL = REAL_DATA / "tiles"


def opened(root, **options):
    return archives.open(f"tiles:{root}", **options)


def everything(archive):
    return np.arange(len(archive))


def test_values_are_rasterios_own(tmp_path):
    root = tree(tmp_path / "tiles of Österreich, 1")
    archive = opened(root)
    assert (archive.task, archive.name, len(archive)) == ("pixel", "tiles", 4)
    assert {m: (s.shape, s.channels) for m, s in archive.modalities.items()} == {
        "s1": ((16, 16, 2), ("1", "2")),
        "s2": ((16, 16, 3), ("1", "2", "3")),
    }
    assert archive.class_names == ("class 1", "class 2", "class 4")
    assert archive.class_colors is None
    order = np.array([3, 0, 3])
    tiles = archive.attribute("tile")
    for folder in ("S1", "S2"):
        images = archive.read(folder.lower(), order)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, [own(root / folder / f"{tiles[i]}.tif") for i in order])
    rasters = archive.read_labels(order)
    assert rasters.dtype == np.uint8
    values = np.array([1, 2, 4])
    np.testing.assert_array_equal(values[rasters], [own(root / "labels" / f"{tiles[i]}.tif")[..., 0] for i in order])
    counts = [np.bincount(raster.ravel(), minlength=3) for raster in archive.read_labels(everything(archive))]
    np.testing.assert_array_equal(archive.labels, counts)
    assert archive.labels.dtype == np.int64
    assert archive.read("s1", np.zeros(0, int)).shape == (0, 16, 16, 2)
    assert json.loads(json.dumps(archive.describe()))["attributes"] == {"tile": 4, "block": 1}
    with pytest.raises(UserError, match="index 4: archive tiles has samples 0 to 3"):
        archive.read_labels(np.array([4]))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_pixels_of_any_type(tmp_path, dtype):
    write(tmp_path / "x" / "a.tif", pixels := image(0, 2, dtype=dtype))
    write(tmp_path / "Mask" / "a.tif", labels(1, values=(0, 7), dtype="int16"))
    archive = opened(tmp_path)
    np.testing.assert_array_equal(archive.read("x", [0])[0], np.moveaxis(pixels.astype(np.float32), 0, -1))
    assert archive.class_names == ("class 0", "class 7")


def test_names_of_bands_are_the_files_own_where_all_agree(tmp_path):
    for name, described in (("a", ("VV", "VH")), ("b", ("VV", "VH"))):
        write(tmp_path / "s1" / f"{name}.tif", image(0), names=described)
        write(tmp_path / "odd" / f"{name}.tif", image(0), names=(f"{name} one", "two"))
        write(tmp_path / "LABEL" / f"{name}.tif", labels(0))
    archive = opened(tmp_path, modalities=("s1", "odd"))
    assert {m: spec.channels for m, spec in archive.modalities.items()} == {"s1": ("VV", "VH"), "odd": ("1", "2")}


def test_tiles_lie_in_folders_and_end_as_they_like(tmp_path):
    write(tmp_path / "s2" / "austria" / "a.tiff", pixels := image(0))
    write(tmp_path / "labels" / "austria" / "a.TIF", labels(0))
    (tmp_path / "labels" / "austria" / "._a.tif").write_bytes(b"left by an archiver")
    archive = opened(tmp_path)
    assert archive.attribute("tile").tolist() == ["austria/a"]
    np.testing.assert_array_equal(archive.read("s2", [0])[0], np.moveaxis(pixels, 0, -1))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(8, 40), st.integers(8, 40)), min_size=1, max_size=3), st.integers(8, 20))
def test_blocks_are_the_tiles_without_overlap(tmp_path, shapes, size):
    shutil.rmtree(tmp_path)
    first, rasters = 0, []
    for number, (height, width) in enumerate(shapes):
        pixels = np.arange(first, first + height * width, dtype=np.float32).reshape(height, width)
        write(tmp_path / "s1" / f"{number}.tif", pixels + 1)
        rasters.append(labels(number, height, width, values=(0, 1)))
        write(tmp_path / "labels" / f"{number}.tif", rasters[-1])
        first += height * width
    expected = sum((height // size) * (width // size) for height, width in shapes)
    if not expected:
        assert f"blocks of {size} (image_size) do not fit" in refusal(f"tiles:{tmp_path}", image_size=size)
        return
    if (
        len(kept := {v for r in rasters for v in np.unique(r[: len(r) // size * size, : r.shape[1] // size * size])})
        < 2
    ):
        assert len(kept) == 1
        return
    archive = opened(tmp_path, image_size=size)
    assert len(archive) == expected
    images, found = archive.read("s1", everything(archive)), archive.read_labels(everything(archive))
    assert len(np.unique(images)) == images.size  # each pixel once
    places = [block.split("_") for block in archive.attribute("block").tolist()]
    for tile, (row, column), one, raster in zip(archive.attribute("tile"), places, images, found):
        own_part = (slice(int(row) * size, (int(row) + 1) * size), slice(int(column) * size, (int(column) + 1) * size))
        np.testing.assert_array_equal(one, own(tmp_path / "s1" / f"{tile}.tif")[own_part])
        np.testing.assert_array_equal(raster, rasters[int(tile)][own_part])
    beside = 1 - expected * size**2 / sum(height * width for height, width in shapes)
    assert archive.notes["pixels_beside_blocks"] == pytest.approx(beside, abs=1e-4)


def test_shuffled_blocks_are_read_as_in_order(tmp_path):
    archive = opened(tree(tmp_path), image_size=8)
    order = np.random.default_rng(0).permutation(np.tile(everything(archive), 2))
    for read in (lambda i: archive.read("s1", i), lambda i: archive.read("s2", i), archive.read_labels):
        np.testing.assert_array_equal(read(order), read(everything(archive))[order])


@pytest.mark.parametrize("options", [{"sparse_ok": True}, {"driver": "COG"}, {"tiled": True, "interleave": "band"}])
def test_files_of_other_makes(tmp_path, options):
    pixels = image(0, 3, 300, 300, "uint16")
    pixels[:, 100:] = 0  # not stored where the file is sparse
    write(tmp_path / "s2" / "a.tif", pixels, **options)
    write(tmp_path / "labels" / "a.tif", raster := labels(0, 300, 300), **options)
    archive = opened(tmp_path)
    np.testing.assert_array_equal(np.moveaxis(archive.read("s2", [0])[0], -1, 0), pixels)
    np.testing.assert_array_equal(np.array([1, 2, 4])[archive.read_labels([0])[0]], raster)


def test_nodata_masks_and_fill_values_are_missing(tmp_path):
    radar, optical, masked = image(0), image(1, 3, dtype="int16"), image(2, 1, dtype="uint8")
    radar[0, 2, 3], radar[1, 4, 5], radar[0, 6, 7] = np.nan, np.inf, -3.4e38
    optical[1, 8, 9] = -9999
    mask = np.full((16, 16), 255, np.uint8)
    mask[10:12] = 0
    write(tmp_path / "s1" / "a.tif", radar)
    write(tmp_path / "s2" / "a.tif", optical, nodata=-9999)
    write(tmp_path / "dem" / "a.tif", masked, mask=mask)
    write(tmp_path / "labels" / "a.tif", labels(0))
    archive = opened(tmp_path)
    assert np.argwhere(np.isnan(archive.read("s1", [0])[0])).tolist() == [[2, 3, 0], [4, 5, 1], [6, 7, 0]]
    assert np.argwhere(np.isnan(archive.read("s2", [0])[0])).tolist() == [[8, 9, 1]]
    np.testing.assert_array_equal(np.isnan(archive.read("dem", [0])[0, ..., 0]), mask == 0)


def test_a_modality_may_be_missing(tmp_path):
    root = tree(tmp_path)
    (root / "S1" / "north.tif").unlink()
    write(root / "S1" / "south.tif", np.full((2, 16, 16), np.nan, np.float32), origin=(502000, 5000000))
    write(root / "S1" / "stranger.tif", image(0))
    archive = opened(root)
    assert dict(zip(archive.attribute("tile"), archive.absent("s1"))) == {
        "east": False,
        "north": True,
        "south": True,
        "west": False,
    }
    assert not archive.absent("s2").any()
    assert np.isnan(archive.read("s1", np.flatnonzero(archive.absent("s1")))).all()
    assert archive.notes["missing_images"] == {"s1": 2}
    assert archive.notes["left_out_without_label_raster"] == {"s1": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        federation = Federation.split(archive, "by:tile", assignment="split", test_split="by:tile:0/4")
    assert {group.modalities for group in federation.groups} == {("s1",), ("s2",)}
    assert any("have no value in what they hold" in str(w.message) for w in caught)
    # Radar alone: what has none is no sample.
    alone = opened(root, modalities=("s1",))
    assert alone.attribute("tile").tolist() == ["east", "west"]
    assert alone.notes["left_out_without_image"] == 2


def test_blocks_know_what_they_lack(tmp_path):
    root = tree(tmp_path, NAMES[:1])
    radar = image(0)
    radar[:, :8, 8:] = np.nan  # one block
    radar[:, 12, :8] = np.nan  # the middle row of another
    write(root / "S1" / "north.tif", radar)
    raster = labels(20, values=(1, 2, 4))
    raster[8:, :8] = 255  # a block without a label
    write(root / "labels" / "north.tif", raster)
    archive = opened(root, image_size=8)
    assert archive.attribute("block").tolist() == ["0_0", "0_1", "1_1"]
    assert archive.absent("s1").tolist() == [False, True, False]
    assert archive.notes["left_out_without_label"] == 1


def test_at_most_so_many_samples(tmp_path):
    archive = opened(tree(tmp_path), samples=2)
    assert len(archive) == 2
    assert archive.read_labels([0, 1]).shape == (2, 16, 16)
    assert archive.absent("s1").tolist() == [False, False]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tiles are not there")
@pytest.mark.parametrize("size", [None, 56])
def test_real_tiles(size):
    archive = opened(REAL, image_size=size)
    assert set(archive.modalities) == {"s1rtc", "s2l2a", "dem"}
    assert len(archive) == (4 if size is None else 64)
    assert archive.class_names == (
        "water",
        "trees",
        "flooded vegetation",
        "crops",
        "built",
        "bare",
        "snow and ice",
        "rangeland",
    )
    values = np.array([1, 2, 3, 4, 5, 6, 7, 9])
    found = values[archive.read_labels(everything(archive))]
    images = {folder: archive.read(folder.lower(), everything(archive)) for folder in ("S1RTC", "S2L2A", "DEM")}
    height = size or 224
    for i, (tile, block) in enumerate(zip(archive.attribute("tile"), archive.attribute("block"))):
        row, column = map(int, block.split("_"))
        part = slice(row * height, (row + 1) * height), slice(column * height, (column + 1) * height)
        np.testing.assert_array_equal(found[i], own(REAL / "LULC" / f"{tile}.tif")[(*part, 0)])
        for folder, pixels in images.items():
            np.testing.assert_array_equal(pixels[i], own(REAL / folder / f"{tile}.tif")[part])
    assert archive.labels.sum() == 4 * 224 * 224
