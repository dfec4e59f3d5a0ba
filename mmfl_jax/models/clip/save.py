"""Write a CLIP model as a folder in Hugging Face's names, which ``load`` reads back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.models.clip.config import CLIPConfig, TowerConfig
from mmfl_jax.models.clip.names import HUGGING_FACE
from mmfl_jax.models.clip.tokenizer import BYTES, FIELD
from mmfl_jax.models.clip.towers import CLIP
from mmfl_jax.models.variables import values


def save(model: CLIP, folder: str | Path, **notes: Any) -> Path:
    """Write ``model.safetensors`` and ``config.json``, both or neither.

    Args:
      model: its tokenizer is the byte tokenizer.
      folder: must not be there yet; its parents are made.
      notes: further fields of ``config.json``, such as what the model was trained on.

    Returns:
      The folder.

    Raises:
      UserError: a folder that is there or cannot be written, or the library is not installed.
    """
    try:
        from safetensors.numpy import save_file
    except ModuleNotFoundError as error:
        raise UserError("writing CLIP needs safetensors; pip install 'mmfl_jax[clip]'") from error
    folder = Path(folder)
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        save_file(tensors(model), part / "model.safetensors")
        (part / "config.json").write_text(json.dumps(_fields(model.config) | {FIELD: BYTES} | notes, indent=2))
        part.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: CLIP cannot be written there ({error.strerror}); name a new folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def tensors(model: CLIP) -> dict[str, np.ndarray]:
    """Return the weights by Hugging Face's names, their axes as they lie there."""
    found: dict[str, np.ndarray] = {}
    for path, value in values(model)[0].items():
        ours = np.asarray(jax.device_get(value))
        for block, one in enumerate(ours) if "/blocks/" in path else [(0, ours)]:
            names = HUGGING_FACE.sources(path, block)
            found.update(zip(names, np.split(_theirs(path, one, model.config), len(names))))
    return {name: np.ascontiguousarray(tensor) for name, tensor in found.items()}


def _theirs(path: str, ours: np.ndarray, config: CLIPConfig) -> np.ndarray:
    """Return a parameter (of one block) in their order of axes: what ``NameMap.convert`` undoes."""
    if path == "vision/patch_embedding/kernel":
        patch = config.patch_size
        return ours.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)
    if path == "logit_scale":
        return ours.reshape(1)
    return ours.T if path.endswith("/kernel") else ours


def _fields(config: CLIPConfig) -> dict[str, Any]:
    def tower(size: TowerConfig, **others: Any) -> dict[str, Any]:
        return {
            "hidden_size": size.width,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "intermediate_size": size.mlp_width,
            "hidden_act": config.activation,
            "layer_norm_eps": config.epsilon,
            **others,
        }

    return {
        "model_type": "clip",
        "projection_dim": config.projection,
        "vision_config": tower(config.vision, image_size=config.image_size, patch_size=config.patch_size),
        "text_config": tower(config.text, max_position_embeddings=config.context_length, vocab_size=config.vocabulary),
    }
