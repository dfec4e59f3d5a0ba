"""BigEarthNet's folders, v1 and v2, and everything that can be wrong with them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio
from geotiffs import V1_PATCHES, V2_PATCHES, s1_name, write_band, write_v1, write_v2
from hypothesis import given
from hypothesis import strategies as st
from real_data import REAL_DATA

from mmfl_jax import archives
from mmfl_jax.archives.bigearthnet import nomenclature
from mmfl_jax.errors import UserError

V1_CSV = {"train.csv": [0], "val.csv": [1], "test.csv": [2]}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    return write_v1(tmp_path_factory.mktemp("v1")), write_v2(tmp_path_factory.mktemp("v2"))


@pytest.fixture
def v1(trees, tmp_path):
    return Path(shutil.copytree(trees[0], tmp_path / "v1"))


@pytest.fixture
def v2(trees, tmp_path):
    return Path(shutil.copytree(trees[1], tmp_path / "v2"))


def write_csv(directory, name, patches):
    lines = [f"{V1_PATCHES[number][0]},{s1_name(*V1_PATCHES[number][:2])}\n" for number in patches]
    (directory / name).write_text("".join(lines))


def change_metadata(directory, change):
    path = directory / "metadata.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(change(rows)), path)


def test_v1(trees):
    archive = archives.open(f"bigearthnet:{trees[0]}")
    assert list(archive.modalities) == ["s1", "s2"]
    assert archive.modalities["s2"].shape == (120, 120, 10)
    np.testing.assert_allclose(archive.modalities["s1"].mean, [-12.62, -19.29])
    assert archive.splits is None
    assert archive.labels.dtype == np.uint8
    expected = {
        "S2A_MSIL2A_20170613T101031_87_48": ("Austria", "summer", {"Arable land", "Mixed forest"}),
        "S2B_MSIL2A_20180204T94161_57_38": ("Finland", "winter", {"Coniferous forest"}),
        "S2A_MSIL2A_20170924T113321_4_55": ("Ireland", "autumn", {"Pastures", "Marine waters"}),
    }
    for number, patch in enumerate(archive.attribute("patch_id")):
        labels = {name for name, present in zip(archive.class_names, archive.labels[number]) if present}
        found = (archive.attribute("country")[number], archive.attribute("season")[number], labels)
        assert found == expected[patch]


@pytest.mark.parametrize("version", [0, 1])
def test_pairs_and_pixels(trees, version):
    archive = archives.open(f"bigearthnet:{trees[version]}", modalities=["s2", "s1"], bands=12)
    order = np.array([2, 0, 2, 1])
    optical, radar = archive.read("s2", order), archive.read("s1", order)
    assert optical.shape == (4, 120, 120, 12)
    assert radar.shape == (4, 120, 120, 2)
    assert archive.modalities["s2"].mean is None
    # Both sensors' files of a pair were written with the same number.
    numbers = optical[:, 0, 0, 1] // 1000 - 1
    np.testing.assert_allclose(radar[:, 0, 0, 0], -12 - numbers)
    np.testing.assert_allclose(radar[:, 0, 0, 1] - radar[:, 0, 0, 0], -7)
    np.testing.assert_array_equal(optical[0], optical[2])
    names = [name for name, *_ in (V1_PATCHES, V2_PATCHES)[version]]
    assert [names[int(number)] for number in numbers] == archive.attribute("patch_id")[order].tolist()


def test_v2(trees):
    archive = archives.open(f"bigearthnet:{trees[1]}", image_size=32)
    assert archive.modalities["s1"].shape == (32, 32, 2)
    assert archive.read("s1", np.arange(3)).shape == (3, 32, 32, 2)
    assert archive.attribute("country").tolist() == ["Austria", "Austria", "Finland"]
    assert archive.attribute("season").tolist() == ["summer", "summer", "winter"]
    assert archive.splits.tolist() == ["train", "validation", "test"]
    assert archive.labels.sum(1).tolist() == [2, 1, 1]
    assert json.loads(json.dumps(archive.describe()))["left_out_unpaired"] == 0


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_resampling_of_coarse_bands(trees):
    reference = f"bigearthnet:{trees[0]}"
    smooth = archives.open(reference, bands=12).read("s2", np.array([0]))[0]
    blocks = archives.open(reference, bands=12, resampling="nearest").read("s2", np.array([0]))[0]
    np.testing.assert_array_equal(smooth[..., 1], blocks[..., 1])  # 10 m: as it is
    assert (blocks[::6, ::6, 0] == blocks[5::6, 5::6, 0]).all()
    assert not (smooth[::6, ::6, 0] == smooth[5::6, 5::6, 0]).all()
    with rasterio.open(next((trees[0] / "BigEarthNet-v1.0").glob("S2A*87_48/*B05.tif"))) as file:
        np.testing.assert_array_equal(blocks[::2, ::2, 4], file.read(1))
        expected = file.read(
            1, out_shape=(120, 120), out_dtype="float32", resampling=rasterio.enums.Resampling.bilinear
        )
    np.testing.assert_allclose(smooth[..., 4], expected, atol=0.5)  # GDAL rounds to whole numbers
    small = archives.open(reference, image_size=30).read("s2", np.array([0]))[0]
    np.testing.assert_allclose(small[..., 0], smooth[..., 1].reshape(30, 4, 30, 4).mean((1, 3)), rtol=1e-5)


def test_v1_splits_and_lists(v1):
    for name, patches in V1_CSV.items():
        write_csv(v1, name, patches)
    archive = archives.open(f"bigearthnet:{v1}")
    split_of = dict(zip(archive.attribute("patch_id"), archive.splits))
    assert [split_of[patch] for patch, *_ in V1_PATCHES] == ["train", "validation", "test"]
    write_csv(v1, "patches_with_seasonal_snow.csv", [1])
    (v1 / "splits").mkdir()
    (v1 / "test.csv").rename(v1 / "splits" / "test.csv")  # the lists beside the patches go first
    archive = archives.open(f"bigearthnet:{v1}")
    assert archive.attribute("patch_id").tolist() == [V1_PATCHES[0][0]]
    assert archive.notes["left_out_snow_cloud_shadow"] == 1
    assert archive.notes["left_out_not_in_split"] == 1


def test_v1_takes_countries_from_the_metadata_of_v2(v1, v2):
    def rename(rows):
        return [row | {"s2v1_name": V1_PATCHES[0][0], "country": "Kosovo"} for row in rows[:1]]

    change_metadata(v2, rename)
    shutil.copy(v2 / "metadata.parquet", v1)
    archive = archives.open(f"bigearthnet:{v1}")
    country = dict(zip(archive.attribute("patch_id"), archive.attribute("country")))
    assert country[V1_PATCHES[0][0]] == "Kosovo"
    assert country[V1_PATCHES[1][0]] == "Finland"


def test_unpaired_patches_are_left_out_and_counted(v1, v2):
    shutil.rmtree(next((v1 / "BigEarthNet-S1-v1.0").iterdir()))
    shutil.rmtree(next((v2 / "BigEarthNet-S2").glob("*/*")))
    for directory in (v1, v2):
        archive = archives.open(f"bigearthnet:{directory}")
        assert len(archive) == 2
        assert archive.describe()["left_out_unpaired"] == 1
        assert archive.describe()["unpaired_share"] == 0.2
    assert len(archives.open(f"bigearthnet:{v1}", modalities=["s2"])) == 3
    assert len(archives.open(f"bigearthnet:{v2}", modalities=["s1"])) == 3


@pytest.mark.parametrize("version", [0, 1])
def test_no_pair_at_all(v1, v2, version):
    directory = (v1, v2)[version]
    pattern = ("*-S1-v1.0/*", "*-S1/*/*")[version]
    for number, (radar, optical) in enumerate(zip(sorted(directory.glob(pattern)), range(3), strict=True)):
        if number == optical == 0:
            kept = radar.name
            continue
        shutil.rmtree(radar)
    column_row = kept.split("_")[-2:]
    for folder in directory.glob(("BigEarthNet-v1.0/*", "BigEarthNet-S2/*/*")[version]):
        if folder.name.split("_")[-2:] == column_row:
            shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"unpaired, 100 % .*1 of s1, 2 of s2.*one modality alone"):
        archives.open(f"bigearthnet:{directory}")
    assert len(archives.open(f"bigearthnet:{directory}", modalities=["s2"])) == 2


def test_patches_without_a_class_are_left_out(v1):
    for path in v1.glob("*/*57_38/*.json"):
        path.write_text(path.read_text().replace('"Coniferous forest", ', ""))
    archive = archives.open(f"bigearthnet:{v1}")
    assert len(archive) == 2
    assert archive.describe()["left_out_without_label"] == 1


def test_v2_patches_without_metadata_are_left_out(v2):
    change_metadata(v2, lambda rows: rows[:2])
    archive = archives.open(f"bigearthnet:{v2}")
    assert len(archive) == 2
    assert archive.describe()["left_out_without_metadata"] == {"s1": 1, "s2": 1}
    change_metadata(v2, lambda rows: [row | {"patch_id": row["patch_id"].replace("R0", "R1")} for row in rows])
    with pytest.raises(UserError, match=r"none of the 3 s2 patches has a row in metadata\.parquet"):
        archives.open(f"bigearthnet:{v2}")


def test_damaged_files(v1):
    folder = next((v1 / "BigEarthNet-v1.0").glob("*87_48"))
    archive = archives.open(f"bigearthnet:{v1}")
    place = archive.attribute("patch_id").tolist().index(folder.name)
    cut, missing, wrong, other = (folder / f"{folder.name}_{band}.tif" for band in ("B02", "B03", "B05", "B08"))
    whole = cut.read_bytes()
    for length in (0, 6, 200, len(whole) // 2):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"87_48_B02\.tif: cannot be read as a GeoTIFF"):
            archive.read("s2", np.array([place]))
    cut.write_bytes(whole)
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(UserError, match=r"87_48_B03\.tif: no such file"):
        archive.read("s2", np.array([place]))
    missing.write_bytes(content)
    write_band(wrong, 120, "uint16", 5)
    with pytest.raises(UserError, match=r"87_48_B05\.tif: 120 x 120 pixels, this band has 60 x 60"):
        archive.read("s2", np.array([place]))
    write_band(wrong, 60, "uint16", 5)
    other.write_text("not an image")
    with pytest.raises(UserError, match=r"87_48_B08\.tif: cannot be read"):
        archive.read("s2", np.array([place]))
    archive.read("s1", np.array([place]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Mixed forest"', '"Mixt forest"', "label 'Mixt forest' is none of CORINE's"),
        ('"labels"', '"label"', "no list of labels"),
        ("{", "", "cannot be read as json"),
        ("corresponding_s2_patch", "pair", "no corresponding_s2_patch"),
    ],
)
def test_bad_json(v1, old, new, message):
    path = next(v1.glob("BigEarthNet-S1-v1.0/*87_48/*.json"))
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=f"87_48_labels_metadata.json: {message}"):
        archives.open(f"bigearthnet:{v1}")


def test_missing_json(v1):
    next(v1.glob("BigEarthNet-S1-v1.0/*87_48/*.json")).unlink()
    with pytest.raises(UserError, match=r"labels_metadata\.json: no such file"):
        archives.open(f"bigearthnet:{v1}")


def test_bad_metadata(v2):
    path = v2 / "metadata.parquet"
    change_metadata(v2, lambda rows: [row | {"labels": ["Arable lands"]} for row in rows])
    with pytest.raises(UserError, match=r"metadata\.parquet: column 'labels', row 0: label 'Arable lands' is none"):
        archives.open(f"bigearthnet:{v2}")
    change_metadata(v2, lambda rows: [{"patch_id": "x"} for row in rows])
    with pytest.raises(UserError, match=r"metadata\.parquet: column 'labels' is missing; found: patch_id"):
        archives.open(f"bigearthnet:{v2}")
    path.write_text("no parquet")
    with pytest.raises(UserError, match=r"metadata\.parquet: cannot be read"):
        archives.open(f"bigearthnet:{v2}")
    path.unlink()
    with pytest.raises(UserError, match=r"metadata\.parquet: no such file"):
        archives.open(f"bigearthnet:{v2}")


def test_bad_folders(v1, v2, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        archives.open(f"bigearthnet:{tmp_path / 'none'}")
    with pytest.raises(UserError, match=r"not a BigEarthNet tree.*BigEarthNet-S1-v1\.0\+BigEarthNet-v1\.0 or"):
        archives.open(f"bigearthnet:{tmp_path}")
    with pytest.raises(UserError, match="a location is missing"):
        archives.open("bigearthnet")
    shutil.copytree(v2 / "BigEarthNet-S1", v1 / "BigEarthNet-S1")
    with pytest.raises(UserError, match="holds both v1 and v2"):
        archives.open(f"bigearthnet:{v1}")
    shutil.rmtree(v2 / "BigEarthNet-S2")
    assert list(archives.open(f"bigearthnet:{v2}").modalities) == ["s1"]
    with pytest.raises(UserError, match=r"'s2' is no modality .*there are: s1"):
        archives.open(f"bigearthnet:{v2}", modalities=["s2"])
    (v2 / "BigEarthNet-S2").mkdir()
    with pytest.raises(UserError, match="the archive is empty, no s2 patch"):
        archives.open(f"bigearthnet:{v2}")


def test_nothing_is_left(v1):
    write_csv(v1, "patches_with_cloud_and_shadow.csv", [0, 1, 2])
    with pytest.raises(UserError, match=r"no patch is left of 3.*'left_out_snow_cloud_shadow': 3"):
        archives.open(f"bigearthnet:{v1}")


CORINE = [label for parts in nomenclature.CLASSES.values() for label in parts]


def test_nomenclature_counts():
    assert len(nomenclature.CLASS_NAMES) == 19
    assert len(set(CORINE) | set(nomenclature.DROPPED)) == len(CORINE) + len(nomenclature.DROPPED) == 43
    assert len(nomenclature.S2_BANDS_12) == 12
    assert set(nomenclature.BAND_SIZES) == {*nomenclature.S1_CHANNELS, *nomenclature.S2_BANDS_12}


@given(st.lists(st.sampled_from([*CORINE, *nomenclature.DROPPED])))
def test_nomenclature_is_a_mapping(labels):
    present = nomenclature.classes_of(labels)
    expected = {name for name, parts in nomenclature.CLASSES.items() if set(parts) & set(labels)}
    assert {nomenclature.CLASS_NAMES[number] for number in np.flatnonzero(present)} == expected
    names = [name for name, there in zip(nomenclature.CLASS_NAMES, present) if there]
    np.testing.assert_array_equal(nomenclature.classes_of(names), present)


@given(st.text())
def test_unknown_labels_are_refused(label):
    if label not in (*CORINE, *nomenclature.DROPPED, *nomenclature.CLASS_NAMES):
        with pytest.raises(KeyError):
            nomenclature.classes_of([label])


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48", "33UUP"),
        ("S2A_MSIL1C_20170613T101031_N0205_R022_T35VPK_20170613T101608.SAFE", "35VPK"),
        ("S2A_MSIL2A_20170613T101031_87_48", ""),
    ],
)
def test_tiles(name, tile):
    assert nomenclature.tile_of(name) == tile


@pytest.mark.skipif(not (REAL_DATA / "bigearthnet_v1").exists(), reason="BigEarthNet samples are not here")
def test_real_v1():
    archive = archives.open(f"bigearthnet:{REAL_DATA / 'bigearthnet_v1'}")
    assert len(archive) == 6
    assert set(archive.attribute("country")) == {"Austria", "Finland", "Ireland", "Portugal"}
    assert -25 < archive.read("s1", np.arange(6)).mean() < -5
    assert 200 < archive.read("s2", np.arange(6)).mean() < 5000


@pytest.mark.skipif(not (REAL_DATA / "bigearthnet_v2").exists(), reason="BigEarthNet samples are not here")
def test_real_v2():
    reference = f"bigearthnet:{REAL_DATA / 'bigearthnet_v2'}"
    with pytest.raises(UserError, match="unpaired, 100 %"):
        archives.open(reference)
    archive = archives.open(reference, modalities=["s2"])
    assert archive.attribute("country").tolist() == ["Austria"]
    assert archive.read("s2", np.array([0])).shape == (1, 120, 120, 10)
    published = REAL_DATA / "bigearthnet_v2" / "metadata.parquet"
    table = pyarrow.parquet.read_table(published, columns=["patch_id", "country"])
    for row in table.slice(0, len(table)).take(np.arange(0, len(table), 997)).to_pylist():
        *_, tile, column, line = row["patch_id"].split("_")
        if tile != "T34TEN":
            assert nomenclature.country_of_tile(tile[1:], int(column), int(line)) == row["country"]
