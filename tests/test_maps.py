"""Maps: Cloud-Optimised GeoTIFFs that open with the scene's place, colours and names; pictures, STAC items, tables."""

import io
import json
import os

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from maps_scenes import NORTH_UP, S1, S2, UTM, Local, optical, write_raster, write_scene
from matplotlib.image import imread
from real_data import REAL_DATA

from mmfl_jax.archives.base import ModalitySpec
from mmfl_jax.errors import UserError
from mmfl_jax.maps import MapOptions, predict_maps, write_table
from mmfl_jax.maps.composites import Thumbnail, View, choose_view
from mmfl_jax.maps.predict import CERTAIN

TILES = REAL_DATA / "tiles"


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def assert_cloud_optimised(path):
    """Check what makes a GeoTIFF one for the cloud: its layout, blocks, overviews before and headers at the front."""
    with rasterio.open(path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"
        assert (file.dtypes[0], file.nodata, file.profile["tiled"]) == ("uint8", 255, True)
        assert file.block_shapes[0] == (512, 512)
        offset = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
        if max(file.shape) > 512:
            assert file.overviews(1)
            overview = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=0))
            assert overview < offset  # the coarsest comes first
            assert int(file.get_tag_item("IFD_OFFSET", "TIFF", bidx=1, ovr=0)) < overview
        assert int(file.get_tag_item("IFD_OFFSET", "TIFF", bidx=1)) < offset


def test_map_is_of_the_classes_and_of_the_scenes_place(tmp_path):
    values = write_scene(tmp_path / "in", shape=(600, 530))
    model = Local()
    (path,) = predict_maps(model, tmp_path / "in", tmp_path / "out", MapOptions(window=64))
    assert path == tmp_path / "out" / "place.tif"
    np.testing.assert_array_equal(read(path), model.classes(**values))
    assert_cloud_optimised(path)
    with rasterio.open(path) as file:
        assert (file.crs, file.transform, file.shape) == (rasterio.CRS.from_string(UTM), NORTH_UP, (600, 530))
        table = file.colormap(1)
        assert [table[c] for c in (0, 1, 255)] == [(0x39, 0x7D, 0x49, 255), (0x41, 0x9B, 0xDF, 255), (0, 0, 0, 0)]
        assert json.loads(file.tags()["class_names"]) == list(model.class_names)
        assert file.tags()["modalities"] == "s1+s2"
        # What is seen from afar are classes, the most frequent of the pixels below.
        assert file.overviews(1) == [2]
        assert set(np.unique(file.read(1, out_shape=(300, 265)))) <= set(range(4))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"place.tif", "place.tif.aux.xml", "place.png"}


def test_gdal_knows_the_names_of_the_classes(tmp_path):
    write_scene(tmp_path / "in")
    (path,) = predict_maps(Local(), tmp_path / "in", tmp_path / "out")
    rasterio.shutil.copy(path, tmp_path / "map.vrt", driver="VRT")
    text = (tmp_path / "map.vrt").read_text()
    assert "<Category>Wald</Category>" in text
    assert "<Category>Wasser &amp; Eis</Category>" in text
    assert text.count("<Category") == 1 + 256


def test_probabilities_stand_in_bands_of_the_classes(tmp_path):
    values = write_scene(tmp_path / "in", shape=(40, 70))
    model = Local()
    predict_maps(model, tmp_path / "in", tmp_path / "out", MapOptions(probabilities=True))
    path = tmp_path / "out" / "place.probabilities.tif"
    assert_cloud_optimised(path)
    with rasterio.open(path) as file:
        assert file.descriptions == model.class_names
        assert file.scales == (1 / CERTAIN,) * 4
        found = np.moveaxis(file.read() * file.scales[0], 0, -1)
    whole = model.probabilities({m: image[None].astype(np.float32) for m, image in values.items()})[0]
    np.testing.assert_allclose(found, whole, atol=0.5 / CERTAIN + 1e-5)


def test_a_scene_is_mapped_from_the_modalities_that_are_there(tmp_path):
    both = write_scene(tmp_path / "in", "both")
    alone = optical((50, 40), seed=5)
    write_raster(tmp_path / "in" / "S2" / "alone.tif", alone, names=S2)
    model = Local()
    first, second = predict_maps(model, tmp_path / "in", tmp_path / "out")
    assert [first.name, second.name] == ["alone.tif", "both.tif"]
    np.testing.assert_array_equal(read(first), model.classes(s2=alone))
    np.testing.assert_array_equal(read(second), model.classes(**both))


