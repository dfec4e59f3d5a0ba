"""Archives in ``.npz`` files, and what is common to all archives."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from real_data import REAL_DATA

from mmfl_jax import archives
from mmfl_jax.archives.resampling import resize, weights
from mmfl_jax.errors import UserError

CANADA = REAL_DATA / "worldcereal_canada" / "worldcereal_canada.npz"
RNG = np.random.default_rng(0)


def save(folder, **changes):
    columns = {
        "series": RNG.normal(size=(6, 5, 2)).astype(np.float32),
        "image": RNG.normal(size=(6, 12, 10, 3)),
        "vector": RNG.integers(0, 9, (6, 4)),
        "label": np.array([0, 1, 2, 0, 1, 2]),
        "class_names": np.array(["wheat", "maize", "soya"]),
        "region": np.array(list("aabbcc")),
        "split": np.array(["train"] * 3 + ["validation"] + ["test"] * 2),
    } | changes
    path = folder / "archive.npz"
    np.savez(path, **{key: column for key, column in columns.items() if column is not None})
    return f"arrays:{path}"


def test_reads_what_was_written(tmp_path):
    reference = save(tmp_path)
    archive = archives.open(reference)
    written = np.load(reference.removeprefix("arrays:"))
    assert list(archive.modalities) == ["series", "image", "vector"]
    assert archive.task == "multiclass"
    assert archive.class_names == ("wheat", "maize", "soya")
    assert archive.labels.dtype == np.int32
    assert archive.splits.tolist() == written["split"].tolist()
    for modality in archive.modalities:
        samples = archive.read(modality, np.array([4, 0, 4]))
        assert samples.dtype == np.float32
        assert samples.shape[1:] == archive.modalities[modality].shape
        np.testing.assert_allclose(samples, written[modality][[4, 0, 4]], rtol=1e-6)
    assert archive.attribute("region").tolist() == list("aabbcc")
    assert json.loads(json.dumps(archive.describe()))["attributes"] == {"region": 3}


def test_labels_of_several_classes(tmp_path):
    archive = archives.open(save(tmp_path, label=RNG.integers(0, 2, (6, 3))), modalities=["vector"])
    assert (archive.task, archive.labels.dtype, archive.labels.shape) == ("multilabel", np.uint8, (6, 3))


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    samples=st.integers(2, 7),
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int16, np.uint8]),
    data=st.data(),
)
def test_any_shape_and_number_type(tmp_path_factory, shape, samples, dtype, data):
    array = data.draw(hnp.arrays(dtype, (samples, *shape), elements={"min_value": 0, "max_value": 9}))
    path = tmp_path_factory.mktemp("arrays") / "any.npz"
    np.savez(path, sensor=array, label=np.arange(samples) % 2)
    archive = archives.open(f"arrays:{path}")
    indices = np.array(data.draw(st.lists(st.integers(0, samples - 1), max_size=9)), int)
    np.testing.assert_array_equal(archive.read("sensor", indices), array[indices].astype(np.float32))


def test_missing_values_stay_missing(tmp_path):
    series = RNG.normal(size=(6, 5, 2))
    series[1, 2] = np.nan
    archive = archives.open(save(tmp_path, series=series))
    assert np.isnan(archive.read("series", np.array([1]))[0, 2]).all()


def test_images_are_resized_and_other_shapes_stay(tmp_path):
    reference = save(tmp_path)
    archive = archives.open(reference, modalities=["image"], image_size=8)
    assert archive.read("image", np.arange(3)).shape == (3, 8, 8, 3)
    # A study's image size does not stop it from being run on series.
    assert archives.open(reference, image_size=8).modalities["series"].shape == (5, 2)


def test_subset_is_seeded_and_keeps_the_order(tmp_path):
    reference = save(tmp_path)
    whole, part = archives.open(reference), archives.open(reference, samples=4, seed=3)
    again = archives.open(reference, samples=4, seed=3)
    assert len(part) == 4
    assert part.labels.tolist() == again.labels.tolist()
    places = [np.flatnonzero((whole._arrays["series"] == row).all((1, 2)))[0] for row in part.read("series", range(4))]
    assert places == sorted(places)
    assert part.splits.tolist() == whole.splits[places].tolist()
    assert part.describe()["subset_of"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "no array `label`; found: series"),
        ({"label": np.zeros(5, int)}, "series.*6 rows, label has 5"),
        ({"label": np.array([0, 1, 2, 0, 1, 3])}, "class 3, class_names has 3"),
        ({"label": np.array([0, 1, 2, 0, 1, -1])}, "label holds -1"),
        ({"label": np.full((6, 3), 2)}, "label holds 2.*0 or 1"),
        ({"label": np.eye(6, 2, dtype=int)}, "2 columns, class_names has 3"),
        ({"label": np.zeros(6)}, "label is float64"),
        ({"label": np.zeros(0, int)}, "label is empty"),
        ({"series": np.full((6, 5, 2), np.nan)}, "'series' is NaN throughout"),
        ({"series": np.full((6, 5, 2), np.inf)}, "'series' holds infinite"),
        ({"series": np.array([["a"]] * 6)}, "'series' holds <U1"),
        ({"series": np.zeros((6, 0, 2))}, "no axis may be empty"),
        ({"region": np.arange(4)}, "'region' has 4 rows, label has 6"),
        ({"region": np.array(3)}, "'region' has a single value"),
        ({"region": np.array([{}] * 6)}, "'region' cannot be read.*objects"),
        ({"split": np.array(["train"] * 5 + ["valid"])}, "split holds.*valid"),
        ({"class_names": np.array(["a", "a", "b"])}, "class_names"),
        ({"series": None, "image": None, "vector": None}, "no modality"),
    ],
)
def test_bad_files(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        archives.open(save(tmp_path, **changes))
    assert "archive.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_such_file_and_other_formats(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        archives.open(f"arrays:{tmp_path / 'none.npz'}")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"not an \.npz file"):
        archives.open(f"arrays:{tmp_path / 'single.npy'}")
    reference = save(tmp_path)
    whole = Path(reference.removeprefix("arrays:"))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:400])
    with pytest.raises(UserError, match="damaged"):
        archives.open(f"arrays:{tmp_path / 'cut.npz'}")


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        (
            "twins",
            {},
            "'twins' is no kind of archive.*did you mean twin.*there are: twin, twinscenes, twintiles, .*arrays",
        ),
        ("arrays", {}, "a location is missing; write arrays:FILE.npz"),
        ("twin:here", {}, "the twin has no location"),
        ("twin", {"bands": 11}, "--bands 11: must be one of 10, 12"),
        ("twin", {"resampling": "cubic"}, "--resampling 'cubic' is unknown; one of bilinear, nearest"),
        ("twin", {"image_size": 4}, "--image-size 4: must be 0 .*or a whole number from 8"),
        ("twin", {"modalities": ["S2"]}, "'S2' is no modality of the twin .did you mean s2.*s1, s2"),
        ("twin", {"modalities": ["s1", "s1"]}, "name each modality once"),
        ("twin", {"modalities": []}, "at least one of: s1, s2"),
    ],
)
def test_bad_options(reference, options, message):
    with pytest.raises(UserError, match=message):
        archives.open(reference, **options)


def test_wrong_names_and_indices_when_reading(tmp_path):
    archive = archives.open(save(tmp_path))
    with pytest.raises(UserError, match=r"'serie' is no modality.*did you mean series"):
        archive.read("serie", np.arange(2))
    with pytest.raises(UserError, match="index 6: archive arrays has samples 0 to 5"):
        archive.read("series", np.array([0, 6]))
    with pytest.raises(UserError, match=r"'county' is no attribute.*there are: region"):
        archive.attribute("county")


def test_a_kind_can_be_added(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_KINDS", dict(archives._KINDS))

    @archives.register("twice", "twice:FILE.npz  a file of arrays, by another name")
    def open_twice(location, options):
        return archives.open(f"arrays:{location}", modalities=options.modalities)

    assert archives.archives()["twice"].startswith("twice:FILE.npz")
    assert len(archives.open(save(tmp_path).replace("arrays:", "twice:"))) == 6


@given(source=st.integers(1, 40), target=st.integers(1, 40), method=st.sampled_from(["area", "bilinear", "nearest"]))
def test_resampling_weights(source, target, method):
    matrix = weights(source, target, method)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    assert (matrix >= 0).all()
    if method == "area":  # what one has, the other has: means are kept
        np.testing.assert_allclose(matrix.mean(0), 1 / source, rtol=1e-4)
    np.testing.assert_allclose(weights(source, source, method), np.eye(source), atol=1e-6)


def test_resizing_leaves_missing_values_out():
    image = np.ones((8, 8), np.float32)
    image[:3, :3] = np.nan
    small = resize(image, (4, 4))
    assert np.isnan(small[0, 0])
    assert np.isnan(small).sum() == 1
    np.testing.assert_allclose(small[~np.isnan(small)], 1)


@pytest.mark.skipif(not CANADA.exists(), reason="WorldCereal file is not here")
def test_worldcereal():
    archive = archives.open(f"arrays:{CANADA}", modalities=["s1", "s2"])
    assert {name: spec.shape for name, spec in archive.modalities.items()} == {"s1": (17, 2), "s2": (17, 9)}
    assert (len(archive), len(archive.class_names), len(np.unique(archive.attribute("region")))) == (3063, 8, 58)
    assert archive.read("s2", np.arange(5)).shape == (5, 17, 9)
