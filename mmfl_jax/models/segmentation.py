"""The model for labels by pixel: an encoder and decoder per modality, fusion of feature maps, a shared 1x1 head.

Reconstruction of the pixel-based classification of Büyüktaş, Sumbul and Demir (arXiv 2503.10262); its details are our
choices, each an option.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmfl_jax.errors import UserError
from mmfl_jax.models.decoders import DECODERS, width_of
from mmfl_jax.models.fusion import fuse, fused_size
from mmfl_jax.models.multimodal import UNIFIED, ModelDesign, Output, Projector, dense, prepared

Array = jax.Array


class SegmentationModel(nnx.Module):
    """Classify each pixel of a tile from whichever of its modalities are present.

    Args:
      design: the whole model.
      held: the modalities this copy has parameters for; a client holds some, the server all.
      rngs: for the initial weights.

    Raises:
      UserError: for an encoder that has no feature maps.
    """

    def __init__(self, design: ModelDesign, held: tuple[str, ...], rngs: nnx.Rngs):
        self.design = design
        self.encoders = nnx.Dict(design.encoders(held, rngs))
        for m, encoder in self.encoders.items():
            if not encoder.channels:
                raise UserError(
                    f"--encoder {design.options.encoder}: labels by pixel need an encoder of images, with feature maps "
                    f"({m} is {design.modalities.get(m)}); try auto"
                )
        make, norm = DECODERS[design.options.decoder], design.norm
        self.decoders = nnx.Dict({m: make(encoder, norm, rngs) for m, encoder in self.encoders.items()})
        if design.projection:
            self.projectors = nnx.Dict(
                {m: Projector(e.features, design.projection, norm.dtype, rngs) for m, e in self.encoders.items()}
            )
        # What all modalities' maps have in common, whichever this copy holds.
        encoders = design.all_encoders(self.encoders)
        self.padding, finest = math.lcm(*(e.strides[-1] for e in encoders)), {e.strides[0] for e in encoders}
        if len(finest) > 1:
            raise UserError(f"--encoder {design.options.encoder}: finest maps have strides {finest}, and must have one")
        (self.stride,) = finest
        sizes = {m: decoder.features for m, decoder in self.decoders.items()}
        if design.design != "modality":
            self.heads = nnx.Dict({m: dense(n, design.outputs, norm.dtype, rngs) for m, n in sizes.items()})
            return
        width = max(width_of(design.options.decoder, e) for e in encoders)
        self.adapters = nnx.Dict({m: dense(n, width, norm.dtype, rngs) for m, n in sizes.items() if n != width})
        fused = fused_size(design.options.fusion, width, len(design.modalities))
        self.head = dense(fused, design.outputs, norm.dtype, rngs)

    def __call__(self, inputs: Mapping[str, Array], train: bool) -> Output:
        """Return logits of every pixel, and projections, from the modalities that ``inputs`` holds."""
        design = self.design
        images = prepared(design, inputs)
        height, width = next(iter(images.values())).shape[1:3]
        pyramids = {m: self.encoders[m].maps(padded(x, self.padding), train) for m, x in images.items()}
        projections: dict[str, Array] = {}
        if design.projection:
            coarsest = {m: p[-1] if design.projected_maps else p[-1].mean(axis=(1, 2)) for m, p in pyramids.items()}
            projections = {m: self.projectors[m](x) for m, x in coarsest.items()}
        maps = {m: self.decoders[m](p, train) for m, p in pyramids.items()}
        answer = lambda x: finer(x.astype(jnp.float32), self.stride)[:, :height, :width]
        if design.design == "modality":
            maps = {m: self.adapters[m](x) if m in self.adapters else x for m, x in maps.items()}
            merged = fuse(maps, tuple(design.modalities), design.options.fusion)
            return Output(answer(self.head(merged)), projections, features=merged.mean(axis=(1, 2)))
        logits = jnp.stack([answer(self.heads[m](x)) for m, x in maps.items()])
        # In training each model has its own loss; they meet only where they are used.
        logits = logits if train else logits.mean(axis=0)
        return Output(logits, projections, features=maps[UNIFIED].mean(axis=(1, 2)) if UNIFIED in maps else None)


def padded(x: Array, multiple: int) -> Array:
    """Return ``[batch, height, width, channels]`` with edges repeated below and to the right, up to whole multiples."""
    height, width = x.shape[1:3]
    below, right = -height % multiple, -width % multiple
    return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge") if below or right else x


def finer(x: Array, stride: int) -> Array:
    """Return ``[batch, stride * height, stride * width, channels]``, interpolated."""
    batch, height, width, channels = x.shape
    if stride == 1:
        return x
    return jax.image.resize(x, (batch, stride * height, stride * width, channels), "bilinear")
