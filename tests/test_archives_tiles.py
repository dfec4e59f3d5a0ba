"""Folders of tiles: images and labels as rasterio reads them, on one grid, whole or in blocks; and what is refused."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.warp import Resampling, reproject
from rasters import UTM, cut_short, image, labels, own, write

from mmfl_jax import Federation, archives
from mmfl_jax.archives.base import IGNORED
from mmfl_jax.archives.rasters import grids
from mmfl_jax.archives.rasters.grids import Grid
from mmfl_jax.archives.rasters.legend import read_legend
from mmfl_jax.errors import UserError

REAL = Path(__file__).parents[2] / "shared" / "data" / "tiles"
NAMES = ("north", "east", "south", "west")


def tree(root, names=NAMES, size=16):
    for number, name in enumerate(names):
        place = {"origin": (500000 + 1000 * number, 5000000)}
        write(root / "S1" / f"{name}.tif", image(number, 2, size, size), **place)
        write(root / "S2" / f"{name}.tif", image(10 + number, 3, size, size, "uint16"), **place)
        write(root / "labels" / f"{name}.tif", labels(20 + number, size, size), **place)
    return root


def opened(root, **options):
    return archives.open(f"tiles:{root}", **options)


def error(root, **options):
    with pytest.raises(UserError) as caught:
        opened(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
        assert f"blocks of {size} (image_size) do not fit" in error(tmp_path, image_size=size)
        return
    if len(kept := {v for r in rasters for v in np.unique(r[: len(r) // size * size, : r.shape[1] // size * size])}) < 2:
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


@pytest.mark.parametrize("step, origin", [(20, (0, 0)), (5, (0, 0)), (10, (3, -4)), (20, (-17, 22)), (7, (-9, 5))])
def test_images_on_another_grid_are_brought_to_their_labels(tmp_path, step, origin):
    size = int(400 // step)
    source = image(0, 3, size, size)
    corner = (500000 + origin[0], 5000000 + origin[1])
    write(tmp_path / "s1" / "a.tif", source, origin=corner, step=step)
    write(tmp_path / "labels" / "a.tif", labels(0, 24, 24), origin=(500050, 4999950))
    found = np.moveaxis(opened(tmp_path).read("s1", [0])[0], -1, 0)
    expected = np.full((3, 24, 24), np.nan, np.float32)
    reproject(
        source,
        expected,
        src_transform=rasterio.Affine(step, 0, corner[0], 0, -step, corner[1]),
        src_crs=UTM,
        src_nodata=np.nan,
        dst_transform=rasterio.Affine(10, 0, 500050, 0, -10, 4999950),
        dst_crs=UTM,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
        tolerance=0,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_images_of_another_reference_system_are_warped(tmp_path):
    """A plane of longitude stays that plane, wherever its pixels lie."""
    from rasterio.warp import transform

    west, north, step = 14.99, 45.16, 0.0001
    longitude = west + (np.arange(200) + 0.5) * step
    write(tmp_path / "s1" / "a.tif", np.tile(longitude, (200, 1)), crs="EPSG:4326", origin=(west, north), step=step)
    write(tmp_path / "labels" / "a.tif", labels(0, 32, 32), origin=(500000, 5000000))
    found = opened(tmp_path).read("s1", [0])[0, ..., 0]
    rows, columns = np.mgrid[:32, :32] + 0.5
    xs, _ = transform(UTM, "EPSG:4326", (500000 + 10 * columns).ravel(), (5000000 - 10 * rows).ravel())
    # A float32 of 15 degrees is exact to a hundredth of a pixel; GDAL warps to an eighth of one.
    np.testing.assert_allclose(found.ravel(), xs, atol=0.2 * step)


@given(
    st.integers(2, 40),
    st.integers(1, 60),
    st.floats(0.2, 4),
    st.floats(-5, 5),
    st.sampled_from(["bilinear", "nearest"]),
)
@settings(deadline=None)
def test_aligned_ramps_are_ramps(source, target, scale, offset, method):
    """Where a target pixel's whole support lies inside, bilinear keeps what is linear; nearest is off by half a pixel."""
    ramp = np.tile(np.arange(source, dtype=np.float32), (1, 3, 1))
    image_grid = Grid(3, source, (1, 0, 0, 0, -1, 0), "")
    label_grid = Grid(3, target, (scale, 0, offset, 0, -1, 0), "")
    found = grids.align(ramp, image_grid, label_grid, method)[0, 1]
    centre = (np.arange(target) + 0.5) * scale + offset - 0.5
    reach = max(1, scale) if method == "bilinear" else 0
    inside = (centre >= reach) & (centre <= source - 1 - reach)
    off = 0.51 if method == "nearest" else 0.02 if scale <= 1 else 0.5
    np.testing.assert_allclose(found[inside], centre[inside], atol=off)
    outside = (centre < -0.5 - 0.02) | (centre > source - 0.5 + 0.02)
    assert np.isnan(found[outside]).all()
    assert not np.isnan(found[(centre > -0.48) & (centre < source - 0.52)]).any()


