"""The twin's tiles: what they promise about land, owners, order and sensors."""

import numpy as np
import pytest

from mmfl_jax import archives
from mmfl_jax.archives.base import IGNORED
from mmfl_jax.archives.twin import statistics, surfaces
from mmfl_jax.errors import UserError

SIZE, SAMPLES = 32, 800


@pytest.fixture(scope="module")
def tiles():
    return archives.open("twintiles", image_size=SIZE, samples=SAMPLES)


@pytest.fixture(scope="module")
def maps(tiles):
    return tiles.read_labels(np.arange(SAMPLES))


@pytest.fixture(scope="module")
def images(tiles):
    return {modality: tiles.read(modality, np.arange(SAMPLES)) for modality in tiles.modalities}


def test_specification(tiles):
    assert tiles.task == "pixel"
    assert tiles.modalities["s1"].shape == (SIZE, SIZE, 2)
    assert tiles.modalities["s2"].shape == (SIZE, SIZE, 10)
    assert archives.open("twintiles", samples=3).modalities["s2"].shape == (64, 64, 10)
    assert set(tiles.attributes) == {"country", "season", "patch_id"}
    assert len(set(tiles.attribute("patch_id"))) == SAMPLES
    assert set(tiles.attribute("country")) == set(statistics.COUNTRIES) == set(surfaces.LANDSCAPES)
    assert tiles.describe()["seed"] == 0
    assert len(set(tiles.class_colors)) == len(tiles.class_names) == 8
    for name, share in statistics.SPLIT_SHARES.items():
        assert (tiles.splits == name).mean() == pytest.approx(share, abs=0.02)


def test_tiles_depend_on_seed_and_index_alone(tiles, maps, images):
    order = np.array([700, 3, 3, 41, 799, 0])
    larger = archives.open("twintiles", image_size=SIZE, samples=SAMPLES + 70)
    other = archives.open("twintiles", image_size=SIZE, samples=SAMPLES, seed=1)
    np.testing.assert_array_equal(larger.labels[:SAMPLES], tiles.labels)
    np.testing.assert_array_equal(larger.attribute("season")[:SAMPLES], tiles.attribute("season"))
    np.testing.assert_array_equal(tiles.read_labels(order), maps[order])
    np.testing.assert_array_equal(larger.read_labels(order), maps[order])
    assert (other.read_labels(order) != maps[order]).mean() > 0.5
    for modality, all_images in images.items():
        np.testing.assert_array_equal(tiles.read(modality, order), all_images[order])
        np.testing.assert_array_equal(larger.read(modality, order), all_images[order])
        assert np.abs(other.read(modality, order) - all_images[order]).mean() > 1


def test_labels_count_the_pixels_of_the_maps(tiles, maps):
    assert (tiles.labels.dtype, maps.dtype, maps.shape) == (np.int64, np.uint8, (SAMPLES, SIZE, SIZE))
    counts = np.stack([np.bincount(labels.ravel(), minlength=256) for labels in maps])
    np.testing.assert_array_equal(counts[:, :8], tiles.labels)
    assert set(np.unique(maps)) == {*range(8), IGNORED}
    assert 0.005 < (maps == IGNORED).mean() < 0.04
    assert (tiles.labels.sum(1) > 0).all()


def test_every_class_has_its_share(tiles):
    shares = tiles.labels.sum(0) / tiles.labels.sum()
    assert shares.min() > 0.02
    assert shares.max() < 0.4
    assert (tiles.labels > 0).sum(1).mean() > 3  # a tile is a landscape, not one class


def test_owners_have_landscapes_of_their_own(tiles):
    def share(country, name):
        of = tiles.labels[tiles.attribute("country") == country].sum(0)
        return of[tiles.class_names.index(name)] / of.sum()

    assert share("Finland", "trees") > share("Portugal", "trees") + 0.1
    assert share("Ireland", "grass") > 2 * share("Finland", "grass")
    assert share("Serbia", "crops") > 2 * share("Ireland", "crops")
    assert share("Portugal", "shrub and scrub") > 2 * share("Finland", "shrub and scrub")
    assert share("Belgium", "built") > share("Finland", "built") + 0.05
    seasons = tiles.attribute("season")
    assert set(seasons[tiles.attribute("country") == "Kosovo"]) == {"winter"}
    assert set(seasons[tiles.attribute("country") == "Switzerland"]) == {"summer"}


def test_values_are_those_of_the_sensors(tiles, images):
    assert -70 < images["s1"].min() < images["s1"].max() < 30  # dB
    assert 0 < images["s2"].min() < images["s2"].max() < 15_000  # reflectance x 10,000
    for modality, spec in tiles.modalities.items():
        assert images[modality].dtype == np.float32
        np.testing.assert_allclose(images[modality].mean((0, 1, 2)), spec.mean, rtol=0.1)
        np.testing.assert_allclose(images[modality].std((0, 1, 2)), spec.std, rtol=0.15)


