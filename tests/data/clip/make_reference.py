"""Write what the CLIP tests compare with: small weights, a tokenizer, and outputs of transformers and open_clip.

pip install torch transformers open_clip_torch safetensors pillow && python tests/data/clip/make_reference.py

The weights of ViT-B/32 are not kept: ``seeded`` makes them again, from their names, shapes and bits that no release of
NumPy changes.
"""

import json
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
END = 299  # of the small vocabulary; the greatest id, as open_clip finds the end of a text by it
SMALL = {
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "image_size": 28,
        "patch_size": 4,
    },
    "text_config": {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 80,
        "max_position_embeddings": 16,
        "vocab_size": 300,
        "bos_token_id": END - 1,
        "eos_token_id": END,
        "pad_token_id": END,
    },
    "projection_dim": 20,
}
SMALL_OPEN_CLIP = {
    "embed_dim": 20,
    "quick_gelu": False,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 16, "vocab_size": 300, "width": 24, "heads": 3, "layers": 3},
}
SENTENCES = [
    "a satellite photo of an airport",
    "Dense  Residential",
    "harbor's storage-tanks 2",
    "forêt",
    "golf course",
]


def uniform(name, shape):
    """Return float32 numbers in [-1, 1) that depend on ``name`` alone."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape, dtype=int)))
    return ((bits >> 40).astype(np.float32) * np.float32(2**-23) - 1).reshape(shape)


def seeded(name, shape):
    """Return a tensor of weights at the scale that keeps signals alive: scales near one, kernels by their inputs."""
    x = uniform(name, shape)
    if name == "logit_scale":
        return np.full(shape, 2.6, np.float32)
    if len(shape) == 1:
        is_scale = name.endswith("weight")
        return (is_scale + np.float32(0.3) * x).astype(np.float32)
    return x * np.float32(2 / np.sqrt(np.prod(shape[1:])))


def inputs(image_size, length, vocabulary):
    """Return two images [2, side, side, 3], token ids [3, length] that end at different places, and those places."""
    ends = np.array([length - 1, 3, length // 2])
    tokens = ((uniform("tokens", (3, length)) + 1) / 2 * (vocabulary - 2)).astype(np.int32)
    tokens[:, 0] = vocabulary - 2
    for row, end in zip(tokens, ends):
        row[end:] = 0
        row[end] = vocabulary - 1
    return 2 * uniform("images", (2, image_size, image_size, 3)), tokens, ends


def _fill(model):
    import torch

    state = {name: torch.from_numpy(seeded(name, tuple(value.shape))) for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval()


def _outputs(key, model, encode_images, encode_texts, image_size, length, vocabulary):
    import torch

    images, tokens, _ = inputs(image_size, length, vocabulary)
    with torch.inference_mode():
        features = (
            encode_images(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())),
            encode_texts(torch.from_numpy(tokens.astype(np.int64))),
        )
    shapes = json.dumps({name: list(value.shape) for name, value in model.state_dict().items()})
    return {f"{key}_images": features[0].numpy(), f"{key}_texts": features[1].numpy(), f"{key}_shapes": shapes}


def hugging_face(key, config, directory=None):
    """Return the outputs of ``CLIPModel``; write its weights to ``directory``."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(**config)
    model = _fill(CLIPModel(config))
    if directory:
        model.save_pretrained(directory)
    return _outputs(
        key,
        model,
        lambda images: model.get_image_features(images).pooler_output,
        lambda tokens: model.get_text_features(tokens).pooler_output,
        config.vision_config.image_size,
        config.text_config.max_position_embeddings,
        config.text_config.vocab_size,
    )


def open_clip(key, config, directory=None):
    """Return the outputs of open_clip's ``CLIP``; write its weights, in half precision, to ``directory``."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from safetensors.torch import save_file

    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    model = _fill(CLIP(config["embed_dim"], vision, text, quick_gelu=config["quick_gelu"]))
    if directory:
        directory.mkdir(exist_ok=True)
        model.half()
        save_file(model.state_dict(), directory / "open_clip_model.safetensors")
        (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}, indent=2) + "\n")
        model.float()
    sizes = (vision.image_size, text.context_length, text.vocab_size)
    return _outputs(key, model, model.encode_image, model.encode_text, *sizes)


def tokenizer(directory):
    """Train a small vocabulary in CLIP's manner, write it, and return the ids that transformers gives."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": END - 1, "initial_alphabet": alphabet, "end_of_word_suffix": "</w>"}
    learner.train_from_iterator([s.lower() for s in SENTENCES], trainers.BpeTrainer(show_progress=False, **options))
    model = json.loads(learner.to_str())["model"]
    vocabulary = {**model["vocab"], "<|startoftext|>": END - 1, "<|endoftext|>": END}
    clip = CLIPTokenizer(vocab=vocabulary, merges=[tuple(pair) for pair in model["merges"]])
    clip.backend_tokenizer.save(str(directory / "tokenizer.json"))
    return {f"ids_{i}": np.array(clip(text).input_ids) for i, text in enumerate(SENTENCES)}


def prepared_images():
    """Return images of several shapes and what transformers, and torchvision, make of them at 28 pixels."""
    from PIL import Image
    from torchvision import transforms
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    mode = transforms.InterpolationMode.BICUBIC
    cut = transforms.Compose([transforms.Resize(28, mode), transforms.CenterCrop(28)])
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    arrays = {}
    for i, shape in enumerate([(47, 61), (26, 20), (28, 31), (60, 28)]):
        pixels = ((uniform(f"image {i}", (*shape, 3)) + 1) * 127.5).astype(np.uint8)
        arrays[f"pixels_{i}"] = pixels
        arrays[f"cut_{i}"] = np.asarray(cut(Image.fromarray(pixels)))
        if i in (0, 1, 3):  # transformers puts an odd margin on the other side
            normal = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
            arrays[f"normal_{i}"] = normal.transpose(1, 2, 0).astype(np.float32)
    return arrays


def main():
    """Write all files beside this one."""
    import torch
    from open_clip.factory import get_model_config

    torch.set_num_threads(1)
    large = {"quick_gelu": False, **get_model_config("ViT-B-32")}
    arrays = {
        **hugging_face("small_hugging_face", SMALL, HERE / "hugging_face"),
        **open_clip("small_open_clip", SMALL_OPEN_CLIP, HERE / "open_clip"),
        **hugging_face("vit_b_32_hugging_face", {}),
        **open_clip("vit_b_32_open_clip", large),
        **tokenizer(HERE / "hugging_face"),
        **prepared_images(),
    }
    np.savez_compressed(HERE / "reference.npz", **arrays)


if __name__ == "__main__":
    main()
