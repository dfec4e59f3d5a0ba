"""What OpenAI, open_clip and Hugging Face call the tensors of CLIP, and how their axes lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class NameMap:
    """Say how a source names what this package names.

    Attributes:
      name: of the source, for messages.
      modules: our module -> theirs, ``{}`` for the number of a block; kernels, scales and embeddings are ``weight``.
      arrays: our parameter -> their tensor, where it is no module's ``weight`` or ``bias``.
      separate: their names of queries, keys and values where they are three; else None: one stacked tensor.
      projection_transposed: whether the last projections are stored ``[outputs, inputs]``.
    """

    name: str
    modules: Mapping[str, str]
    arrays: Mapping[str, str]
    separate: tuple[str, ...] | None
    projection_transposed: bool

    def sources(self, path: str, block: int = 0) -> list[str]:
        """Return their names of the tensors that make our parameter ``path``: one, or queries, keys and values.

        Args:
          path: of the parameter; in a transformer those of all blocks are stacked.
          block: which of them.
        """
        if path in self.arrays:
            return [self.arrays[path]]
        module, _, leaf = path.rpartition("/")
        theirs = self.modules[module].format(block)
        leaf = "bias" if leaf == "bias" else "weight"
        if module.endswith("/qkv"):
            return [f"{theirs}_{leaf}"] if self.separate is None else [f"{theirs}.{q}.{leaf}" for q in self.separate]
        return [f"{theirs}.{leaf}"]

    def convert(self, path: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Return our parameter ``path`` (of one block) of the tensors that ``sources`` names, in our order of axes."""
        tensor = np.concatenate(tensors) if len(tensors) > 1 else tensors[0]
        if path == "vision/patch_embedding/kernel":  # a convolution over patches: [width, 3, patch, patch]
            return tensor.transpose(2, 3, 1, 0).reshape(-1, len(tensor))
        if path == "logit_scale":
            return tensor.reshape(())
        if path.endswith("/projection/kernel"):
            return tensor.T if self.projection_transposed else tensor
        return tensor.T if path.endswith("/kernel") else tensor


def _modules(towers: Mapping[str, str], blocks: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    inner = {
        f"{tower}/transformer/blocks/{ours}": f"{prefix}.{{}}.{theirs}"
        for tower, prefix in towers.items()
        for ours, theirs in blocks.items()
    }
    return {**inner, **others}


OPENAI = NameMap(
    "OpenAI and open_clip",
    _modules(
        {"vision": "visual.transformer.resblocks", "text": "transformer.resblocks"},
        {
            "attention_norm": "ln_1",
            "qkv": "attn.in_proj",
            "out": "attn.out_proj",
            "mlp_norm": "ln_2",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        },
        {
            "vision/patch_embedding": "visual.conv1",
            "vision/pre_norm": "visual.ln_pre",
            "vision/post_norm": "visual.ln_post",
            "text/token_embedding": "token_embedding",
            "text/final_norm": "ln_final",
        },
    ),
    {
        "vision/class_embedding": "visual.class_embedding",
        "vision/position_embedding": "visual.positional_embedding",
        "vision/projection/kernel": "visual.proj",
        "text/position_embedding": "positional_embedding",
        "text/projection/kernel": "text_projection",
        "logit_scale": "logit_scale",
    },
    separate=None,
    projection_transposed=False,
)
HUGGING_FACE = NameMap(
    "Hugging Face",
    _modules(
        {"vision": "vision_model.encoder.layers", "text": "text_model.encoder.layers"},
        {
            "attention_norm": "layer_norm1",
            "qkv": "self_attn",
            "out": "self_attn.out_proj",
            "mlp_norm": "layer_norm2",
            "up": "mlp.fc1",
            "down": "mlp.fc2",
        },
        {
            "vision/patch_embedding": "vision_model.embeddings.patch_embedding",
            "vision/pre_norm": "vision_model.pre_layrnorm",  # so spelt in every file of theirs
            "vision/post_norm": "vision_model.post_layernorm",
            "text/token_embedding": "text_model.embeddings.token_embedding",
            "text/final_norm": "text_model.final_layer_norm",
        },
    ),
    {
        "vision/class_embedding": "vision_model.embeddings.class_embedding",
        "vision/position_embedding": "vision_model.embeddings.position_embedding.weight",
        "vision/projection/kernel": "visual_projection.weight",
        "text/position_embedding": "text_model.embeddings.position_embedding.weight",
        "text/projection/kernel": "text_projection.weight",
        "logit_scale": "logit_scale",
    },
    separate=("q_proj", "k_proj", "v_proj"),
    projection_transposed=True,
)
