"""Fusion, encoders and the multi-modal model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfl_jax.errors import UserError
from mmfl_jax.models import ModelDesign, MultiModalModel, Normalization, Template, values
from mmfl_jax.models.encoders import make_encoder
from mmfl_jax.models.fusion import FUSIONS, fuse, fused_size
from mmfl_jax.models.options import ModelOptions

SHAPES = {"s1": (4, 2), "s2": (4, 3)}


def batch(modalities, size=6, seed=0):
    rng = np.random.default_rng(seed)
    return {m: jnp.asarray(rng.normal(size=(size, *SHAPES[m])), jnp.float32) for m in modalities}


def model(held=("s1", "s2"), seed=0, **options):
    design = {"projection": 4} | {name: options.pop(name) for name in ("design", "whitened") if name in options}
    return MultiModalModel(
        ModelDesign(SHAPES, 5, options=ModelOptions(width=8, **options), **design), held, nnx.Rngs(seed)
    )


@pytest.mark.parametrize("present", [("a",), ("b",), ("a", "b"), ("a", "b", "c")])
@pytest.mark.parametrize("kind", FUSIONS)
def test_fusion_of_what_is_present(kind, present):
    order = ("a", "b", "c")
    features = {m: np.random.default_rng(i).normal(size=(3, 4)).astype(np.float32) for i, m in enumerate(order)}
    there = {m: features[m] for m in reversed(present)}  # whatever the order they come in
    stacked = np.stack([features[m] for m in present])
    one, zero = np.ones((3, 1)), np.zeros((3, 5))
    expected = {
        "mean": lambda: stacked.mean(axis=0),
        "sum": lambda: stacked.sum(axis=0),
        "max": lambda: stacked.max(axis=0),
        "concat": lambda: np.concatenate([np.hstack([features[m], one]) if m in present else zero for m in order], 1),
    }[kind]()
    found = fuse({m: jnp.asarray(v) for m, v in there.items()}, order, kind)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.shape == (3, fused_size(kind, 4, 3))


def test_unknown_fusion():
    with pytest.raises(ValueError, match="fusion 'product' is unknown; one of mean, sum, max, concat"):
        fuse({"a": jnp.zeros((1, 2))}, ("a",), "product")


def test_unified_takes_a_missing_modality_as_zeros():
    unified = model(design="unified")
    inputs = batch(SHAPES)
    missing = unified({"s1": inputs["s1"]}, train=False)
    zeros = unified({"s1": inputs["s1"], "s2": jnp.zeros_like(inputs["s2"])}, train=False)
    np.testing.assert_array_equal(missing.logits, zeros.logits)
    both = unified(inputs, train=False)
    assert np.abs(both.logits - missing.logits).max() > 1e-3
    assert set(both.projections) == {"unified"}


def test_separate_averages_the_logits_of_its_modalities():
    separate, inputs = model(design="separate"), batch(SHAPES)
    alone = [separate({m: inputs[m]}, train=False).logits for m in SHAPES]
    np.testing.assert_allclose(separate(inputs, train=False).logits, (alone[0] + alone[1]) / 2, rtol=1e-5, atol=1e-6)


def test_projections_are_unit_vectors_by_modality():
    projections = model()(batch(SHAPES), train=True).projections
    assert set(projections) == {"s1", "s2"}
    for z in projections.values():
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)


def test_a_client_has_the_parameters_of_its_modalities_alone():
    params, _ = values(model(held=("s2",)))
    whole, _ = values(model())
    assert set(params) < set(whole)
    assert {name.split("/")[1] for name in params if not name.startswith("head/")} == {"s2"}


@pytest.mark.parametrize("train", [False, True])
def test_values_and_template_make_the_same_model_again(train):
    original, inputs = model(encoder="conv1d"), batch(SHAPES)
    template = Template.of(lambda: model(encoder="conv1d", seed=1))
    params, stats = values(original)
    again = template.module(params, {**stats, "another/mean": jnp.zeros(3)})
    assert list(template.params) == sorted(params)
    assert list(template.stats) == sorted(stats)
    expected, found = original(inputs, train=train), again(inputs, train=train)
    np.testing.assert_array_equal(found.logits, expected.logits)
    for name, value in values(again)[1].items():
        np.testing.assert_array_equal(value, values(original)[1][name])
        assert np.array_equal(value, stats[name]) == (not train)


def test_bfloat16_computes_in_it_and_keeps_parameters_and_moments_in_float32():
    half, full = model(whitened=True, precision="bfloat16"), model(whitened=True)
    inputs = batch(SHAPES)
    out, exact = half(inputs, train=True), full(inputs, train=True)
    assert out.logits.dtype == jnp.float32
    assert {v.dtype for kind in values(half) for v in kind.values()} == {jnp.dtype(jnp.float32)}
    difference = np.abs(out.logits - exact.logits).max()
    assert 0 < difference < 0.1
    assert half.encoders["s1"](inputs["s1"].astype(jnp.bfloat16), True).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "shape", "hidden", "features"),
    [
        ("mlp", (7,), 0, 128),
        ("mlp", (6, 6, 2), 10, 10),
        ("conv1d", (9, 3), 0, 128),
        ("conv1d", (9, 3), 10, 10),
        ("auto", (9, 3), 12, 12),
        ("resnet8", (8, 8, 2), 0, 64),
        ("resnet8", (120, 120, 2), 4, 16),
        ("resnet18", (32, 32, 2), 0, 512),
        ("resnet50", (32, 32, 2), 0, 2048),
        ("auto", (16, 16, 2), 0, 64),
    ],
)
def test_encoders_give_the_features_they_announce(name, shape, hidden, features):
    def encode(x):
        encoder = make_encoder(name, shape, hidden, Normalization(), nnx.Rngs(0))
        assert encoder.features == features
        return encoder(x, train=True)

    out = jax.eval_shape(encode, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    assert out.shape == (2, features)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet8", (9, 3), r"--encoder resnet8 takes samples of 3 axes, but these have shape \(9, 3\); try auto"),
        ("conv1d", (8, 8, 2), r"--encoder conv1d takes samples of 2 axes, but these have shape \(8, 8, 2\); try auto"),
    ],
)
def test_encoder_that_does_not_fit(name, shape, message):
    with pytest.raises(UserError, match=message):
        make_encoder(name, shape, 0, Normalization(), nnx.Rngs(0))


def test_features_of_different_lengths_are_brought_to_the_longest():
    design = ModelDesign({"image": (8, 8, 2), "vector": (5,)}, 3)
    model = MultiModalModel(design, ("image", "vector"), nnx.Rngs(0))
    assert model.head.kernel.shape == (128, 3)
    assert model.adapters["image"].kernel.shape == (64, 128)
    assert list(model.adapters) == ["image"]
    inputs = {"image": jnp.ones((2, 8, 8, 2)), "vector": jnp.ones((2, 5))}
    for held in ({"image"}, {"vector"}, {"image", "vector"}):
        assert model({m: inputs[m] for m in held}, train=False).logits.shape == (2, 3)
    # A client of one modality has a head of the same length.
    assert MultiModalModel(design, ("image",), nnx.Rngs(0)).head.kernel.shape == (128, 3)


def test_unified_needs_modalities_of_one_extent():
    design = ModelDesign({"s1": (8, 8, 2), "s2": (16, 16, 3)}, 3, design="unified")
    with pytest.raises(UserError, match=r"--method unified stacks the channels.*must agree in extent"):
        MultiModalModel(design, ("s1",), nnx.Rngs(0))
