"""Image features: as the tower gives them, computed once, cached by weights, preparation and files."""

import dataclasses
import functools
import os
import shutil
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from federations import MemoryArchive
from flax import nnx
from PIL import Image
from test_archives_scenes import pixels, write

from mmfl_jax import Federation, archives
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.errors import UserError
from mmfl_jax.models import clip
from mmfl_jax.models.clip import features as module
from mmfl_jax.models.clip.features import FeatureArchive, encode_images

WEIGHTS = Path(__file__).parent / "data" / "clip" / "hugging_face"
SIZE, PROJECTION = 28, 20


@functools.cache
def model():
    return clip.load(WEIGHTS)


@pytest.fixture
def scenes(tmp_path):
    return write(tmp_path / "data", ["lake", "river", "sea_ice"], images=5)


@pytest.fixture
def encode(tmp_path, monkeypatch):
    """Encode with a cache of the test's own; count the images that pass the tower."""
    passed = []
    tower = module._tower
    monkeypatch.setattr(module, "_tower", lambda vision, images: passed.append(len(images)) or tower(vision, images))

    def run(archive, use=None, **options):
        passed.clear()
        options = {"cache": tmp_path / "cache", "quiet": True, "batch_size": 4} | options
        return encode_images(archive, use or model(), **options), sum(passed)

    return run


