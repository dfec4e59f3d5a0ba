"""CLIP's towers against transformers and open_clip, prompts among tokens, and the sizes of the published models."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.clip.make_reference import SMALL, inputs, seeded
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl_jax.models import Template, clip, values
from mmfl_jax.models.clip.ragged import Ragged

DATA = Path(__file__).parent / "data" / "clip"
VIT_B_32_GELU = dataclasses.replace(clip.VIT_B_32, activation="gelu")


@functools.cache
def reference():
    with np.load(DATA / "reference.npz") as file:
        return dict(file)


@functools.cache
def small(dtype=None):
    return clip.load(DATA / "hugging_face", dtype=dtype)


@nnx.jit
def features(model, images, tokens, ends):
    return model.vision(images), model.text(model.text.embed(tokens), ends)


@nnx.jit
def encode(model, tokens, ends):
    return model.text(model.text.embed(tokens), ends)


def assert_reference(model, key):
    config = model.config
    found = features(model, *inputs(config.image_size, config.context_length, config.vocabulary))
    for name, value in zip(("images", "texts"), found):
        expected = reference()[f"{key}_{name}"]
        assert np.abs(expected).mean() > 0.1
        np.testing.assert_allclose(value, expected, atol=1e-4, rtol=0)


def seeded_tensors(key):
    shapes = json.loads(str(reference()[f"{key}_shapes"]))
    return {name: seeded(name, tuple(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("source", ["hugging_face", "open_clip"])
def test_small_files_give_what_their_libraries_give(source):
    model = clip.load(DATA / source)
    assert model.config.activation == {"hugging_face": "quick_gelu", "open_clip": "gelu"}[source]
    assert_reference(model, f"small_{source}")


@pytest.mark.parametrize("source", ["hugging_face", "open_clip"])
def test_vit_b_32_gives_what_the_libraries_give(source):
    config = {"hugging_face": None, "open_clip": VIT_B_32_GELU}[source]  # None: from the shapes
    model = clip.build(seeded_tensors(f"vit_b_32_{source}"), config)
    assert model.config == (config or clip.VIT_B_32)
    assert_reference(model, f"vit_b_32_{source}")


@pytest.mark.parametrize("config, parameters", [(clip.VIT_B_32, 151_277_313), (clip.VIT_B_16, 149_620_737)])
def test_number_of_parameters(config, parameters):
    template = Template.of(lambda: clip.CLIP(config, rngs=nnx.Rngs(0)))
    assert sum(int(np.prod(variable.shape)) for _, variable in template.params.values()) == parameters
    assert not template.stats


def test_logits_are_scaled_cosines():
    model = small()
    images, tokens, ends = inputs(28, 16, 300)
    unit = [
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.asarray, features(model, images, tokens, ends))
    ]
    logits = nnx.jit(lambda model: model(images, tokens, ends))(model)
    np.testing.assert_allclose(logits, np.exp(2.6) * unit[0] @ unit[1].T, rtol=1e-4, atol=1e-4)


def test_texts_may_be_cut_after_the_last_end():
    model = small()
    tokens = np.array([[298, 5, 6, 299, 0, 0, 0, 0], [298, 7, 8, 9, 299, 0, 0, 0]])
    ends = np.array([3, 4])
    whole, cut = (encode(model, tokens[:, :length], ends) for length in (8, 5))
    np.testing.assert_allclose(whole, cut, atol=1e-5)
    other = tokens.copy()
    other[:, 5:] = 250
    np.testing.assert_allclose(encode(model, other, ends), cut, atol=1e-5)


@settings(deadline=None, max_examples=25)  # each compiles anew
@given(st.lists(st.integers(1, 6), min_size=1, max_size=7))
def test_tokens_of_ragged_texts_go_into_a_row_and_back(lengths):
    texts = Ragged.of(np.array(lengths))
    padded = np.zeros((len(lengths), max(lengths), 2), np.float32)
    for text, length in enumerate(lengths):
        padded[text, :length] = text + 1 + np.arange(length)[:, None] / 10
    row = texts.pack(padded)
    assert len(row) == len(texts.positions) == sum(lengths)
    np.testing.assert_array_equal(texts.unpack(row), padded)
    np.testing.assert_array_equal(row[texts.ends], padded[np.arange(len(lengths)), np.array(lengths) - 1])
    np.testing.assert_allclose(row[:, 0] % 1, texts.positions / 10, atol=1e-5)
    weights = np.random.default_rng(0).standard_normal(padded.shape).astype(np.float32)
    there = padded > 0
    found = jax.grad(lambda x: (texts.unpack(texts.pack(x)) * weights).sum())(padded)
    np.testing.assert_array_equal(found, np.where(there, weights, 0))


def prompted(model, prompt, shared_prefix):
    """Return the features of names of several lengths behind start token and prompt, both ways."""
    tokens = np.array([[298, 5, 6, 299, 0], [298, 7, 8, 9, 299], [298, 299, 0, 0, 0], [298, 5, 7, 299, 0]])
    ends = tokens.argmax(axis=1)  # the end token has the largest number
    embeddings = model.text.embed(tokens)
    if shared_prefix:
        texts = Ragged.of(ends)
        names = texts.pack(embeddings[:, 1:])
        return model.text.after(jnp.concatenate([embeddings[0, :1], prompt]), names, texts)
    prompts = jnp.broadcast_to(prompt, (len(tokens), *prompt.shape))
    whole = jnp.concatenate([embeddings[:, :1], prompts, embeddings[:, 1:]], axis=1)
    return model.text(whole, ends + len(prompt))


def test_a_prefix_computed_once_is_the_same_as_before_every_text():
    model = small()
    prompt = jax.random.normal(jax.random.key(0), (4, 24))
    weights = jax.random.normal(jax.random.key(1), (4, 20))

    @functools.partial(jax.jit, static_argnums=1)
    @jax.value_and_grad
    def loss(prompt, shared_prefix):
        return (prompted(model, prompt, shared_prefix) * weights).sum()

    (once, once_gradient), (every, every_gradient) = loss(prompt, True), loss(prompt, False)
    np.testing.assert_allclose(once, every, rtol=1e-5)
    np.testing.assert_allclose(once_gradient, every_gradient, atol=1e-4)
    assert np.abs(every_gradient).max() > 0.01
    assert np.abs(once - loss(2 * prompt, True)[0]) > 0.01


def test_prompts_of_many_clients_at_once():
    model = small()
    prompts = jax.random.normal(jax.random.key(0), (3, 4, 24))
    one = jax.jit(lambda prompt: prompted(model, prompt, True))
    expected = [one(prompt) for prompt in prompts]
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(prompts), expected, atol=1e-5)
    mesh, clients = jax.sharding.Mesh(jax.devices()[:1], "clients"), jax.sharding.PartitionSpec("clients")
    sharded = jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=clients, out_specs=clients)
    np.testing.assert_allclose(jax.jit(sharded)(prompts), expected, atol=1e-5)


def test_bfloat16_computes_in_it_and_keeps_weights_and_features_in_float32():
    half, images_tokens_ends = small(jnp.bfloat16), inputs(28, 16, 300)
    assert {weight.dtype for weight in values(half)[0].values()} == {jnp.dtype("float32")}
    for found, exact in zip(features(half, *images_tokens_ends), features(small(), *images_tokens_ends)):
        assert found.dtype == jnp.float32
        cosine = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
        assert cosine.min() > 0.999
        assert np.abs(found - exact).max() > 1e-5
    program = jax.jit(lambda images: half.vision(images)).lower(images_tokens_ends[0]).as_text()
    operands = [line.split(" : (")[1].split(")")[0] for line in program.splitlines() if "dot_general" in line]
    assert operands
    assert all(line.count("bf16") == 2 for line in operands)


def test_random_weights_keep_signals_of_ordinary_size():
    model = nnx.jit(lambda: clip.CLIP(clip.TINY, rngs=nnx.Rngs(0)))()
    images, tokens, ends = inputs(64, 77, 258)
    for found in features(model, images, tokens, ends):
        assert 0.1 < float(found.std()) < 10


def test_wrong_shapes_are_refused():
    model = small()
    with pytest.raises(ValueError, match=r"images have shape \(1, 32, 32, 3\); \[n, 28, 28, 3\] is needed"):
        model.vision(jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(ValueError, match="texts have 17 tokens; 16 at most"):
        model.text.after(jnp.zeros((4, 24)), jnp.zeros((13, 24)), Ragged.of(np.array([13])))
    with pytest.raises(ValueError, match="where attention is causal"):
        model.vision.transformer.after(jnp.zeros((4, 32)), jnp.zeros((13, 32)), Ragged.of(np.array([13])))


def test_against_transformers_itself(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vision_config": {"num_hidden_layers": 3}, "text_config": {"num_hidden_layers": 3}}
    for name, config in (("published", sizes), ("small", SMALL)):
        theirs = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
        theirs.save_pretrained(tmp_path / name)
        ours = clip.load(tmp_path / name)
        images, tokens, ends = inputs(ours.config.image_size, ours.config.context_length, ours.config.vocabulary)
        with torch.inference_mode():
            out = theirs(
                torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
            )
        np.testing.assert_allclose(ours(images, tokens, ends), out.logits_per_image.numpy(), atol=1e-4)


def test_against_open_clip_itself(tmp_path):
    torch, open_clip = pytest.importorskip("torch"), pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    theirs = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None).eval()
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    ours = clip.load(tmp_path / "weights.safetensors")
    assert ours.config == clip.VIT_B_16
    images, tokens, ends = inputs(224, 77, 49408)
    with torch.inference_mode():
        image = theirs.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        text = theirs.encode_text(torch.from_numpy(tokens.astype(np.int64)))
    for found, expected in zip(features(ours, images, tokens, ends), (image, text)):
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
