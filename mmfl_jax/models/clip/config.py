"""Sizes of a CLIP model: of the published ones, and as ``config.json`` of Hugging Face or open_clip tells them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError

ACTIVATIONS = ("quick_gelu", "gelu")
# What open_clip may say beyond these changes what a tower computes.
OPEN_CLIP_FIELDS = {
    *("image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"),
    *("context_length", "vocab_size", "heads"),
}
CONFIG_FILES = ("config.json", "open_clip_config.json")


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Say the size of a transformer.

    Attributes:
      width: channels of a token.
      layers: blocks.
      heads: attention heads; they divide the width.
      mlp_width: hidden units of a block's perceptron.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int

    def __post_init__(self):
        if self.heads < 1 or self.width % self.heads:
            raise UserError(f"CLIP: {self.heads} heads do not divide the width {self.width}")


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Say the size of a CLIP model (Radford et al., 2021, arXiv 2103.00020).

    Attributes:
      vision, text: the two transformers.
      image_size, patch_size: pixels of a side.
      context_length: tokens of a text at most, with start and end.
      vocabulary: tokens that have an embedding.
      projection: length of the features of images and texts.
      activation: ``quick_gelu`` (OpenAI's weights) or ``gelu`` (most of open_clip's).
      epsilon: of the layer normalisations.
    """

    vision: TowerConfig
    text: TowerConfig
    image_size: int = 224
    patch_size: int = 32
    context_length: int = 77
    vocabulary: int = 49408
    projection: int = 512
    activation: str = "quick_gelu"
    epsilon: float = 1e-5

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise UserError(f"CLIP: activation {self.activation!r} is unknown; one of: {', '.join(ACTIVATIONS)}")
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise UserError(f"CLIP: patches of {self.patch_size} pixels do not divide images of {self.image_size}")


VIT_B_32 = CLIPConfig(TowerConfig(768, 12, 12, 3072), TowerConfig(512, 12, 8, 2048))
VIT_B_16 = dataclasses.replace(VIT_B_32, patch_size=16)
# For demos without weights: the text tower has the vocabulary of ``ByteTokenizer``.
TINY = CLIPConfig(
    TowerConfig(64, 2, 4, 256), TowerConfig(64, 2, 4, 256), image_size=64, patch_size=16, vocabulary=258, projection=64
)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
      UserError: for a file that is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error


def read_fields(path: Path) -> dict[str, Any]:
    """Return the fields of a JSON file.

    Raises:
      UserError: for a file that is no JSON object.
    """
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path}: holds a {type(fields).__name__}, not fields by name")
    return fields


def read_config(path: str | Path) -> CLIPConfig:
    """Read the sizes from a ``config.json`` of Hugging Face or an ``open_clip_config.json``.

    Raises:
      UserError: no JSON, of another kind of model, or a field that is no number.
    """
    path = Path(path)
    fields = read_json(path)
    try:
        if "model_cfg" in fields:
            return _from_open_clip(fields["model_cfg"], path)
        if fields.get("model_type") == "clip":
            return _from_hugging_face(fields, path)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the sizes of a CLIP vision and text transformer ({error})") from error
    found = repr(fields["model_type"]) if "model_type" in fields else "none"
    raise UserError(f"{path}: model_type is {found}; 'clip' is needed, or model_cfg as open_clip writes it")


def _from_hugging_face(fields: Mapping[str, Any], path: Path) -> CLIPConfig:
    # Files leave out what equals the library's own defaults, which are those of ViT-B/32.
    vision, text = (
        {**(fields.get(f"{tower}_config") or {}), **(fields.get(f"{tower}_config_dict") or {})}
        for tower in ("vision", "text")
    )
    shared = [
        {"activation": tower.get("hidden_act", "quick_gelu"), "epsilon": float(tower.get("layer_norm_eps", 1e-5))}
        for tower in (vision, text)
    ]
    if shared[0] != shared[1]:
        raise UserError(f"{path}: vision has {shared[0]}, text {shared[1]}; both towers must have the same")
    return CLIPConfig(
        _tower_of_hugging_face(vision, VIT_B_32.vision),
        _tower_of_hugging_face(text, VIT_B_32.text),
        image_size=int(vision.get("image_size", 224)),
        patch_size=int(vision.get("patch_size", 32)),
        context_length=int(text.get("max_position_embeddings", 77)),
        vocabulary=int(text.get("vocab_size", 49408)),
        projection=int(fields.get("projection_dim", 512)),
        **shared[0],
    )


def _tower_of_hugging_face(fields: Mapping[str, Any], default: TowerConfig) -> TowerConfig:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return TowerConfig(*(int(fields.get(name, known)) for name, known in zip(names, dataclasses.astuple(default))))


def _from_open_clip(fields: Mapping[str, Any], path: Path) -> CLIPConfig:
    vision, text = fields.get("vision_cfg", {}), fields.get("text_cfg", {})
    others = sorted({*vision, *text} - OPEN_CLIP_FIELDS)
    if others or not isinstance(vision.get("layers"), int):
        found = others[0] if others else f"layers {vision.get('layers')!r}"
        raise UserError(f"{path}: {found} in vision_cfg or text_cfg; only CLIP's own plain transformers are known")
    width, text_width = int(vision["width"]), int(text.get("width", 512))
    ratio, text_ratio = vision.get("mlp_ratio", 4), text.get("mlp_ratio", 4)
    return CLIPConfig(
        TowerConfig(width, vision["layers"], width // int(vision.get("head_width", 64)), int(width * ratio)),
        TowerConfig(text_width, int(text.get("layers", 12)), int(text.get("heads", 8)), int(text_width * text_ratio)),
        image_size=int(vision.get("image_size", 224)),
        patch_size=int(vision.get("patch_size", 16)),
        context_length=int(text.get("context_length", 77)),
        vocabulary=int(text.get("vocab_size", 49408)),
        projection=int(fields["embed_dim"]),
        activation="quick_gelu" if fields.get("quick_gelu") else "gelu",
    )
