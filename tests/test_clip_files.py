"""CLIP's files: weights, sizes, tokens and images, as they should be and as they should not."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data.clip.make_reference import SENTENCES
from PIL import Image
from safetensors.numpy import load_file, save_file

from mmfl_jax.errors import UserError
from mmfl_jax.models import clip

DATA = Path(__file__).parent / "data" / "clip"


@pytest.fixture
def directory(tmp_path):
    shutil.copytree(DATA / "hugging_face", tmp_path / "clip")
    return tmp_path / "clip"


def change(directory, edit):
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")


def error(path, **options):
    with pytest.raises(UserError) as caught:
        clip.load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_tensors_are_listed(directory):
    change(directory, lambda t: [t.pop(k) for k in ("visual_projection.weight", "vision_model.pre_layrnorm.bias")])
    assert error(directory) == (
        f"{directory}/model.safetensors: not CLIP's two transformers in the names of Hugging Face: "
        "missing vision_model.pre_layrnorm.bias, visual_projection.weight"
    )


def test_a_missing_block_is_listed(directory):
    change(directory, lambda t: [t.pop(k) for k in list(t) if k.startswith("text_model.encoder.layers.1.")])
    assert "missing text_model.encoder.layers.1.layer_norm1.bias," in error(directory)
    assert error(directory).endswith("and 10 more")


def test_a_tower_alone_is_refused(directory):
    change(directory, lambda t: [t.pop(k) for k in list(t) if k.startswith("vision_model.")])
    assert "missing vision_model.embeddings.patch_embedding.weight, " in error(directory)


def test_tensors_that_would_change_the_function_are_refused(directory):
    scale = {"vision_model.encoder.layers.0.ls_1.gamma": np.ones(32, np.float32)}
    change(directory, lambda t: t.update(scale))
    assert error(directory).endswith("unknown vision_model.encoder.layers.0.ls_1.gamma")


def test_buffers_of_older_files_are_passed_over(directory):
    change(directory, lambda t: t.update({"text_model.embeddings.position_ids": np.arange(16)[None]}))
    assert clip.load(directory).config.context_length == 16


@pytest.mark.parametrize(
    "name, shape, message",
    [
        (
            "embeddings.token.weight",
            (3, 2),
            "no CLIP in the names of OpenAI, open_clip or Hugging Face; found: embeddings",
        ),
        ("visual.layer1.0.conv1.weight", (8, 8, 1, 1), "missing positional_embedding, text_projection"),
    ],
)
def test_another_architecture(tmp_path, name, shape, message):
    save_file({name: np.zeros(shape, np.float32)}, tmp_path / "model.safetensors")
    assert message in error(tmp_path)


def test_sizes_that_differ_from_the_config(directory):
    assert error(directory / "model.safetensors", config=clip.VIT_B_32).startswith(
        f"{directory}/model.safetensors: weights of other sizes than the config: vision.width 32 (config: 768), "
    )
    assert "heads" not in error(directory, config=clip.VIT_B_32)
    (directory / "config.json").unlink()
    assert "no shape tells the heads of width 32; put config.json beside it" in error(directory)


def test_shapes_that_do_not_fit_each_other(directory):
    bias = {"text_model.encoder.layers.2.mlp.fc2.bias": np.zeros(25, np.float32)}
    change(directory, lambda t: t.update(bias))
    assert "layers.2.mlp.fc2.bias: (25,) for text/transformer/blocks/down/bias; the other" in error(directory)


def test_integers_are_no_weights(directory):
    change(directory, lambda t: t.update({"visual_projection.weight": np.zeros((20, 32), np.int8)}))
    assert "visual_projection.weight holds int8; one of: float16" in error(directory)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "ViT-B-32.pt", "model.safetensors"])
def test_pickled_files_are_never_opened(tmp_path, name):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle was opened",)

    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(pytest.fail.Exception, match="the pickle was opened"):
        pickle.loads((tmp_path / name).read_bytes())
    for path in (tmp_path / name, tmp_path):
        assert error(path).startswith(
            f"{tmp_path / name}: a pickled file, which may run code when it is opened; convert"
        )


def test_files_that_are_not_there_or_damaged(tmp_path):
    assert "no such file; a local .safetensors file of CLIP is needed" in error(tmp_path / "model.safetensors")
    assert "0 .safetensors files; one is needed" in error(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    assert "no safetensors file, or a damaged one" in error(tmp_path)


@pytest.mark.parametrize(
    "fields, message",
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not the sizes of a CLIP"),
        ({"architecture": "vit_base"}, "model_type is none; 'clip' is needed"),
        ({"model_type": "siglip"}, "model_type is 'siglip'; 'clip' is needed"),
        ({"model_type": "clip", "vision_config": {"hidden_size": "wide"}}, "not the sizes of a CLIP"),
        ({"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}, "both towers must have the same"),
        ({"model_type": "clip", "vision_config": {"num_attention_heads": 7}}, "7 heads do not divide the width 768"),
        ({"model_cfg": {"vision_cfg": {"pool_type": "avg"}}}, "pool_type in vision_cfg or text_cfg"),
        ({"model_cfg": {"vision_cfg": {"layers": [3, 4, 6, 3]}}}, r"layers \[3, 4, 6, 3\] in vision_cfg or text_cfg"),
    ],
)
def test_sizes_of_other_models(tmp_path, fields, message):
    path = tmp_path / "config.json"
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    with pytest.raises(UserError, match=message):
        clip.read_config(path)


def test_sizes_of_published_files(tmp_path):
    path = tmp_path / "config.json"
    towers = {"vision_config": {"patch_size": 16}, "text_config": None}  # what equals the defaults is left out
    path.write_text(json.dumps({"model_type": "clip", **towers}))
    assert clip.read_config(path) == clip.VIT_B_16
    path.write_text(
        json.dumps(
            {
                "model_cfg": {
                    "embed_dim": 512,
                    "quick_gelu": True,
                    "vision_cfg": {"layers": 12, "width": 768},
                    "text_cfg": {},
                }
            }
        )
    )
    assert clip.read_config(path) == clip.VIT_B_16


def test_tokens_are_those_of_transformers():
    tokenizer = clip.BPETokenizer(DATA / "hugging_face")
    config = clip.read_config(DATA / "hugging_face" / "config.json")
    config = type(config)(**{**vars(config), "context_length": 77})
    tokens = clip.tokenize(SENTENCES, tokenizer, config)
    with np.load(DATA / "reference.npz") as reference:
        for i, (row, end) in enumerate(zip(tokens.ids, tokens.end_positions)):
            np.testing.assert_array_equal(row[: end + 1], reference[f"ids_{i}"])
            assert not row[end + 1 :].any()
    assert tokens.ids.shape[1] == tokens.end_positions.max() + 1


def test_texts_that_do_not_fit():
    tokenizer, config = (
        clip.BPETokenizer(DATA / "hugging_face"),
        clip.read_config(DATA / "hugging_face" / "config.json"),
    )
    (ends,) = clip.tokenize(["golf course"], tokenizer, config).end_positions[None]
    clip.tokenize(["golf course"], tokenizer, config, reserved=16 - int(ends[0]) - 1)
    with pytest.raises(
        UserError, match=r"text 'golf course' has 17 tokens with start, end and .* of prompts; 16 at most"
    ):
        clip.tokenize(["forêt", "golf course"], tokenizer, config, reserved=16 - int(ends[0]))
    with pytest.raises(UserError, match="text '  ' has no tokens; a name is needed"):
        clip.tokenize(["  "], tokenizer, config)
    with pytest.raises(UserError, match="no texts to tokenize"):
        clip.tokenize([], tokenizer, config)
    with pytest.raises(
        UserError, match=r"the tokenizer has 300 tokens, CLIP's text tower 49408; take the tokenizer.json"
    ):
        clip.tokenize(["forêt"], tokenizer, clip.VIT_B_32)


def test_tokenizer_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"no such file; the local tokenizer.json of the weights is needed"):
        clip.BPETokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"no tokenizer.json of the tokenizers library"):
        clip.BPETokenizer(tmp_path)
    text = (DATA / "hugging_face" / "tokenizer.json").read_text().replace("<|endoftext|>", "</s>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"no token <\|endoftext\|>; CLIP's own tokenizer.json is needed"):
        clip.BPETokenizer(tmp_path)


def test_bytes_stand_for_tokens_loudly():
    with pytest.warns(UserWarning, match="bytes stand for tokens, which no published weights know"):
        tokenizer = clip.ByteTokenizer()
    tokens = clip.tokenize(["Ab  c", "é"], tokenizer, clip.TINY)
    np.testing.assert_array_equal(tokens.ids, [[256, 97, 98, 32, 99, 257], [256, 195, 169, 257, 0, 0]])
    np.testing.assert_array_equal(tokens.end_positions, [5, 3])


def test_images_are_cut_as_torchvision_and_normalised_as_transformers_do():
    with np.load(DATA / "reference.npz") as reference:
        for i in range(4):
            found = clip.prepare(Image.fromarray(reference[f"pixels_{i}"]), 28)
            np.testing.assert_array_equal(found, reference[f"cut_{i}"])
            if f"normal_{i}" in reference:
                np.testing.assert_allclose(clip.normalize(found), reference[f"normal_{i}"], atol=1e-6)


def test_grey_sixteen_bits_palettes_and_transparency():
    ramp = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    rgb = np.stack([ramp] * 3, axis=-1)
    wide = Image.fromarray(ramp.astype(np.uint16) * 257)
    assert wide.mode == "I;16"
    transparent = Image.fromarray(np.dstack([rgb, ramp]))
    for image in (Image.fromarray(ramp), wide, wide.convert("I"), transparent, Image.fromarray(rgb).quantize(64)):
        np.testing.assert_allclose(clip.prepare(image, 8), rgb, atol=8 if image.mode == "P" else 0)
    with pytest.raises(UserError, match="pixels are floating-point numbers of unknown range"):
        clip.prepare(Image.fromarray(ramp.astype(np.float32)), 8)
    with pytest.raises(UserError, match="pixels from 0 to 70000; 0 to 65535 at most"):
        clip.prepare(Image.fromarray(np.array([[0, 70000]], np.int32)), 8)


def test_unreadable_images_are_left_out_and_listed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    names = ["a.png", "truncated.png", "text.png", "b.jpg", "absent.png", "float.tif"]
    paths = [tmp_path / name for name in names]
    Image.fromarray(pixels).save(paths[0])
    paths[1].write_bytes(paths[0].read_bytes()[:3000])
    paths[2].write_text("no image")
    Image.fromarray(pixels).save(paths[3])
    Image.fromarray(pixels[..., 0].astype(np.float32)).save(paths[5])
    images, kept, unreadable = clip.read_images(paths, 32)
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(kept, [0, 3])
    np.testing.assert_array_equal(images[0], clip.prepare(Image.open(paths[0]), 32))
    assert list(unreadable) == [str(paths[i]) for i in (1, 2, 4, 5)]
    assert "floating-point" in unreadable[str(paths[5])]
    with pytest.raises(UserError, match=r"text.png: cannot be read .* nor can any other of 2 images"):
        clip.read_images([paths[2], paths[4]])
    assert clip.read_images([], 8)[0].shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    "absent, use",
    [
        ("safetensors", lambda: clip.load(DATA / "hugging_face")),
        ("tokenizers", lambda: clip.BPETokenizer(DATA / "hugging_face")),
        ("PIL", lambda: clip.read_images([])),
    ],
)
def test_a_library_that_is_not_installed(monkeypatch, absent, use):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(UserError, match=r"pip install 'mmfl_jax\[clip\]'"):
        use()


def test_clip_is_imported_without_its_libraries():
    absent = "".join(f"sys.modules[{name!r}] = None; " for name in ("safetensors", "tokenizers", "PIL"))
    subprocess.run([sys.executable, "-c", f"import sys; {absent}import mmfl_jax.models.clip"], check=True, timeout=120)