def test_sensors_see_the_land_of_the_map(tiles, maps, images):
    """Water is dark to the radar and to the near infrared, and moving the map away takes that from it."""

    def contrast(image, labels):
        return np.median(image[(labels != 0) & (labels != IGNORED)]) - np.median(image[labels == 0])

    near_infrared = tiles.modalities["s2"].channels.index("B08")
    for image, least in (images["s1"][..., 1], 5), (images["s2"][..., near_infrared], 1000):
        assert contrast(image, maps) > least
        assert contrast(image, np.roll(maps, 7, axis=0)) < least / 3
    shore = (maps[:, 1:] == 0) != (maps[:, :-1] == 0)
    steps = np.abs(np.diff(images["s2"][..., near_infrared], axis=1))
    assert np.median(steps[shore]) > 4 * np.median(steps[~shore])


def test_finer_pixels_show_the_same_land(maps):
    """Every third pixel of tiles three times as fine has the same centre; only roads and hedges are narrower."""
    coarse, fine = maps[:200], archives.open("twintiles", image_size=3 * SIZE, samples=200).read_labels(np.arange(200))
    fine = fine[:, 1::3, 1::3]
    assert (coarse == fine).mean() > 0.93
    narrow = np.isin(coarse, [1, 6])  # trees and built
    assert (coarse == fine)[~narrow].mean() > 0.998
    np.testing.assert_array_equal(coarse == IGNORED, fine == IGNORED)


def test_crops_follow_the_season():
    archive = archives.open("twintiles", image_size=16, samples=1200, modalities=["s2"])
    channels = archive.modalities["s2"].channels
    image, labels = archive.read("s2", np.arange(1200)), archive.read_labels(np.arange(1200))
    red, infrared = (image[..., channels.index(band)] for band in ("B04", "B08"))
    green = (infrared - red) / (infrared + red)
    season = archive.attribute("season")

    def greenest(name, crop):
        here = (labels == archive.class_names.index(crop)) & (season == name)[:, None, None]
        return np.quantile(green[here], 0.75)

    assert greenest("spring", "crops") > greenest("winter", "crops") + 0.08
    assert greenest("summer", "crops") > greenest("autumn", "crops") + 0.15
    # Meadows stay green where most fields are bare.
    assert greenest("autumn", "grass") > greenest("autumn", "crops") + 0.15


def test_twelve_bands_hold_the_ten(tiles, images):
    twelve = archives.open("twintiles", image_size=SIZE, samples=SAMPLES, bands=12, modalities=["s2"])
    channels = [twelve.modalities["s2"].channels.index(band) for band in tiles.modalities["s2"].channels]
    np.testing.assert_allclose(twelve.read("s2", np.arange(5))[..., channels], images["s2"][:5], rtol=1e-4)


def test_each_sensor_informs_and_both_inform_more(tiles, maps, images):
    """A forest that sees single pixels is neither at chance nor perfect, and either sensor alone lacks something."""
    from sklearn.ensemble import RandomForestClassifier

    chance = np.random.default_rng(0)

    def pixels(split, count):
        rows = chance.choice(np.flatnonzero(tiles.splits == split), count)
        y, x = chance.integers(0, SIZE, (2, count))
        labelled = maps[rows, y, x] != IGNORED
        return rows[labelled], y[labelled], x[labelled]

    train, test = pixels("train", 12_000), pixels("test", 8_000)
    scores = {}
    for name, modalities in {"s1": ["s1"], "s2": ["s2"], "both": ["s1", "s2"]}.items():
        values = [np.concatenate([images[m][where] for m in modalities], 1) for where in (train, test)]
        forest = RandomForestClassifier(30, min_samples_leaf=5, random_state=0).fit(values[0], maps[train])
        scores[name] = forest.score(values[1], maps[test])
    frequent = np.bincount(maps[test]).max() / len(maps[test])
    assert frequent + 0.15 < scores["s1"] < 0.65
    assert 0.55 < scores["s2"] < 0.8
    assert max(scores["s1"], scores["s2"]) + 0.05 < scores["both"] < 0.95


def test_nothing_to_read(tiles):
    assert tiles.read("s2", np.array([], int)).shape == (0, SIZE, SIZE, 10)
    assert tiles.read_labels(np.array([], int)).shape == (0, SIZE, SIZE)
    with pytest.raises(UserError, match=f"index {SAMPLES}: archive twintiles has samples 0 to {SAMPLES - 1}"):
        tiles.read_labels(np.array([SAMPLES]))


@pytest.mark.parametrize(
    "reference, options, message",
    [
        ("twintiles", {"image_size": 15}, "image_size 15: tiles of the twin have at least 16 pixels a side"),
        ("twintiles", {"modalities": ["rgb"]}, "'rgb' is no modality of the twin's tiles; there are: s1, s2"),
        ("twintiles:x", {}, "twintiles:x: the twin has no location"),
    ],
)
def test_bad_options(reference, options, message):
    with pytest.raises(UserError, match=message):
        archives.open(reference, **options)
