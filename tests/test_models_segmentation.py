"""The model of labels by pixel: shapes, padding, modalities that are missing, and against plain compositions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfl_jax.errors import UserError
from mmfl_jax.models import ModelDesign, SegmentationModel
from mmfl_jax.models.decoders import enlarged
from mmfl_jax.models.options import ModelOptions
from mmfl_jax.models.segmentation import padded

SHAPES = {"s1": (12, 12, 2), "s2": (12, 12, 3)}


def shapes_of(make, inputs):
    """Return the shapes of what a model answers, without computing anything."""
    return nnx.eval_shape(lambda x: make()(x, train=False), inputs)


def model(design="modality", shapes=SHAPES, held=None, projection=0, maps=False, **options):
    options = ModelOptions(**{"width": 4, **options})
    made = ModelDesign(shapes, 5, design, options, projection=projection, by_pixel=True, projected_maps=maps)
    return SegmentationModel(made, held or tuple(shapes), nnx.Rngs(0))


def images(shapes=SHAPES, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return {m: jnp.asarray(rng.normal(size=(batch, *shape)), jnp.float32) for m, shape in shapes.items()}


@pytest.mark.parametrize("encoder", ["resnet8", "resnet18", "s1=resnet8,s2=resnet18"])
@pytest.mark.parametrize("decoder", ["unet", "fpn"])
def test_every_pixel_is_answered_whatever_is_there(encoder, decoder):
    inputs = images()
    for held in (("s1",), ("s2",), ("s1", "s2")):
        output = shapes_of(lambda: model(encoder=encoder, decoder=decoder), {m: inputs[m] for m in held})
        assert output.logits.shape == (2, 12, 12, 5)
        assert output.logits.dtype == jnp.float32


@pytest.mark.parametrize("side", [8, 13, 30, 97, 101])
def test_any_size_is_padded_and_cut_again(side):
    shapes = {"s1": (side, side + 2, 2)}
    found = shapes_of(lambda: model(shapes=shapes, encoder="resnet18"), images(shapes))
    assert found.logits.shape == (2, side, side + 2, 5)


def test_padding_repeats_the_edge():
    x = jnp.arange(18.0).reshape(1, 3, 3, 2)
    expected = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    np.testing.assert_array_equal(padded(x, 4), expected)
    assert padded(x, 3) is x


def test_fused_maps_are_the_mean_of_the_maps():
    made = model(encoder="resnet8")
    inputs = images()
    maps = {m: made.decoders[m](made.encoders[m].maps(x, False), False) for m, x in inputs.items()}
    expected = made.head((maps["s1"] + maps["s2"]) / 2)
    np.testing.assert_allclose(made(inputs, train=False).logits, expected, atol=1e-5)


def test_a_unet_is_its_definition():
    made = model(shapes={"s1": (8, 8, 2)}, encoder="resnet8")
    fine, middle, coarse = made.encoders["s1"].maps(images({"s1": (8, 8, 2)})["s1"], False)
    decoder = made.decoders["s1"]

    def step(part, x):
        y = jax.lax.conv_general_dilated(
            x, part.conv.kernel[...], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.maximum(part.norm(y, use_running_average=True), 0)

    x = coarse
    for i, skip in enumerate((middle, fine)):
        up = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = step(decoder.second[i], step(decoder.first[i], jnp.concatenate([up, skip], axis=-1)))
    np.testing.assert_allclose(decoder([fine, middle, coarse], False), x, atol=1e-5)


def test_enlarged_repeats_pixels():
    x = jnp.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(enlarged(x, 2), jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


def test_models_of_their_own_answer_apart_in_training():
    made = model("separate")
    inputs = images()
    each = made(inputs, train=True).logits
    assert each.shape == (2, 2, 12, 12, 5)
    assert made(inputs, train=False).logits.shape == (2, 12, 12, 5)


def test_one_encoder_for_all_sees_zeros_for_what_is_missing():
    made = model("unified")
    inputs = {m: x[:, :8, :8] for m, x in images().items()}  # parts of the images it is made for
    zeros = {**inputs, "s1": jnp.zeros_like(inputs["s1"])}
    np.testing.assert_array_equal(made({"s2": inputs["s2"]}, train=False).logits, made(zeros, train=False).logits)


def test_projections_are_unit_vectors_of_tiles_or_of_pixels_of_the_coarsest_map():
    tile = shapes_of(lambda: model(projection=7), images()).projections
    assert {m: z.shape for m, z in tile.items()} == {"s1": (2, 7), "s2": (2, 7)}
    pixel = model(projection=7, maps=True)(images(), train=False).projections
    assert {m: z.shape for m, z in pixel.items()} == {"s1": (2, 3, 3, 7), "s2": (2, 3, 3, 7)}
    np.testing.assert_allclose(np.linalg.norm(pixel["s1"], axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "mlp"}, "--encoder mlp: labels by pixel need an encoder of images"),
        ({"encoder": "s3=resnet8"}, "--encoder 's3=resnet8' names s3; there is modalities s1, s2"),
        ({"encoder": "resnet9"}, "'resnet9' is unknown; one of auto, resnet8"),
        ({"encoder": "s1=resnet8,s1=resnet18"}, "names s1 twice"),
    ],
)
def test_encoders_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        model(**options)
