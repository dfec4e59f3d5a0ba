"""A small CLIP: its loss, its training, and its files, which come back as they went."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfl_jax import archives
from mmfl_jax.errors import UserError
from mmfl_jax.models import clip
from mmfl_jax.models.clip import pretrain
from mmfl_jax.models.clip.pretrain import SMALL, Training, contrastive_loss
from mmfl_jax.models.variables import values

TEENY = dataclasses.replace(
    SMALL, vision=clip.TowerConfig(16, 2, 2, 32), text=clip.TowerConfig(24, 2, 2, 48), image_size=16, projection=12
)


def test_loss_is_clips_where_all_labels_differ():
    rng = np.random.default_rng(0)
    image, text, scale = rng.normal(size=(6, 5)), rng.normal(size=(6, 5)), 1.3
    cosines = np.array([[i @ t / np.linalg.norm(i) / np.linalg.norm(t) for t in text] for i in image])
    logits = np.exp(scale) * cosines
    nll = lambda rows: np.mean([-row[i] + np.log(np.exp(row).sum()) for i, row in enumerate(rows)])
    loss = contrastive_loss(jnp.asarray(image), jnp.asarray(text), jnp.arange(6), jnp.float32(scale))
    np.testing.assert_allclose(loss, (nll(logits) + nll(logits.T)) / 2, rtol=1e-5)


def test_pairs_of_one_label_are_positives_of_each_other():
    rng = np.random.default_rng(0)
    image, text, labels = rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), np.array([0, 1, 0, 1])
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    logits = unit(image) @ unit(text).T

    def nll(rows):
        chances = [row - np.log(np.exp(row).sum()) for row in rows]
        return -np.mean([np.mean(row[labels == labels[i]]) for i, row in enumerate(chances)])

    loss = contrastive_loss(jnp.asarray(image), jnp.asarray(text), jnp.asarray(labels), jnp.float32(0))
    np.testing.assert_allclose(loss, (nll(logits) + nll(logits.T)) / 2, rtol=1e-5)


def test_a_saved_clip_is_loaded_as_it_was(tmp_path):
    model = clip.CLIP(TEENY, rngs=nnx.Rngs(3))
    folder = clip.save(model, tmp_path / "clip", trained_classes=["lake"])
    again = clip.load(folder)
    assert again.config == TEENY
    before, after = values(model)[0], values(again)[0]
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    assert json.loads((folder / "config.json").read_text())["trained_classes"] == ["lake"]
    assert isinstance(clip.read_tokenizer(folder), clip.ByteTokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip"]
    with pytest.raises(UserError, match="clip: CLIP cannot be written there"):
        clip.save(model, folder)


def test_training_learns_classes_and_half_of_them_stay_new(tmp_path):
    archive = archives.open("twinscenes", image_size=16, samples=280)
    classes = ("beaches", "marine waters", "pastures")
    model = pretrain.train(archive, classes, TEENY, Training(steps=60, batch_size=32, learning_rate=5e-3))
    samples = np.flatnonzero(np.isin(archive.attribute("class"), classes))
    tokens = clip.tokenize([f"a satellite image of {name}" for name in classes], clip.silent_bytes(), TEENY)
    images = jnp.asarray(clip.normalize(archive.read("rgb", samples)))
    logits = nnx.jit(lambda model: model(images, jnp.asarray(tokens.ids), jnp.asarray(tokens.end_positions)))(model)
    accuracy = np.mean(np.array(classes)[np.argmax(logits, axis=1)] == archive.attribute("class")[samples])
    assert accuracy > 0.6
    assert pretrain.half(archive.class_names) == archive.class_names[::2]


@pytest.mark.parametrize(
    "classes, size, message",
    [(["forest"], 16, "class 'forest': archive twinscenes has"), (["pastures"], 24, "open it with image_size 16")],
)
def test_what_cannot_be_trained_on_is_named(classes, size, message):
    archive = archives.open("twinscenes", image_size=size, samples=14)
    with pytest.raises(UserError, match=message):
        pretrain.train(archive, classes, TEENY)


def test_turns_and_mirrors_keep_the_pixels():
    images = np.arange(64 * 4 * 4 * 3).reshape(64, 4, 4, 3) % 251
    turned = pretrain._turned(images.astype(np.uint8), np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(turned.reshape(64, -1)), np.sort(images.reshape(64, -1)))
    assert len({(turned[i] == images[i]).all() for i in range(64)}) == 2


def test_the_demos_clip_is_trained_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "SMALL", TEENY)
    monkeypatch.setattr(pretrain, "train", lambda archive, classes, quiet: clip.CLIP(TEENY, rngs=nnx.Rngs(0)))
    monkeypatch.setattr(pretrain, "SMALL_SAMPLES", 28)
    folder = pretrain.small_clip(tmp_path)
    assert "training a small CLIP on 7 of 14 classes" in capsys.readouterr().err
    assert pretrain.small_clip(tmp_path) == folder
    assert not capsys.readouterr().err
