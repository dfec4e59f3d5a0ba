"""The twin: what it promises about labels, countries, images and their order."""

import math

import numpy as np
import pytest

from mmfl_jax import archives
from mmfl_jax.archives.twin import statistics
from mmfl_jax.archives.twin.cache import Drawn
from mmfl_jax.archives.twin.owners import FLOOR, countries_and_ranks
from mmfl_jax.archives.twin.patches import Twin
from mmfl_jax.errors import UserError

SIZE = 16


@pytest.fixture(scope="module")
def twin():
    return archives.open("twin", image_size=SIZE, samples=1200)


def test_specification(twin):
    assert list(twin.modalities) == ["s1", "s2"]
    assert twin.modalities["s1"].shape == (SIZE, SIZE, 2)
    assert twin.modalities["s2"].shape == (SIZE, SIZE, 10)
    assert archives.open("twin", samples=9).modalities["s2"].shape == (120, 120, 10)
    twelve = archives.open("twin", samples=9, bands=12, modalities=["s2"]).modalities["s2"]
    assert twelve.channels[0] == "B01"
    assert twelve.mean is None
    assert (twin.labels.dtype, twin.labels.shape) == (np.uint8, (1200, 19))
    assert len(set(twin.attribute("patch_id"))) == 1200
    assert twin.describe()["attributes"]["country"] == 10


def test_images_depend_on_seed_and_index_alone(twin):
    order = np.array([700, 3, 3, 41, 1199, 0])
    larger = archives.open("twin", image_size=SIZE, samples=1300)
    other = archives.open("twin", image_size=SIZE, samples=1200, seed=1)
    np.testing.assert_array_equal(larger.labels[:1200], twin.labels)
    for modality in twin.modalities:
        images = twin.read(modality, order)
        np.testing.assert_array_equal(images[1], images[2])
        np.testing.assert_array_equal(twin.read(modality, np.arange(100))[[3, 41, 0]], images[[1, 3, 5]])
        np.testing.assert_array_equal(larger.read(modality, order), images)
        assert np.abs(other.read(modality, order) - images).mean() > 1
    assert (other.labels != twin.labels).any()


def test_statistics_are_those_of_the_real_archive(twin):
    for modality, spec in twin.modalities.items():
        images = twin.read(modality, np.arange(160, 1200))  # past the floor, countries have their real shares
        assert images.dtype == np.float32
        assert np.isfinite(images).all()
        np.testing.assert_allclose(images.mean((0, 1, 2)), spec.mean, rtol=0.15)
        np.testing.assert_allclose(images.std((0, 1, 2)), spec.std, rtol=0.15)
        assert (images.std((1, 2)) > 0).all()


def test_twelve_bands_hold_the_ten(twin):
    twelve = archives.open("twin", image_size=SIZE, samples=1200, bands=12, modalities=["s2"])
    channels = [twelve.modalities["s2"].channels.index(band) for band in twin.modalities["s2"].channels]
    indices = np.arange(5)
    np.testing.assert_allclose(twelve.read("s2", indices)[..., channels], twin.read("s2", indices), rtol=1e-4)


@pytest.mark.parametrize("samples", [1, 30, 160, 4000, 50_000])
def test_countries_have_their_real_sizes(samples):
    countries, ranks = countries_and_ranks(samples)
    counts = np.bincount(countries, minlength=10)
    assert counts.sum() == len(ranks) == samples
    assert counts.max() - counts.min() <= 1 or (counts >= FLOOR).all()
    if samples >= 4000:
        expected = np.maximum(samples * statistics.COUNTRY_SIZES / 480_038, FLOOR)
        np.testing.assert_allclose(counts, expected, atol=0.01 * samples)
    for country in range(10):
        assert sorted(ranks[countries == country]) == list(range(counts[country]))


def test_the_figures_are_those_of_the_archive():
    sizes = dict(zip(statistics.COUNTRIES, statistics.COUNTRY_SIZES))
    assert sum(sizes.values()) == 480_038
    assert (sizes["Finland"], sizes["Kosovo"]) == (155_227, 1_616)
    assert statistics.CLASS_COUNTS.sum() / 480_038 == pytest.approx(2.95, abs=0.005)
    assert np.linalg.eigvalsh(statistics.label_correlations()).min() > 0


