"""Pictures of images of any sensor: stretched where known, true colours by one stretch."""

import numpy as np
import pytest

from mmfl_jax.archives.pictures import composite, picture, shown_bands, true_color


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_composite_stretches_what_is_known(bands):
    values = np.random.default_rng(0).normal(-15, 5, (40, 30, bands)).astype(np.float32)
    values[:5] = np.nan
    seen = composite(values, true=False)
    assert (seen[:5, :, 3] == 0).all()
    assert (seen[5:, :, 3] == 1).all()
    low, high = np.percentile(values[5:, :, 0], (2, 98))
    np.testing.assert_allclose(seen[5:, :, 0], np.clip((values[5:, :, 0] - low) / (high - low), 0, 1), atol=1e-5)
    values[..., -1] = np.nan
    assert not composite(values, true=False).any()


def test_third_colour_of_radar_is_the_ratio():
    linear = np.random.default_rng(0).uniform(0.01, 1, (40, 30, 2)).astype(np.float32)
    ratio, decibels = linear[..., 0] / linear[..., 1], 10 * np.log10(linear)
    for values, third in ((linear, ratio), (decibels, decibels[..., 0] - decibels[..., 1])):
        low, high = np.percentile(third, (2, 98))
        blue = composite(values, true=False)[..., 2]
        np.testing.assert_allclose(blue, np.clip((third - low) / (high - low), 0, 1), atol=1e-5)


def test_true_colours_have_one_stretch():
    grey = np.random.default_rng(0).uniform(0, 3000, (2, 20, 20, 1)).astype(np.float32)
    colors = composite(np.concatenate([grey, grey, grey / 2], axis=-1), true=True)
    np.testing.assert_array_equal(colors[..., 0], colors[..., 1])
    assert colors[..., 2].mean() < 0.7 * colors[..., 0].mean()


def test_clouds_do_not_leave_land_black():
    land = np.random.default_rng(0).uniform(200, 800, (50, 50, 3)).astype(np.float32)
    cloudy = land.copy()
    cloudy[:10] = 9000
    clear, seen = composite(land, true=True)[10:, :, :3], composite(cloudy, true=True)
    assert (seen[:10] == 1).all()
    assert seen[10:, :, :3].mean() > 0.4 * clear.mean()


def test_missing_values_of_a_picture_are_white():
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    images[0, 3, 4, 2] = np.nan
    seen = picture(images, "s2", ("B02", "B03", "B04", "B08"))
    assert (seen[0, 3, 4] == 255).all()
    assert (picture(np.full_like(images, np.nan), "s2", ("B02", "B03", "B04", "B08")) == 255).all()


def test_an_image_of_snow_leaves_others_as_they_are():
    land = np.random.default_rng(0).uniform(200, 800, (1, 20, 20, 3)).astype(np.float32)
    names = ("B04", "B03", "B02")
    beside_snow = picture(np.concatenate([land, land + 9000]), "s2", names)
    np.testing.assert_array_equal(beside_snow[:1], picture(land, "s2", names))


def test_bands_are_found_by_names_or_by_places():
    assert true_color("s2", ("B2", "B03", "b4")) == (2, 1, 0)
    assert true_color("s2l2a", tuple(map(str, range(12)))) == (3, 2, 1)
    assert true_color("s1", ("VV", "VH")) == ()
    assert shown_bands("s1", ("VV", "VH")) == (0, 1)
    assert shown_bands("dem", ("elevation",)) == (0,)
    assert shown_bands("s3", ("Oa01", "Oa02", "Oa03", "Oa04")) == (0, 1, 2)
