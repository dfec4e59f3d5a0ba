"""The multi-modal model: an encoder per modality, fusion of the features present, a head, projectors for MIM.

Reconstruction of the framework of Büyüktaş, Sumbul and Demir (arXiv 2503.10262); its details are our choices, each an
option.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmfl_jax import ops
from mmfl_jax.errors import UserError
from mmfl_jax.models.encoders import make_encoder
from mmfl_jax.models.fusion import fuse, fused_size
from mmfl_jax.models.normalization import Normalization
from mmfl_jax.models.options import ModelOptions

Array = jax.Array

UNIFIED = "unified"


@dataclasses.dataclass(frozen=True)
class ModelDesign:
    """Say how the model is built.

    Attributes:
      modalities: shape of a sample of every modality of the federation, in order.
      outputs: classes.
      design: ``modality`` (an encoder each, features fused, one head), ``unified`` (one encoder over all channels,
        zeros for a missing modality) or ``separate`` (an encoder and a head each, logits averaged).
      options: encoders, fusion and normalisation.
      whitened: whether features are whitened (FW).
      projection: length of MIM's projections, 0 for none.
    """

    modalities: Mapping[str, tuple[int, ...]]
    outputs: int
    design: str = "modality"
    options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    whitened: bool = False
    projection: int = 0

    @property
    def norm(self) -> Normalization:
        """Return the normalisation at each place."""
        return Normalization(self.options, self.whitened)


class Output(NamedTuple):
    """Hold what a model answers, in float32.

    Attributes:
      logits: ``[batch, classes]``; of separate models in training ``[modalities, batch, classes]``.
      projections: L2-normalised, ``[batch, projection]`` by modality; empty without MIM.
      texts: unit text features of the classes by each prompt, ``[prompts, classes, d]``; None without prompts.
      cosines: of image and text features, ``[prompts, batch, classes]``; None without prompts.
      features: the fused representation ``[batch, d]``; None where there is none.
    """

    logits: Array
    projections: dict[str, Array]
    texts: Array | None = None
    cosines: Array | None = None
    features: Array | None = None


def _dense(inputs: int, outputs: int, dtype: jnp.dtype | None, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, dtype=dtype, dot_general=ops.dot_general, rngs=rngs)


class Projector(nnx.Module):
    """Map features to the unit sphere on which modalities are compared: dense, ReLU, dense, L2 norm."""

    def __init__(self, features: int, projection: int, dtype: jnp.dtype | None, rngs: nnx.Rngs):
        self.hidden = _dense(features, features, dtype, rngs)
        self.out = _dense(features, projection, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        """Return unit vectors ``[batch, projection]``, float32."""
        z = self.out(nnx.relu(self.hidden(x))).astype(jnp.float32)
        # The floor keeps the gradient finite where a projection is exactly zero.
        return z * jax.lax.rsqrt(jnp.maximum((z * z).sum(axis=-1, keepdims=True), 1e-12))


class MultiModalModel(nnx.Module):
    """Classify a place from whichever of its modalities are present.

    Args:
      design: the whole model.
      held: the modalities this copy has parameters for; a client holds some, the server all.
      rngs: for the initial weights.
    """

    def __init__(self, design: ModelDesign, held: tuple[str, ...], rngs: nnx.Rngs):
        self.design = design
        shapes = {UNIFIED: _unified_shape(design.modalities)} if design.design == UNIFIED else design.modalities
        towers = (UNIFIED,) if design.design == UNIFIED else held
        self.encoders = nnx.Dict(
            {
                m: make_encoder(design.options.encoder, shapes[m], design.options.width, design.norm, rngs)
                for m in towers
            }
        )
        sizes = {m: encoder.features for m, encoder in self.encoders.items()}
        if len(set(sizes.values())) > 1 and design.design == "modality":
            raise UserError(
                f"--fusion {design.options.fusion} needs features of one length, but the encoders give {sizes}; "
                "choose one --encoder for all modalities"
            )
        features = next(iter(sizes.values()))
        dtype = design.norm.dtype
        if design.projection:
            self.projectors = nnx.Dict({m: Projector(sizes[m], design.projection, dtype, rngs) for m in towers})
        if design.design == "modality":
            size = fused_size(design.options.fusion, features, len(design.modalities))
            self.head = _dense(size, design.outputs, dtype, rngs)
        else:
            self.heads = nnx.Dict({m: _dense(sizes[m], design.outputs, dtype, rngs) for m in towers})

    def __call__(self, inputs: Mapping[str, Array], train: bool) -> Output:
        """Return logits and projections from the modalities that ``inputs`` holds, each ``[batch, *shape]``."""
        design = self.design
        dtype = design.norm.dtype
        inputs = {m: x if dtype is None else x.astype(dtype) for m, x in inputs.items()}
        if design.design == UNIFIED:
            inputs = {UNIFIED: _stack_channels(inputs, design.modalities)}
        features = {m: self.encoders[m](x, train) for m, x in inputs.items()}
        projections = {m: self.projectors[m](f) for m, f in features.items()} if design.projection else {}
        if design.design == "modality":
            merged = fuse(features, tuple(design.modalities), design.options.fusion)
            fused: Array | None = merged
            logits = self.head(merged)
        else:
            logits = jnp.stack([self.heads[m](f) for m, f in features.items()])
            # In training each model has its own loss; they meet only where they are used.
            logits = logits if train else logits.mean(axis=0)
            fused = features[UNIFIED] if design.design == UNIFIED else None
        return Output(logits.astype(jnp.float32), projections, features=fused)


def _unified_shape(modalities: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    extents = {m: shape[:-1] for m, shape in modalities.items()}
    if len(set(extents.values())) > 1:
        raise UserError(
            f"--method unified stacks the channels of all modalities, so they must agree in extent, but have {extents}"
        )
    return (*next(iter(extents.values())), sum(shape[-1] for shape in modalities.values()))


def _stack_channels(inputs: Mapping[str, Array], modalities: Mapping[str, tuple[int, ...]]) -> Array:
    some = next(iter(inputs.values()))
    missing = lambda shape: jnp.zeros((some.shape[0], *shape), some.dtype)
    return jnp.concatenate([inputs[m] if m in inputs else missing(shape) for m, shape in modalities.items()], axis=-1)