def cached(tmp_path):
    return sorted(str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").rglob("*"))


def test_features_are_the_towers(scenes, encode):
    archive = archives.open(scenes, image_size=SIZE)
    features, passed = encode(archive)
    assert features.dtype == np.float32
    assert features.shape == (15, PROJECTION)
    assert passed == 16  # the last batch is filled up
    images = [clip.prepare(Image.open(file), SIZE) for file in archive.attribute("file")]
    expected = nnx.jit(lambda model, images: model.vision(images))(model(), clip.normalize(np.stack(images)))
    np.testing.assert_allclose(features, expected, atol=1e-4)
    for batch_size in (1, 100):
        np.testing.assert_allclose(encode(archive, cache=None, batch_size=batch_size)[0], expected, atol=1e-4)


def test_they_are_computed_once(scenes, encode, tmp_path):
    archive = archives.open(scenes, image_size=SIZE)
    features, _ = encode(archive)
    (name,) = cached(tmp_path)
    again, passed = encode(archives.open(scenes, image_size=SIZE))
    assert passed == 0
    assert cached(tmp_path) == [name]
    np.testing.assert_array_equal(again, features)
    # The same files elsewhere are the same images, and weights of the same values are the same weights.
    os.rename(tmp_path / "data", tmp_path / "moved")
    moved = archives.open(f"scenes:{tmp_path}/moved", image_size=SIZE)
    assert encode(moved, clip.load(WEIGHTS))[1] == 0


def change_weight(_):
    changed = clip.load(WEIGHTS)
    changed.vision.class_embedding[...] = jnp.asarray(changed.vision.class_embedding[...]).at[0].add(1e-3)
    return changed


def change_activation(_):
    return clip.load(WEIGHTS, dataclasses.replace(model().config, activation="gelu"))


def change_dtype(_):
    return clip.load(WEIGHTS, dtype=jnp.bfloat16)


def touch(folder):
    os.utime(folder / "lake" / "lake_000.png", (0, 0))


def replace(folder):
    Image.fromarray(pixels(99)).save(folder / "lake" / "lake_000.png")


def rename(folder):
    os.rename(folder / "lake" / "lake_000.png", folder / "lake" / "zz.png")


def remove(folder):
    (folder / "lake" / "lake_000.png").unlink()


@pytest.mark.parametrize("change", [change_weight, change_activation, change_dtype, touch, replace, rename, remove])
def test_what_changes_features_changes_the_key(scenes, encode, tmp_path, change):
    encode(archives.open(scenes, image_size=SIZE))
    use = change(tmp_path / "data")
    assert encode(archives.open(scenes, image_size=SIZE), use)[1] > 0
    assert len(cached(tmp_path)) == 2


def test_another_preparation_is_another_key(scenes, encode, monkeypatch):
    archive = archives.open(scenes, image_size=SIZE)
    encode(archive)
    monkeypatch.setattr(module, "PREPARATION", module.PREPARATION + 1)
    assert encode(archive)[1] > 0


def test_a_subset_has_features_of_its_own(scenes, encode):
    whole, _ = encode(archives.open(scenes, image_size=SIZE))
    archive = archives.open(scenes, image_size=SIZE, samples=6, seed=2)
    features, _ = encode(archive)
    rows = [
        archives.open(scenes, image_size=SIZE).attribute("file").tolist().index(f) for f in archive.attribute("file")
    ]
    np.testing.assert_allclose(features, whole[rows], atol=1e-4)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty", "shape"])
def test_a_damaged_cache_is_computed_again(scenes, encode, tmp_path, damage):
    archive = archives.open(scenes, image_size=SIZE)
    features, _ = encode(archive)
    path = next((tmp_path / "cache").iterdir())
    whole = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(whole[:-400])
    elif damage == "flipped":
        whole[700] ^= 1
        path.write_bytes(whole)
    elif damage == "shape":
        np.savez(path, features=features[1:])
    else:
        path.write_bytes(b"no features" if damage == "text" else b"")
    with pytest.warns(UserWarning, match="damaged .*; the features are computed again") as caught:
        again, passed = encode(archive)
    assert len(caught) == 1
    assert passed == 16
    np.testing.assert_array_equal(again, features)
    assert encode(archive)[1] == 0


def test_what_was_broken_off_goes_on(scenes, encode, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    archive = archives.open(scenes, image_size=SIZE)
    expected, _ = encode(archive, cache=None)
    read = archive.read

    def break_off(modality, indices):
        if 9 in indices:
            raise KeyboardInterrupt
        return read(modality, indices)

    monkeypatch.setattr(archive, "read", break_off)
    with pytest.raises(KeyboardInterrupt):
        encode(archive)
    assert [os.path.basename(path) for path in cached(tmp_path)[1:]] == ["0-4.npz", "4-8.npz"]
    # A block that is damaged is computed again, alone.
    next((tmp_path / "cache").rglob("4-8.npz")).write_bytes(b"")
    monkeypatch.setattr(archive, "read", read)
    with pytest.warns(UserWarning, match=r"4-8.npz: damaged"):
        features, passed = encode(archive)
    assert passed == 12
    np.testing.assert_array_equal(features, expected)
    (name,) = cached(tmp_path)
    assert name.endswith(".npz")


def test_another_process_finishes_the_same_features_first(scenes, encode, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    archive = archives.open(scenes, image_size=SIZE)
    expected, _ = encode(archive)
    next((tmp_path / "cache").iterdir()).unlink()
    replace = os.replace

    def cleared(source, target):
        if os.path.basename(target) == "4-8.npz":
            shutil.rmtree(os.path.dirname(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", cleared)
    np.testing.assert_array_equal(encode(archive)[0], expected)
    assert len(cached(tmp_path)) == 1


def test_an_image_that_decodes_to_nothing_has_no_features(scenes, encode, tmp_path):
    archive = archives.open(scenes, image_size=SIZE)
    expected, _ = encode(archive)
    # Damaged after the archive was opened, so that only decoding finds it.
    damaged = tmp_path / "data" / "river" / "river_002.png"
    content = bytearray(damaged.read_bytes())
    content[60:90] = bytes(30)
    damaged.write_bytes(content)
    with pytest.warns(UserWarning, match=r"1 of 15 images have no features: .*river_002.png") as caught:
        features, _ = encode(archive)
    assert len(caught) == 1
    # The next time only that one is tried again.
    with pytest.warns(UserWarning, match="1 of 15 images have no features"):
        again, passed = encode(archive)
    assert passed == 0
    np.testing.assert_array_equal(again, features)
    row = archive.attribute("file").tolist().index(str(damaged))
    assert np.isnan(features[row]).all()
    others = np.arange(15) != row
    np.testing.assert_allclose(features[others], expected[others], atol=1e-4)
    with pytest.warns(UserWarning, match=r"1 of 15 images have no features and are left out, first .*river_002.png"):
        kept = FeatureArchive(archive, features)
    assert len(kept) == 14
    assert str(damaged) not in kept.attribute("file")
    assert kept.notes["left_out_without_features"] == 1
    np.testing.assert_array_equal(kept.read("rgb", np.arange(14)), features[others])


def test_what_could_not_be_read_once_is_tried_again(scenes, encode, tmp_path, monkeypatch):
    archive = archives.open(scenes, image_size=SIZE)
    read = archive.read

    def fail(modality, indices):
        if 7 in indices:
            raise UserError("the disk is away")
        return read(modality, indices)

    monkeypatch.setattr(archive, "read", fail)
    with pytest.warns(UserWarning, match="1 of 15 images have no features: the disk is away"):
        assert np.isnan(encode(archive)[0]).any(axis=1).tolist() == [i == 7 for i in range(15)]
    monkeypatch.setattr(archive, "read", read)
    features, passed = encode(archive)
    assert passed == 4
    assert np.isfinite(features).all()
    assert encode(archive)[1] == 0
    assert len(cached(tmp_path)) == 1


def test_weights_that_are_not_finite(scenes, encode):
    broken = clip.load(WEIGHTS)
    broken.vision.class_embedding[...] = jnp.full(32, jnp.nan)
    with pytest.raises(UserError, match="no image has finite features; the model's weights are not finite"):
        encode(archives.open(scenes, image_size=SIZE), broken)


def test_mistakes(scenes, encode, tmp_path):
    archive = archives.open(scenes, image_size=16)
    with pytest.raises(UserError, match=r"'rgb' has shape \(16, 16, 3\), this CLIP takes \(28, 28, 3\); open the arch"):
        encode(archive)
    archive = archives.open(scenes, image_size=SIZE)
    with pytest.raises(UserError, match="modality 's2' has shape None"):
        encode(archive, modality="s2")
    with pytest.raises(UserError, match="batch_size 0: at least 1"):
        encode(archive, batch_size=0)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"file/.*: features cannot be cached there .*; choose another cache"):
        encode(archive, cache=tmp_path / "file")
    memory = MemoryArchive(samples=4, shapes={"rgb": (SIZE, SIZE, 3)})
    assert encode(memory)[0].shape == (4, PROJECTION)  # without files there is nothing to key a cache by
    with pytest.raises(UserError, match=r"features have shape \(4, 24\); archive scenes has 15 samples"):
        FeatureArchive(archive, np.zeros((4, 24), np.float32))


def test_the_engine_takes_features_as_they_are(scenes, encode):
    archive = archives.open(scenes, image_size=SIZE)
    features, _ = encode(archive)
    view = FeatureArchive(archive, features)
    assert view.modalities["rgb"].shape == (PROJECTION,)
    assert (view.task, view.class_names, view.splits) == ("multiclass", archive.class_names, None)
    np.testing.assert_array_equal(view.labels, archive.labels)
    federation = Federation.split(view, "by:class", clients=3, test_split="0.2")
    rows = np.array([3, 1, 3])
    np.testing.assert_array_equal(Normalizer.of(federation).read(view, "rgb", rows), features[rows])
    assert view.describe()["modalities"]["rgb"]["shape"] == [PROJECTION]


def test_progress_is_shown_where_it_is_wanted(scenes, encode, monkeypatch, capsys):
    monkeypatch.setattr(module, "HEARTBEAT", 0.0)
    archive = archives.open(scenes, image_size=SIZE)
    encode(archive, cache=None, quiet=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("image features 15/15 · ")
    assert lines[-1].endswith(" images/s")
    encode(archive, cache=None)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(archive, cache=None, quiet=False)
    assert "image" in capsys.readouterr().err