def test_labels_follow_the_real_frequencies():
    archive = archives.open("twin", samples=20_000)
    assert archive.labels.any(1).all()
    assert archive.labels.sum(1).mean() == pytest.approx(2.95, abs=0.1)
    for country in ("Finland", "Portugal", "Ireland"):
        number = statistics.COUNTRIES.index(country)
        real = statistics.CLASS_COUNTS[:, number] / statistics.COUNTRY_SIZES[number]
        found = archive.labels[archive.attribute("country") == country].mean(0)
        np.testing.assert_allclose(found, real, atol=0.06)
        seasons = archive.attribute("season")[archive.attribute("country") == country]
        winter = statistics.COUNTRY_SEASONS[country][0] / statistics.COUNTRY_SIZES[number]
        assert (seasons == "winter").mean() == pytest.approx(winter, abs=0.03)


def test_splits_have_the_real_proportions(twin):
    for name, share in statistics.SPLIT_SHARES.items():
        assert (twin.splits == name).mean() == pytest.approx(share, abs=0.02)
        for country in statistics.COUNTRIES:
            assert ((twin.splits == name) & (twin.attribute("country") == country)).sum() >= 3


def test_speckle_is_that_of_multilooked_radar():
    import jax

    from mmfl_jax.archives.twin import images, physics

    power = 10 ** (np.asarray(images.speckle(jax.random.normal(jax.random.key(0), (100_000,)))) / 10)
    assert power.mean() == pytest.approx(1, abs=0.01)
    assert power.std() == pytest.approx(1 / math.sqrt(physics.LOOKS), rel=0.03)


def features(images):
    across, along = np.abs(np.diff(images, axis=1)), np.abs(np.diff(images, axis=2))
    parts = [images.mean((1, 2)), images.std((1, 2)), across.mean((1, 2)), along.mean((1, 2))]
    return np.concatenate(parts + [np.quantile(images, q, axis=(1, 2)) for q in (0.05, 0.95)], axis=1)


def test_each_modality_informs_and_both_inform_more(twin):
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import f1_score

    train, indices = twin.splits != "test", np.arange(len(twin))
    parts = {modality: features(twin.read(modality, indices)) for modality in twin.modalities}
    scores = {}
    for name, columns in {**parts, "both": np.concatenate(list(parts.values()), 1)}.items():
        forest = ExtraTreesClassifier(60, min_samples_leaf=2, max_features=0.2, random_state=0)
        found = forest.fit(columns[train], twin.labels[train]).predict(columns[~train])
        scores[name] = f1_score(twin.labels[~train], found, average="micro", zero_division=0)
    frequent = (twin.labels[train].mean(0) > 0.5)[None].repeat((~train).sum(), 0)
    baseline = f1_score(twin.labels[~train], frequent, average="micro", zero_division=0)
    assert min(scores["s1"], scores["s2"]) > baseline + 0.3
    assert scores["both"] > max(scores["s1"], scores["s2"]) + 0.02


def test_nothing_to_read(twin):
    assert twin.read("s1", np.array([], int)).shape == (0, SIZE, SIZE, 2)
    with pytest.raises(UserError, match="index 1200: archive twin has samples 0 to 1199"):
        twin.read("s1", np.array([1200]))


def test_images_are_drawn_once_and_read_from_disk_after(tmp_path, monkeypatch):
    options = {"image_size": SIZE, "samples": 5000, "modalities": ["s1"], "image_cache": str(tmp_path)}
    rows = np.array([4999, 0, 7])
    first = archives.open("twin", **options).read("s1", rows)
    (file,) = tmp_path.iterdir()
    np.testing.assert_array_equal(first, archives.open("twin", **options | {"image_cache": ""}).read("s1", rows))
    monkeypatch.setattr(Twin, "read", None)
    np.testing.assert_array_equal(archives.open("twin", **options).read("s1", rows), first)
    with pytest.raises(TypeError):  # another seed is drawn
        archives.open("twin", **options, seed=1).read("s1", rows)
    monkeypatch.undo()
    assert not isinstance(archives.open("twin", image_size=SIZE, samples=100, image_cache=str(tmp_path)), Drawn)
    assert list(tmp_path.iterdir()) == [file]
