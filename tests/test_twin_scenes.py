"""The twin's scenes: one class each, the same for a seed, told apart by their colours."""

import jax
import numpy as np
import pytest

from mmfl_jax import archives
from mmfl_jax.archives.twin.images import draw_place
from mmfl_jax.archives.twin.scenes import NUMBERS, TOLD_APART
from mmfl_jax.errors import UserError

SIZE = 16


@pytest.fixture(scope="module")
def scenes():
    return archives.open("twinscenes", image_size=SIZE, samples=420)


def test_specification(scenes):
    assert scenes.task == "multiclass"
    assert scenes.modalities["rgb"].shape == (SIZE, SIZE, 3)
    assert scenes.class_names[0] == "urban fabric"
    assert "moors" in scenes.class_names
    assert (scenes.labels.dtype, scenes.labels.shape) == (np.int32, (420,))
    assert np.bincount(scenes.labels, minlength=len(TOLD_APART)).min() > 10
    assert set(scenes.attributes) == {"class", "country", "season", "patch_id"}
    assert (scenes.attribute("class") == np.array(scenes.class_names)[scenes.labels]).all()
    assert set(scenes.attribute("country")[scenes.attribute("class") == "agro-forestry areas"]) <= {"Portugal"}


def test_scenes_depend_on_seed_and_index_alone(scenes):
    order = np.array([300, 3, 3, 41])
    larger = archives.open("twinscenes", image_size=SIZE, samples=600)
    np.testing.assert_array_equal(larger.labels[:420], scenes.labels)
    images = scenes.read("rgb", order)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images[1], images[2])
    np.testing.assert_array_equal(larger.read("rgb", order), images)
    np.testing.assert_array_equal(archives.open("twinscenes", image_size=24, samples=420).labels, scenes.labels)
    other = archives.open("twinscenes", image_size=SIZE, samples=420, seed=1)
    assert np.abs(other.read("rgb", order) - images).mean() > 1


def test_the_label_has_the_largest_cover(scenes):
    present, keys = scenes._present, scenes._key
    assert set(present.sum(axis=1)) == {1, 2}
    assert (~present[:, np.setdiff1d(np.arange(19), NUMBERS)]).all()
    for index in np.flatnonzero(present.sum(axis=1) == 2)[:5]:
        shares, _ = draw_place(jax.random.fold_in(keys, index), present[index], 32)
        assert np.asarray(shares).mean((0, 1)).argmax() == NUMBERS[scenes.labels[index]]


def test_colours_are_the_sentinel_bands_stretched(scenes):
    images = scenes.read("rgb", np.arange(100))
    assert images.min() >= 0
    assert images.max() <= 255
    np.testing.assert_array_equal(images, np.round(images))
    assert 40 < images.mean() < 160
    water = images[scenes.labels[:100] == scenes.class_names.index("marine waters")].mean((0, 1, 2))
    sand = images[scenes.labels[:100] == scenes.class_names.index("beaches")].mean((0, 1, 2))
    assert (sand > 1.4 * water).all()


def test_a_location_is_refused():
    with pytest.raises(UserError, match="twinscenes:x: the twin has no location"):
        archives.open("twinscenes:x")
