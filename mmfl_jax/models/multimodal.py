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
from mmfl_jax.models.encoders import Encoder, make_encoder
from mmfl_jax.models.fusion import fuse, fused_size
from mmfl_jax.models.normalization import Normalization
from mmfl_jax.models.options import ModelOptions, encoder_names

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
      by_pixel: whether every pixel is answered (:class:`mmfl_jax.models.segmentation.SegmentationModel`).
      projected_maps: whether MIM compares the pixels of the coarsest feature maps, not their means.
    """

    modalities: Mapping[str, tuple[int, ...]]
    outputs: int
    design: str = "modality"
    options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    whitened: bool = False
    projection: int = 0
    by_pixel: bool = False
    projected_maps: bool = False

    @property
    def norm(self) -> Normalization:
        """Return the normalisation at each place."""
        return Normalization(self.options, self.whitened)

    def encoders(self, held: tuple[str, ...], rngs: nnx.Rngs) -> dict[str, Encoder]:
        """Return the encoders of a client that holds some modalities: one for each, or one for all.

        Raises:
          UserError: for an encoder that does not fit, or is of a modality that there is not.
        """
        names = encoder_names(self.options.encoder)
        shapes = dict(self.modalities)
        if self.design == UNIFIED:
            shapes, held = {UNIFIED: _unified_shape(self.modalities)}, (UNIFIED,)
        if unknown := names.keys() - {"", *shapes}:
            known = "one encoder for all" if self.design == UNIFIED else f"modalities {', '.join(shapes)}"
            raise UserError(f"--encoder {self.options.encoder!r} names {', '.join(sorted(unknown))}; there is {known}")
        make = lambda m: make_encoder(
            names.get(m, names.get("", "auto")), shapes[m], self.options.width, self.norm, rngs
        )
        return {m: make(m) for m in held}

    def all_encoders(self, held: Mapping[str, Encoder]) -> list[Encoder]:
        """Return encoders of the kinds of all modalities, for their sizes; nothing is computed.

        Args:
          held: the encoders of a client. Where all are of one kind, they tell enough.
        """
        kinds = set(encoder_names(self.options.encoder).values())
        if self.design == UNIFIED or (len(kinds) == 1 and len({len(shape) for shape in self.modalities.values()}) == 1):
            return list(held.values())
        found: list[Encoder] = []

        def look() -> dict[str, Encoder]:
            made = self.encoders(tuple(self.modalities), nnx.Rngs(0))
            found.extend(made.values())
            return made

        nnx.eval_shape(look)
        return found


class Output(NamedTuple):
    """Hold what a model answers, in float32.

    Attributes:
      logits: ``[batch, classes]``, of labels by pixel ``[batch, height, width, classes]``; of separate models in
        training ``[modalities, batch, ...]``.
      projections: L2-normalised, ``[batch, projection]`` by modality, or ``[batch, height, width, projection]``; empty
        without MIM.
      texts: unit text features of the classes by each prompt, ``[prompts, classes, d]``; None without prompts.
      cosines: of image and text features, ``[prompts, batch, classes]``; None without prompts.
      features: the fused representation ``[batch, d]``; None where there is none.
    """

    logits: Array
    projections: dict[str, Array]
    texts: Array | None = None
    cosines: Array | None = None
    features: Array | None = None


def dense(inputs: int, outputs: int, dtype: jnp.dtype | None, rngs: nnx.Rngs) -> nnx.Linear:
    """Return a dense layer over the last axis: of maps, a 1x1 convolution."""
    return nnx.Linear(inputs, outputs, dtype=dtype, dot_general=ops.dot_general, rngs=rngs)


class Projector(nnx.Module):
    """Map features to the unit sphere on which modalities are compared: dense, ReLU, dense, L2 norm."""

    def __init__(self, features: int, projection: int, dtype: jnp.dtype | None, rngs: nnx.Rngs):
        self.hidden = dense(features, features, dtype, rngs)
        self.out = dense(features, projection, dtype, rngs)

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
        self.encoders = nnx.Dict(design.encoders(held, rngs))
        sizes = {m: encoder.features for m, encoder in self.encoders.items()}
        dtype = design.norm.dtype
        if design.projection:
            self.projectors = nnx.Dict({m: Projector(n, design.projection, dtype, rngs) for m, n in sizes.items()})
        if design.design != "modality":
            self.heads = nnx.Dict({m: dense(n, design.outputs, dtype, rngs) for m, n in sizes.items()})
            return
        # Encoders of several kinds: all vectors are brought to the length of the longest.
        features = max(encoder.features for encoder in design.all_encoders(self.encoders))
        self.adapters = nnx.Dict({m: dense(n, features, dtype, rngs) for m, n in sizes.items() if n != features})
        size = fused_size(design.options.fusion, features, len(design.modalities))
        self.head = dense(size, design.outputs, dtype, rngs)

    def __call__(self, inputs: Mapping[str, Array], train: bool) -> Output:
        """Return logits and projections from the modalities that ``inputs`` holds, each ``[batch, *shape]``."""
        design = self.design
        inputs = prepared(design, inputs)
        features = {m: self.encoders[m](x, train) for m, x in inputs.items()}
        projections = {m: self.projectors[m](f) for m, f in features.items()} if design.projection else {}
        if design.design == "modality":
            features = {m: self.adapters[m](f) if m in self.adapters else f for m, f in features.items()}
            merged = fuse(features, tuple(design.modalities), design.options.fusion)
            fused: Array | None = merged
            logits = self.head(merged)
        else:
            logits = jnp.stack([self.heads[m](f) for m, f in features.items()])
            # In training each model has its own loss; they meet only where they are used.
            logits = logits if train else logits.mean(axis=0)
            fused = features[UNIFIED] if design.design == UNIFIED else None
        return Output(logits.astype(jnp.float32), projections, features=fused)


def prepared(design: ModelDesign, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return what the encoders see, in the model's compute type: each modality, or the channels of all stacked."""
    dtype = design.norm.dtype
    inputs = {m: x if dtype is None else x.astype(dtype) for m, x in inputs.items()}
    return {UNIFIED: _stack_channels(inputs, design.modalities)} if design.design == UNIFIED else inputs


def _unified_shape(modalities: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    extents = {m: shape[:-1] for m, shape in modalities.items()}
    if len(set(extents.values())) > 1:
        raise UserError(
            f"--method unified stacks the channels of all modalities, so they must agree in extent, but have {extents}"
        )
    return (*next(iter(extents.values())), sum(shape[-1] for shape in modalities.values()))


def _stack_channels(inputs: Mapping[str, Array], modalities: Mapping[str, tuple[int, ...]]) -> Array:
    some = next(iter(inputs.values()))  # may be a part of an image
    missing = lambda shape: jnp.zeros((*some.shape[:-1], shape[-1]), some.dtype)
    return jnp.concatenate([inputs[m] if m in inputs else missing(shape) for m, shape in modalities.items()], axis=-1)