def test_sizes_without_georeference_are_multiples(tmp_path):
    write(tmp_path / "fine" / "a.tif", fine := image(0, 1, 32, 32), origin=None)
    write(tmp_path / "coarse" / "a.tif", coarse := image(1, 1, 8, 8), origin=None)
    write(tmp_path / "labels" / "a.tif", labels(0), origin=None)
    archive = opened(tmp_path, resampling="nearest")
    np.testing.assert_array_equal(archive.read("coarse", [0])[0, ..., 0], np.repeat(np.repeat(coarse[0], 2, 0), 2, 1))
    smooth = opened(tmp_path).read("fine", [0])[0, ..., 0]
    # A triangle over four pixels, as GDAL's bilinear warping has it where pixels grow.
    weights = np.array([0.125, 0.375, 0.375, 0.125])
    np.testing.assert_allclose(smooth[3, 5], weights @ fine[0, 5:9, 9:13] @ weights, rtol=1e-5)


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


def test_nodata_255_and_negative_values_are_no_label(tmp_path):
    rasters = {"a": labels(0, values=(0, 1, 3, 255)), "b": labels(1, values=(0, 1, 3))}
    for name, raster in rasters.items():
        write(tmp_path / "s1" / f"{name}.tif", image(0))
        # What one file calls nodata may be a class in another.
        write(tmp_path / "labels" / f"{name}.tif", raster, nodata=0 if name == "a" else None)
    archive = opened(tmp_path)
    assert archive.class_names == ("class 0", "class 1", "class 3")
    found = archive.read_labels([0, 1])
    np.testing.assert_array_equal(found[0] == IGNORED, np.isin(rasters["a"], (0, 255)))
    np.testing.assert_array_equal(found[1], np.searchsorted([0, 1, 3], rasters["b"]))
    assert archive.labels.sum(1).tolist() == [(found[0] != IGNORED).sum(), 256]


def test_lulc_is_assumed_to_be_land_cover_where_its_values_fit(tmp_path):
    write(tmp_path / "s1" / "a.tif", image(0))
    write(tmp_path / "LULC" / "a.tif", labels(0, values=(0, 1, 5, 9)))
    archive = opened(tmp_path)
    assert archive.class_names == ("water", "built", "rangeland")
    assert archive.class_colors == ("#419bdf", "#c4281b", "#e3e2c3")
    write(tmp_path / "LULC" / "a.tif", labels(0, values=(1, 5, 10)))
    assert opened(tmp_path).class_names == ("class 1", "class 5", "class 10")


def test_a_legend_names_and_ignores(tmp_path):
    write(tmp_path / "s1" / "a.tif", image(0))
    write(tmp_path / "labels" / "a.tif", raster := labels(0, values=(-1, 0, 3, 300), dtype="int16"), nodata=0)
    legend = tmp_path / "classes.csv"
    legend.write_text("value, name, color\n300,forêt,#397D49\n0,land,#c9b58f\n2,snow,#ffffff\n3,,\n-1,,\n", "utf-8")
    archive = opened(tmp_path)
    assert archive.class_names == ("land", "snow", "forêt")
    assert archive.class_colors == ("#c9b58f", "#ffffff", "#397d49")
    expected = np.select([raster == 0, raster == 300], [0, 2], IGNORED)
    np.testing.assert_array_equal(archive.read_labels([0])[0], expected)
    assert archive.labels.tolist() == [[(raster == 0).sum(), 0, (raster == 300).sum()]]
    legend.write_text("value,name\n0,land\n300,water\n3,\n")
    count = int((raster == -1).sum())
    assert error(tmp_path) == (
        f"{tmp_path}/labels/a.tif: {count} pixels have the label -1, which classes.csv does not know; it has 0, 300, and "
        "ignores 3"
    )


