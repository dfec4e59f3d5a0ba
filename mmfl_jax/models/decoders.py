"""Decoders: the feature maps of an encoder become one map, as fine as the finest of them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from mmfl_jax import ops
from mmfl_jax.models.encoders import Encoder, conv, in_lanes
from mmfl_jax.models.normalization import Normalization

Array = jax.Array

# After the stages of any encoder: decoders are whitened only where everything is.
_STAGE = 99
# Channels of all maps of a feature pyramid, where the encoder's finest map has more.
_PYRAMID = 64


class _Step(nnx.Module):
    """Apply a 3x3 convolution, a normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: Normalization, rngs: nnx.Rngs):
        self.conv = conv(inputs, outputs, 3, 1, norm.dtype, rngs)
        self.norm = norm.layer(outputs, _STAGE, rngs)

    def __call__(self, x: Array, train: bool) -> Array:
        return nnx.relu(self.norm(self.conv(x), use_running_average=not train))


class Decoder(nnx.Module):
    """Turn feature maps into one.

    Attributes:
      features: channels of the result.
    """

    features: int

    def __call__(self, maps: list[Array], train: bool) -> Array:
        """Return ``[batch, height, width, features]`` of maps, the finest first, as fine as that."""
        return in_lanes(self, self.features, lambda network, maps: network._joined(maps, train), maps)

    def _joined(self, maps: list[Array], train: bool) -> Array:
        raise NotImplementedError


class UNet(Decoder):
    """Go from the coarsest map to the finest: enlarge, join the next finer map, two convolutions.

    References:
      Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.
    """

    def __init__(self, encoder: Encoder, norm: Normalization, rngs: nnx.Rngs):
        self.ratios = _ratios(encoder)
        finer = encoder.channels[:-1][::-1]
        coarser = (encoder.channels[-1], *finer[:-1])
        self.first = nnx.List([_Step(c + f, f, norm, rngs) for c, f in zip(coarser, finer)])
        self.second = nnx.List([_Step(f, f, norm, rngs) for f in finer])
        self.features = width_of("unet", encoder)

    def _joined(self, maps: list[Array], train: bool) -> Array:
        x = maps[-1]
        for skip, ratio, first, second in zip(maps[-2::-1], self.ratios, self.first, self.second):
            x = second(first(ops.join_channels(enlarged(x, ratio), skip), train), train)
        return x


class FPN(Decoder):
    """Bring all maps to one number of channels, add them from coarse to fine, and smooth the sum.

    References:
      Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.
    """

    def __init__(self, encoder: Encoder, norm: Normalization, rngs: nnx.Rngs):
        self.ratios = _ratios(encoder)
        self.features = width_of("fpn", encoder)
        self.lateral = nnx.List([conv(c, self.features, 1, 1, norm.dtype, rngs) for c in encoder.channels[::-1]])
        self.smooth = _Step(self.features, self.features, norm, rngs)

    def _joined(self, maps: list[Array], train: bool) -> Array:
        x = self.lateral[0](maps[-1])
        for finer, ratio, lateral in zip(maps[-2::-1], self.ratios, self.lateral[1:]):
            x = enlarged(x, ratio) + lateral(finer)
        return self.smooth(x, train)


DECODERS: dict[str, Callable[[Encoder, Normalization, nnx.Rngs], Decoder]] = {"unet": UNet, "fpn": FPN}


def width_of(decoder: str, encoder: Encoder) -> int:
    """Return the channels of the map that a decoder makes of an encoder's maps."""
    return min(encoder.channels[0], _PYRAMID) if decoder == "fpn" else encoder.channels[0]


def enlarged(x: Array, ratio: int) -> Array:
    """Return ``[batch, ratio * height, ratio * width, channels]``, every pixel repeated."""
    batch, height, width, channels = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, ratio, width, ratio, channels))
    return wide.reshape(batch, ratio * height, ratio * width, channels)


def _ratios(encoder: Encoder) -> tuple[int, ...]:
    """Return how much finer each map is than the next coarser one, from the coarsest on."""
    return tuple(b // a for a, b in zip(encoder.strides, encoder.strides[1:]))[::-1]