def test_of_one_modality_the_scenes_may_lie_in_the_folder_itself(tmp_path):
    values = optical((50, 40))
    write_raster(tmp_path / "in" / "Köln West.tif", values, names=S2)
    model = Local(held=("s2",))
    (path,) = predict_maps(model, tmp_path / "in", tmp_path / "out dir")
    assert path.name == "Köln West.tif"
    np.testing.assert_array_equal(read(path), model.classes(s2=values))


def test_pixels_without_a_value_are_no_data(tmp_path):
    values = write_scene(tmp_path / "in", shape=(60, 60))
    values["s1"][:20, :20] = np.nan
    values["s1"][0, 30] = 3e38  # a fill value
    write_raster(tmp_path / "in" / "S1" / "place.tif", values["s1"], names=S1)
    values["s2"][:30, :10] = 0
    values["s2"][0, 30] = 0
    write_raster(tmp_path / "in" / "S2" / "place.tif", values["s2"], names=S2, nodata=0)
    (path,) = predict_maps(Local(), tmp_path / "in", tmp_path / "out", MapOptions(probabilities=True))
    expected = np.zeros((60, 60), bool)
    expected[:20, :10] = expected[0, 30] = True
    np.testing.assert_array_equal(read(path) == 255, expected)
    with rasterio.open(tmp_path / "out" / "place.probabilities.tif") as file:
        np.testing.assert_array_equal(file.read() == 255, np.broadcast_to(expected, (4, 60, 60)))


def test_a_coarser_file_is_brought_to_the_grid_of_the_finest(tmp_path):
    fine = optical((60, 80))
    coarse = np.full((30, 40, 2), (-10, -16), np.float32)
    coarse[:, 20:] = (-20, -25)
    write_raster(
        tmp_path / "in" / "s1" / "x.tif", coarse, names=S1, transform=Affine(20, 0, 500_000, 0, -20, 5_400_000)
    )
    write_raster(tmp_path / "in" / "s2" / "x.tif", fine, names=S2)
    model = Local()
    (path,) = predict_maps(model, tmp_path / "in", tmp_path / "out")
    with rasterio.open(path) as file:
        assert (file.shape, file.transform) == ((60, 80), NORTH_UP)
    # Two columns on each side of the step lie between the values.
    expected = model.classes(s1=coarse.repeat(2, axis=0).repeat(2, axis=1), s2=fine)
    far = np.abs(np.arange(80) - 39.5) > 2
    np.testing.assert_array_equal(read(path)[:, far], expected[:, far])


def test_another_system_is_warped_to_the_place(tmp_path):
    # A step from west to east, in degrees, beside a constant image in metres.
    west, south, east, north = rasterio.warp.transform_bounds(UTM, "EPSG:4326", 500_000, 5_399_200, 500_800, 5_400_000)
    step = np.full((100, 100, 2), (-40, 10), np.float32)
    step[:, 50:] = (10, -40)
    degrees = Affine((east - west) / 100, 0, west, 0, (south - north) / 100, north)
    write_raster(tmp_path / "in" / "s1" / "x.tif", step, names=S1, crs="EPSG:4326", transform=degrees)
    write_raster(
        tmp_path / "in" / "s2" / "x.tif",
        np.full((160, 160, 4), 3000, np.uint16),
        names=S2,
        transform=Affine(5, 0, 500_000, 0, -5, 5_400_000),
    )
    model = Local(tile=64)
    (path,) = predict_maps(model, tmp_path / "in", tmp_path / "out")
    found = read(path)
    with rasterio.open(path) as file:
        assert (file.crs, file.shape) == (rasterio.CRS.from_string(UTM), (160, 160))
    kinds = [model.classes(s1=step[None, :1, side], s2=np.full((1, 1, 4), 3000))[0, 0] for side in (0, -1)]
    assert kinds[0] != kinds[1]
    assert (found[5:-5, 5:76] == kinds[0]).all()
    assert (found[5:-5, 84:-5] == kinds[1]).all()


