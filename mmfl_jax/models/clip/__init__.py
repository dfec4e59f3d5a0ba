"""CLIP in Flax NNX: towers, weights in the names of OpenAI, open_clip and Hugging Face, tokens and images."""

from mmfl_jax.archives.images import normalize, prepare, read_images
from mmfl_jax.models.clip.config import TINY, VIT_B_16, VIT_B_32, CLIPConfig, TowerConfig, read_config
from mmfl_jax.models.clip.save import save
from mmfl_jax.models.clip.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    Tokenizer,
    Tokens,
    read_tokenizer,
    silent_bytes,
    tokenize,
)
from mmfl_jax.models.clip.towers import CLIP, TextTower, VisionTower
from mmfl_jax.models.clip.weights import build, load, read_safetensors

__all__ = [
    "CLIP",
    "TINY",
    "VIT_B_16",
    "VIT_B_32",
    "BPETokenizer",
    "ByteTokenizer",
    "CLIPConfig",
    "TextTower",
    "Tokenizer",
    "Tokens",
    "TowerConfig",
    "VisionTower",
    "build",
    "load",
    "normalize",
    "prepare",
    "read_config",
    "read_images",
    "read_safetensors",
    "read_tokenizer",
    "save",
    "silent_bytes",
    "tokenize",
]