@given(st.binary(max_size=200) | st.text(alphabet='valuenmecor,;"\n#0123456789ab- ', max_size=200).map(str.encode))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_legend_is_read_or_refused_on_one_line(tmp_path, data):
    path = tmp_path / "classes.csv"
    for header in (b"", b"value,name,color\n"):
        path.write_bytes(header + data)
        try:
            legend = read_legend(str(path))
        except UserError as caught:
            assert str(path) in str(caught)
        else:
            assert len(legend.values) == len(legend.names) >= 2
            assert sorted(set(legend.values)) == list(legend.values)


@pytest.mark.parametrize(
    "text, line",
    [
        ("name\nwater\n", "columns name; value, name and perhaps color are needed"),
        ("", "columns none; value, name"),
        ("value,name\none,water\n", "row 1 has value 'one'; a whole number is needed"),
        ("value,name\n1,water\n1,land\n", "value 1 is there twice"),
        ("value,name\n1,water\n2,water\n", "two values are called 'water'"),
        ("value,name,color\n1,water,blue\n2,land,#000000\n", "value 1 has the colour 'blue'; #rrggbb is needed"),
        ("value,name,color\n1,water,\n2,land,#000000\n", "value 1 has no colour, others have one"),
        ("value,name\n1,water\n", "1 classes; 2 to 255 are needed"),
        ("value,name\n1,water\n70000,land\n", "2 classes; 2 to 255 are needed, values less than 65536 apart"),
    ],
)
def test_legends_that_are_refused(tmp_path, text, line):
    (tree(tmp_path, NAMES[:1]) / "classes.csv").write_text(text)
    assert line in error(tmp_path)


def write_table(root, rows, name):
    table = pyarrow.Table.from_pylist(rows)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(table, root / name)
    else:
        pyarrow.csv.write_csv(table, root / name)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.parquet"])
def test_a_table_gives_attributes_and_splits(tmp_path, name):
    root = tree(tmp_path)
    splits = ("train", "test", "validation", "train")
    rows = [
        {"file": f"{tile}.tif", "owner": f"land {i % 2}", "year": 2017 + i, "split": splits[i]}
        for i, tile in enumerate((*NAMES[::-1],))
    ]
    write_table(root, [*rows, {"file": "elsewhere.tif", "owner": "x", "year": 1, "split": "train"}], name)
    archive = opened(root, image_size=8)
    assert len(archive) == 16
    by_tile = dict(zip(archive.attribute("tile"), zip(archive.attribute("owner"), archive.attribute("year"))))
    assert by_tile == {"west": ("land 0", 2017), "south": ("land 1", 2018), "east": ("land 0", 2019)} | {
        "north": ("land 1", 2020)
    }
    assert dict(zip(archive.attribute("tile"), archive.splits)) == dict(zip(NAMES[::-1], splits))
    assert archive.notes["rows_without_tile"] == 1
    federation = Federation.split(archive, "by:owner")
    assert federation.clients == 2
    assert set(archive.attribute("tile")[federation.test]) == {"south"}
    blocks = Federation.split(archive, "by:tile+block", test_split="0.25")
    assert (blocks.clients, len(blocks.test)) == (12, 4)


