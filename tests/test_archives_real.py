"""Real samples of BigEarthNet, where they are: values equal to rasterio's, through every way to read them."""

import shutil
import warnings

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio
from lmdbs import bands_of, write_lmdb
from real_data import REAL_DATA

from mmfl_jax import archives
from mmfl_jax.archives.bigearthnet.nomenclature import BAND_SIZES, tile_of
from mmfl_jax.archives.prepared.prepare import prepare

V1, V2 = REAL_DATA / "bigearthnet_v1", REAL_DATA / "bigearthnet_v2"
pytestmark = pytest.mark.skipif(not (V1.exists() and V2.exists()), reason="BigEarthNet samples are not here")


def assert_rasterios(archive, modality, folders):
    """Hold each band at its own pixels against rasterio's, and the bilinear ones between their neighbours."""
    images = archive.read(modality, np.arange(len(folders)))
    assert np.isfinite(images).all()
    for folder, image in zip(folders, images, strict=True):
        for number, band in enumerate(archive.modalities[modality].channels):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with rasterio.open(folder / f"{folder.name}_{band}.tif") as file:
                    pixels = file.read(1)
            step = 120 // BAND_SIZES[band]
            np.testing.assert_array_equal(image[..., number], np.kron(pixels, np.ones((step, step), pixels.dtype)))


def as_v2(archive, pairs, directory):
    """Write the metadata that calls patches of v1 as v2 does; return the new names of both sensors' patches."""
    rows, names = [], {}
    for row, (optical, radar) in enumerate(pairs):
        satellite, level, time, *place = optical.name.split("_")
        name = "_".join([satellite, level, time, "N9999", "R022", f"T{tile_of(radar.name)}", *place])
        names[name], names[radar.name] = optical, radar
        labels = [c for c, there in zip(archive.class_names, archive.labels[row]) if there]
        country = archive.attribute("country")[row]
        rows.append({"patch_id": name, "labels": labels, "split": "train", "country": country})
        rows[-1] |= {"s1_name": radar.name, "s2v1_name": optical.name}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), directory / "metadata.parquet")
    return names


@pytest.mark.parametrize("way", ["tree", "lmdb", "prepared", "prepared from lmdb"])
def test_the_six_pairs_of_v1(tmp_path, way):
    options = {"bands": 12, "resampling": "nearest"}
    tree = archives.open(f"bigearthnet:{V1}", **options)
    optical = [V1 / "BigEarthNet-v1.0" / name for name in tree.attribute("patch_id")]
    radar = [
        next((V1 / "BigEarthNet-S1-v1.0").glob(f"*_{place}"))
        for place in tree.attribute("place")  # which radar's names end in
    ]
    directory = V1
    if "lmdb" in way:
        directory = tmp_path / "lmdb"
        directory.mkdir()
        names = as_v2(tree, list(zip(optical, radar, strict=True)), directory)
        write_lmdb(directory / "Encoded-BigEarthNet", {name: bands_of(folder) for name, folder in names.items()})
    if "prepared" in way:
        prepare(f"bigearthnet:{directory}", tmp_path / "copy", workers=1)
        directory = tmp_path / "copy"
    archive = archives.open(f"bigearthnet:{directory}", **options)
    assert len(archive) == 6
    np.testing.assert_array_equal(archive.labels, tree.labels)
    assert_rasterios(archive, "s1", radar)
    assert_rasterios(archive, "s2", optical)
    smooth, expected = archives.open(f"bigearthnet:{directory}"), archives.open(f"bigearthnet:{V1}")
    for modality in ("s1", "s2"):
        np.testing.assert_array_equal(smooth.read(modality, np.arange(6)), expected.read(modality, np.arange(6)))


@pytest.mark.parametrize("modality", ["s1", "s2"])
@pytest.mark.parametrize("way", ["tree", "lmdb", "prepared"])
def test_the_samples_of_v2(tmp_path, modality, way):
    folder = next((V2 / f"BigEarthNet-{modality.upper()}").glob("*/*"))
    directory = V2
    if way == "lmdb":
        directory = write_lmdb(tmp_path / "lmdb", {folder.name: bands_of(folder)})
        shutil.copy(V2 / "metadata.parquet", directory)
    if way == "prepared":
        prepare(f"bigearthnet:{V2}", tmp_path / "copy", modalities=[modality], workers=1)
        directory = tmp_path / "copy"
    archive = archives.open(f"bigearthnet:{directory}", modalities=[modality], bands=12, resampling="nearest")
    assert len(archive) == 1
    assert_rasterios(archive, modality, [folder])
