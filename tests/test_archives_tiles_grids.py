"""Images on another grid than their labels are brought to it, as GDAL does."""

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import Resampling, reproject
from rasters import UTM, image, labels, write

from mmfl_jax import archives
from mmfl_jax.archives.rasters import grids
from mmfl_jax.archives.rasters.grids import Grid


def opened(root, **options):
    return archives.open(f"tiles:{root}", **options)


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


def test_turned_and_upside_down_grids(tmp_path):
    """A plane of eastings stays that plane on a grid that is turned; rows are flipped on one that is upside down."""
    eastings = np.tile(np.arange(60, dtype=np.float32), (60, 1))
    write(tmp_path / "turned" / "s1" / "a.tif", eastings, origin=(500000, 5000000))
    turned = rasterio.Affine(8, 4, 500100, 4, -8, 4999750)
    write(tmp_path / "turned" / "labels" / "a.tif", labels(0), transform=turned)
    found = opened(tmp_path / "turned").read("s1", [0])[0, ..., 0]
    rows, columns = np.mgrid[:16, :16] + 0.5
    np.testing.assert_allclose(found, (100 + 8 * columns + 4 * rows) / 10 - 0.5, atol=0.2)

    write(tmp_path / "flipped" / "s1" / "a.tif", pixels := image(0), origin=(500000, 5000000))
    upwards = rasterio.Affine(10, 0, 500000, 0, 10, 4999840)
    write(tmp_path / "flipped" / "labels" / "a.tif", labels(0), transform=upwards)
    np.testing.assert_allclose(
        np.moveaxis(opened(tmp_path / "flipped").read("s1", [0])[0], -1, 0), pixels[:, ::-1], rtol=1e-6
    )


@given(
    st.integers(2, 40),
    st.integers(1, 60),
    st.floats(0.2, 4),
    st.floats(-5, 5),
    st.sampled_from(["bilinear", "nearest"]),
)
@settings(deadline=None)
def test_aligned_ramps_are_ramps(source, target, scale, offset, method):
    """Bilinear keeps what is linear where all that it weighs lies inside; nearest is off by half a pixel."""
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