@pytest.mark.parametrize(
    "rows, line",
    [
        ([{"name": "north", "owner": "a"}], "columns name, owner; one has to name the tile: tile, file, filename"),
        ([{"tile": "north", "owner": "a"}], "1 of 2 tiles have no row in column tile, first 'east'"),
        ([{"tile": "north"}, {"tile": "north.tif"}, {"tile": "east"}], "tile 'north' has two rows"),
        ([{"tile": "north", "owner": "a"}, {"tile": "east", "owner": ""}], "column 'owner' has no value in row 2"),
        ([{"tile": "north", "year": 1}, {"tile": "east", "year": None}], "column 'year' has no value in row 2"),
        ([{"file": "north", "block": 1}, {"file": "east", "block": 1}], "a column is called 'block', which is taken"),
        ([{"tile": "north", "split": "dev"}, {"tile": "east", "split": "test"}], "split holds ['dev']; each must be"),
    ],
)
def test_tables_that_are_refused(tmp_path, rows, line):
    write_table(tree(tmp_path, NAMES[:2]), rows, "metadata.csv")
    assert line in error(tmp_path)
    (tmp_path / "metadata.csv").rename(tmp_path / "metadata.parquet")
    assert "cannot be read as a table" in error(tmp_path)
    shutil.copy(tmp_path / "metadata.parquet", tmp_path / "metadata.csv")
    assert "metadata.csv and metadata.parquet are both there; keep one" in error(tmp_path)


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
            return f"{s1}: cannot be brought to its labels in {label}: its coordinate reference system cannot be brought"
        case "another hemisphere":
            write(s1, image(0), origin=(15, -1), step=0.001, crs="EPSG:4326")
            return f"{s1}: does not overlap with its labels in {label}"
        case "no reference system":
            write(s1, image(0), origin=here, crs=None)
            return "a coordinate reference system in the labels and none in the image; both or neither must have one"
        case "no georeference":
            write(label, labels(0), origin=None)
            return f"{s1}: cannot be brought to its labels in {label}: a georeference in the image and none in the labels"
        case "size":
            for path in (s1, root / "S2" / "east.tif"):
                write(path, image(0, 2 if path == s1 else 3, dtype="float32" if path == s1 else "uint16"), origin=None)
            write(label, labels(0, 17, 15), origin=None)
            write(root / "labels" / "north.tif", labels(0, 17, 15))
            write(root / "labels" / "south.tif", labels(0, 17, 15), origin=(502000, 5000000))
            write(root / "labels" / "west.tif", labels(0, 17, 15), origin=(503000, 5000000))
            return "16 x 16 pixels for labels of 17 x 15, neither with a georeference; sizes must be equal, or one a multi"
        case "sizes":
            write(label, labels(0, 20, 24), origin=here)
            return f"16 x 16 pixels, but 20 x 24 in {label}; tiles of several sizes have to be cut into blocks, such as im"
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
            return f"{root}: one class alone in 4 label rasters, 'class 3'; two are needed"
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
            return f"{root}/DEM: no GeoTIFF in it; put images there, take the folder away, or name the others by modaliti"
        case "labels alone":
            shutil.rmtree(root / "S1")
            shutil.rmtree(root / "S2")
            return f"{root}: no folder of images beside the labels; a folder for each modality is needed"
        case "other names":
            for path in (root / "S1").iterdir():
                path.rename(path.with_name(f"{path.stem}_s1.tif"))
            return f"{root}/S1: none of its 4 images has the name of a label raster; images are called such as east_s1, la"
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
    ["no overlap", "no way between", "another hemisphere", "no reference system", "no georeference", "size", "sizes"]
    + ["bands", "dtype", "complex", "labels of floats", "labels of bands", "twice", "ignored", "nodata", "one class"]
    + ["no classes", "no value", "no label folder", "two label folders", "no labels", "empty folder", "labels alone"]
    + ["other names", "one modality twice", "modality's name", "file"],
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
    assert there == {"east": True} | dict.fromkeys(("north", "south", "west"), False) if folder == "S1" else (
        set(there) == set(NAMES) - {"east"}
    )
    for name in set(NAMES) - {"east"}:
        shutil.copy(path, root / folder / f"{name}.tif")
    assert f"none of 4 {'images of s1' if folder == 'S1' else 'label rasters'} can be read, first {root}" in error(root)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
            assert (tile, "damaged or cut short" in str(caught)) == ("b", True)


def test_files_that_go_or_break_after_opening_are_one_line(tmp_path):
    archive = opened(tree(tmp_path))
    (tmp_path / "S1" / "north.tif").unlink()
    (tmp_path / "labels" / "north.tif").write_bytes(b"")
    with pytest.raises(UserError, match=r"north\.tif: no such file$"):
        archive.read("s1", everything(archive))
    with pytest.raises(UserError, match=r"north\.tif: the file is empty$"):
        archive.read_labels(everything(archive))


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