def test_bands_in_another_order_are_chosen_by_name(tmp_path):
    values = write_scene(tmp_path / "in")
    mixed = np.concatenate([values["s2"][..., ::-1], optical((70, 90), seed=9)[..., :1]], axis=-1)
    write_raster(tmp_path / "in" / "S2" / "place.tif", mixed, names=("b8", "B4", "b03", "B2", "SCL"))
    model = Local()
    (path,) = predict_maps(model, tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(read(path), model.classes(**values))


def test_without_a_place_on_earth_the_map_has_none(tmp_path):
    values = optical((50, 40))
    write_raster(tmp_path / "in" / "x.tif", values, crs=None, transform=Affine.identity())
    model = Local(held=("s2",))
    (path,) = predict_maps(model, tmp_path / "in", tmp_path / "out", MapOptions(stac=True))
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        file = rasterio.open(path)
    with file:
        assert (file.crs, file.transform) == (None, Affine.identity())
        np.testing.assert_array_equal(file.read(1), model.classes(s2=values))
    item = json.loads((tmp_path / "out" / "x.json").read_text())
    assert item["geometry"] is None
    assert "bbox" not in item
    assert "proj:epsg" not in item["properties"]


def test_stac_item_says_where_when_and_what(tmp_path):
    write_scene(tmp_path / "in", "S2A_20210723T132241_T33UUP")
    options = MapOptions(stac=True, probabilities=True)
    (path,) = predict_maps(Local(), tmp_path / "in", tmp_path / "out", options)
    item = json.loads(path.with_suffix(".json").read_text())
    assert (item["type"], item["stac_version"], item["id"]) == ("Feature", "1.0.0", path.stem)
    assert item["properties"]["datetime"] == "2021-07-23T13:22:41Z"
    assert item["properties"]["proj:epsg"] == 32633
    assert item["properties"]["proj:shape"] == [70, 90]
    assert item["properties"]["proj:transform"] == list(NORTH_UP)[:6]
    np.testing.assert_allclose(item["properties"]["proj:bbox"], [500_000, 5_399_300, 500_900, 5_400_000])
    west, south, east, north = rasterio.warp.transform_bounds(UTM, "EPSG:4326", *item["properties"]["proj:bbox"])
    np.testing.assert_allclose(item["bbox"], [west, south, east, north], atol=1e-6)
    ring = np.array(item["geometry"]["coordinates"][0])
    assert (ring[0] == ring[-1]).all()
    x, y = ring.T
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0  # against the clock
    classes = item["assets"]["map"]["classification:classes"]
    assert classes[1] == {"value": 1, "name": "Wasser & Eis", "description": "Wasser & Eis", "color_hint": "419BDF"}
    assert classes[-1]["value"] == 255
    for asset in item["assets"].values():
        assert (path.parent / asset["href"]).is_file()


def test_stac_item_across_the_antimeridian_and_of_no_place_on_earth():
    from rasterio.crs import CRS

    from mmfl_jax.maps.rasters import Grid
    from mmfl_jax.maps.stac import _place

    grid = Grid(CRS.from_epsg(32701), Affine(200, 0, 150_000, 0, -200, 8_000_000), 400, 400)
    place = _place(grid)
    assert place["geometry"]["type"] == "MultiPolygon"
    west, south, east, north = place["bbox"]
    assert -180 <= east < 0 < west <= 180
    assert -20 < south < north < -17
    local = CRS.from_wkt('LOCAL_CS["arbitrary",UNIT["metre",1]]')
    assert _place(grid._replace(crs=local)) == {"geometry": None}


def test_any_width_has_a_length_for_its_scale():
    from matplotlib.figure import Figure
    from rasterio.crs import CRS

    from mmfl_jax.maps.quicklook import _scale_bar
    from mmfl_jax.maps.rasters import Grid

    for across in (40, 400, 4000, 40_000):
        for pixels in range(10, 400, 7):
            panel = Figure().add_subplot()
            _scale_bar(panel, Grid(CRS.from_string(UTM), Affine(across / pixels, 0, 0, 0, -1, 0), 1, pixels), 100)
            (text,) = (shown.get_text() for shown in panel.texts)
            length = float(text.split()[0]) * (1000 if "km" in text else 1)
            assert across / 11 < length <= across / 4 + 1e-9


def test_picture_shows_image_map_and_legend(tmp_path):
    values = write_scene(tmp_path / "in", "Ä 猫", shape=(300, 200))
    model = Local()
    (path,) = predict_maps(model, tmp_path / "in", tmp_path / "out")
    pixels = np.round(255 * imread(path.with_suffix(".png"))[..., :3]).astype(int)
    assert pixels.shape[0] < 1000 < pixels.shape[1]
    # Each class has its colour in the picture, as often as in the map (without what lies in the legend).
    counts = [(pixels == list(bytes.fromhex(color[1:]))).all(axis=-1).sum() for color in model.class_colors]
    shares = np.bincount(model.classes(**values).ravel(), minlength=4) / 60_000
    np.testing.assert_allclose(np.divide(counts, sum(counts)), shares, atol=0.05)


def test_true_colour_comes_before_radar():
    spec = lambda *names: ModalitySpec((8, 8, len(names)), names)
    assert choose_view({"s1": spec("VV", "VH"), "s2": spec("B02", "B03", "B04")})[:2] == ("s2", (2, 1, 0))
    assert choose_view({"s2l2a": spec(*map(str, range(12)))})[:2] == ("s2l2a", (3, 2, 1))
    assert choose_view({"dem": spec("1"), "rgb": spec("red", "green", "blue")})[:2] == ("rgb", (0, 1, 2))
    assert choose_view({"s1": spec("VV", "VH")}) == ("s1", (0, 1), "s1, VV · VH · their ratio", False)
    assert choose_view({"dem": spec("elevation")})[:2] == ("dem", (0,))


@pytest.mark.parametrize("step", [1, 4])
def test_thumbnail_is_the_mean_of_squares_in_whatever_parts_they_come(step):
    values = np.random.default_rng(0).normal(size=(24, 38, 3)).astype(np.float32)
    values[:4, :4] = np.nan
    values[5, 5] = np.nan
    small = Thumbnail((24, 38), View("s2", (2, 0), ""), 38 if step == 1 else 10)
    for rows in (slice(0, 7), slice(7, 24)):
        for columns in (slice(0, 21), slice(21, 38)):
            small.add(rows, columns, values[rows, columns])
    padded = np.full((24, 40, 2), np.nan, np.float32)
    padded[:, :38] = values[..., [2, 0]]
    squares = padded.reshape(24 // step, step, 40 // step, step, 2)
    known = np.isfinite(squares).sum(axis=(1, 3))
    expected = np.divide(np.nansum(squares, axis=(1, 3)), known, out=np.full(known.shape, np.nan), where=known > 0)
    np.testing.assert_allclose(small.image, expected[:, : small.image.shape[1]], atol=1e-5)
    assert small.image.shape == (24 // step, -(-38 // step), 2)


@pytest.mark.skipif(not TILES.is_dir(), reason="the real tiles are not here")
def test_a_real_tile_keeps_its_place(tmp_path):
    model = Local(tile=64)
    model.modalities = {
        "s1rtc": ModalitySpec((64, 64, 2), ("1", "2")),
        "s2l2a": ModalitySpec((64, 64, 12), tuple(str(band) for band in range(1, 13))),
    }
    rng = np.random.default_rng(3)
    model.weights = {"s1rtc": rng.normal(size=(2, 4)) / 20, "s2l2a": rng.normal(size=(12, 4)) / 3000}
    paths = predict_maps(model, TILES, tmp_path / "out", MapOptions(stac=True))
    assert [path.name for path in paths] == sorted(os.listdir(TILES / "S2L2A"))
    for path in paths:
        assert_cloud_optimised(path)
        values = {}
        for modality, folder in (("s1rtc", "S1RTC"), ("s2l2a", "S2L2A")):
            with rasterio.open(TILES / folder / path.name) as source, rasterio.open(path) as found:
                assert found.crs == source.crs
                assert found.shape == source.shape
                np.testing.assert_allclose(found.transform, source.transform, atol=1e-6)
                values[modality] = np.moveaxis(source.read(), 0, -1)
        np.testing.assert_array_equal(read(path), model.classes(**values))


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_table_of_patches(tmp_path, ending):
    found = np.random.default_rng(0).random((5, 2)).astype(np.float32)
    ids = ['a "b", c', "S2A_1", "ä", "猫", ""]
    path = tmp_path / f"probabilities.{ending}"
    write_table(path, ids, ("Forest, mixed", "Water"), found)
    table = (
        pyarrow.parquet.read_table(path) if ending == "parquet" else pyarrow.csv.read_csv(io.BytesIO(path.read_bytes()))
    )
    assert table.column_names == ["id", "Forest, mixed", "Water"]
    assert table["id"].to_pylist() == ids
    values = np.stack([table[name].to_numpy() for name in ("Forest, mixed", "Water")], axis=1)
    np.testing.assert_array_equal(values.astype(np.float32), found)


def test_table_refuses_what_cannot_be_one(tmp_path):
    with pytest.raises(UserError, match=r"two columns would be called 'id'"):
        write_table(tmp_path / "t.csv", ["a"], ("id",), np.zeros((1, 1)))
    with pytest.raises(UserError, match=r"ends in \.parquet or \.csv"):
        write_table(tmp_path / "t.xlsx", ["a"], ("x",), np.zeros((1, 1)))
    assert not list(tmp_path.iterdir())
