"""Encoders: one image, series or vector of a modality becomes one feature vector, an image maps of features too.

``resnet8`` is the three-stage residual network of 16, 32 and 64 channels for small patches; ``resnet18`` and
``resnet50`` follow He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmfl_jax import ops
from mmfl_jax.errors import UserError
from mmfl_jax.models.normalization import Normalization
from mmfl_jax.models.options import ENCODERS

Array = jax.Array

# From this side on, a patch is brought down by the original stem (7x7, stride 2, then pooling); below it, 3x3.
LARGE_IMAGE = 96


@dataclasses.dataclass(frozen=True)
class ResNetDesign:
    """Say the blocks of each stage, the width of the first, and whether blocks are bottlenecks."""

    blocks: tuple[int, ...]
    width: int
    bottleneck: bool = False


RESNETS = {
    "resnet8": ResNetDesign((1, 1, 1), 16),
    "resnet18": ResNetDesign((2, 2, 2, 2), 64),
    "resnet50": ResNetDesign((3, 4, 6, 3), 64, bottleneck=True),
}


def conv(inputs: int, outputs: int, kernel: int, stride: int, dtype: jnp.dtype | None, rngs: nnx.Rngs) -> nnx.Conv:
    """Return a convolution without bias, as it stands before a normalisation."""
    return nnx.Conv(
        inputs,
        outputs,
        (kernel, kernel),
        stride,
        use_bias=False,
        dtype=dtype,
        kernel_init=nnx.initializers.he_normal(),
        conv_general_dilated=ops.conv_general_dilated,
        rngs=rngs,
    )


def in_lanes(network: nnx.Module, width: int, call: Callable[[Any, Any], Any], x: Any) -> Any:
    """Return ``call(network, x)`` of one array or a tree of them.

    Under vmap clients lie on channels where ``ops.in_lanes`` puts them there.
    """
    if not ops.lanes_are_used():
        return call(network, x)
    graph, state = nnx.split(network)

    def run(state: nnx.State, x: Any) -> tuple[Any, nnx.State]:
        copy = nnx.merge(graph, state, copy=True)
        return call(copy, x), nnx.state(copy, nnx.BatchStat)

    found, stats = ops.in_lanes(run, width)(state, x)
    nnx.update(network, stats)
    return found


class Block(nnx.Module):
    """Add to the input what two 3x3 convolutions (or 1x1, 3x3, 1x1 in a bottleneck) make of it."""

    def __init__(self, inputs: int, width: int, stride: int, stage: int, bottleneck: bool, norm: Normalization, rngs):
        outputs = 4 * width if bottleneck else width
        plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        plan = plan if bottleneck else [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        self.convs = nnx.List([conv(*step, norm.dtype, rngs) for step in plan])
        self.norms = nnx.List([norm.layer(step[1], stage, rngs) for step in plan])
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride, norm.dtype, rngs) if changes else None
        self.shortcut_norm = norm.layer(outputs, stage, rngs) if changes else None

    def __call__(self, x: Array, train: bool) -> Array:
        """Return the block's output ``[batch, height / stride, width / stride, outputs]``."""
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            y = norm(conv(y), use_running_average=not train)
            y = nnx.relu(y) if i + 1 < len(self.convs) else y
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x), use_running_average=not train)
        return nnx.relu(x + y)


class Encoder(nnx.Module):
    """Turn the samples of a modality into vectors.

    Attributes:
      features: length of a vector.
      channels: of each feature map, the finest first; empty for an encoder that has none.
      strides: pixels of the image a side of a map's pixel, as long as ``channels``.
    """

    features: int
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def maps(self, x: Array, train: bool) -> list[Array]:
        """Return feature maps ``[batch, height / stride, width / stride, channels]``, the finest first."""
        raise NotImplementedError

    def __call__(self, x: Array, train: bool) -> Array:
        """Return ``[batch, features]`` of samples ``[batch, *shape]``."""
        raise NotImplementedError


class ResNet(Encoder):
    """Encode an image ``[batch, height, width, channels]`` as ``[batch, features]``."""

    def __init__(self, shape: tuple[int, ...], design: ResNetDesign, norm: Normalization, rngs: nnx.Rngs):
        height, width, channels = shape
        self.width = design.width
        self.large = min(height, width) >= LARGE_IMAGE
        kernel, stride = (7, 2) if self.large else (3, 1)
        self.stem = conv(channels, design.width, kernel, stride, norm.dtype, rngs)
        self.stem_norm = norm.layer(design.width, 0, rngs)
        self.blocks: nnx.List[Block] = nnx.List([])
        inputs = design.width
        widths: list[int] = []
        for stage, count in enumerate(design.blocks, start=1):
            stage_width = design.width * 2 ** (stage - 1)
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                self.blocks.append(Block(inputs, stage_width, stride, stage, design.bottleneck, norm, rngs))
                inputs = 4 * stage_width if design.bottleneck else stage_width
            widths.append(inputs)
        self.features, self.ends = inputs, tuple(np.cumsum(design.blocks).tolist())
        # The stem's own map is finer than the first stage's only where there is pooling between them.
        stem, first = ((design.width,), 4) if self.large else ((), 1)
        self.channels = (*stem, *widths)
        self.strides = ((2,) if self.large else ()) + tuple(first * 2**i for i in range(len(widths)))

    def maps(self, x: Array, train: bool) -> list[Array]:
        """Return the maps of the stages, and before them the stem's where it is finer."""
        return in_lanes(self, self.width, lambda network, x: network._maps(x, train), x)

    def __call__(self, x: Array, train: bool) -> Array:
        """Return the mean over pixels of the last stage."""
        last = lambda network, x: network._maps(x, train)[-1].mean(axis=(1, 2))
        return in_lanes(self, self.width, last, x)

    def _maps(self, x: Array, train: bool) -> list[Array]:
        x = nnx.relu(self.stem_norm(self.stem(x), use_running_average=not train))
        found = []
        if self.large:
            found.append(x)
            x = ops.max_pool(x, (3, 3), (2, 2), "SAME")
        for i, block in enumerate(self.blocks, start=1):
            x = block(x, train)
            if i in self.ends:
                found.append(x)
        return found


class MLP(Encoder):
    """Encode anything, flattened, by two dense layers."""

    def __init__(self, shape: tuple[int, ...], hidden: int, norm: Normalization, rngs: nnx.Rngs):
        inputs = 1
        for size in shape:
            inputs *= size
        options: dict[str, Any] = {
            "dtype": norm.dtype,
            "kernel_init": nnx.initializers.he_normal(),
            "dot_general": ops.dot_general,
            "rngs": rngs,
        }
        self.first = nnx.Linear(inputs, hidden, **options)
        self.first_norm = norm.layer(hidden, 0, rngs)
        self.second = nnx.Linear(hidden, hidden, **options)
        self.second_norm = norm.layer(hidden, 1, rngs)
        self.features = hidden

    def __call__(self, x: Array, train: bool) -> Array:
        """Return ``[batch, hidden]``."""
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.first_norm(self.first(x), use_running_average=not train))
        return nnx.relu(self.second_norm(self.second(x), use_running_average=not train))


class Conv1D(Encoder):
    """Encode a series ``[batch, time, channels]`` by two convolutions over time, then mean and maximum over it."""

    def __init__(self, shape: tuple[int, ...], hidden: int, norm: Normalization, rngs: nnx.Rngs):
        options: dict[str, Any] = {
            "use_bias": False,
            "dtype": norm.dtype,
            "kernel_init": nnx.initializers.he_normal(),
            "conv_general_dilated": ops.conv_general_dilated,
            "rngs": rngs,
        }
        hidden = max(hidden, 2)
        self.first = nnx.Conv(shape[-1], hidden // 2, (5,), **options)
        self.first_norm = norm.layer(hidden // 2, 0, rngs)
        self.second = nnx.Conv(hidden // 2, hidden // 2, (5,), **options)
        self.second_norm = norm.layer(hidden // 2, 1, rngs)
        self.features = hidden // 2 * 2

    def __call__(self, x: Array, train: bool) -> Array:
        """Return ``[batch, hidden]``."""
        x = nnx.relu(self.first_norm(self.first(x), use_running_average=not train))
        x = nnx.relu(self.second_norm(self.second(x), use_running_average=not train))
        return jnp.concatenate([x.mean(axis=1), x.max(axis=1)], axis=-1)


@dataclasses.dataclass(frozen=True)
class EncoderKind:
    """Describe an encoder.

    Attributes:
      make: ``(shape of a sample, width, normalisation, rngs) -> Encoder``; a width of 0 is its own.
      axes: of the samples that it takes; 0 for any.
    """

    make: Callable[[tuple[int, ...], int, Normalization, nnx.Rngs], Encoder]
    axes: int = 0


def _resnet(design: ResNetDesign) -> EncoderKind:
    wide = lambda width: dataclasses.replace(design, width=width or design.width)
    return EncoderKind(lambda shape, width, norm, rngs: ResNet(shape, wide(width), norm, rngs), axes=3)


_ENCODERS = {
    **{name: _resnet(design) for name, design in RESNETS.items()},
    "mlp": EncoderKind(lambda shape, width, norm, rngs: MLP(shape, width or 128, norm, rngs)),
    "conv1d": EncoderKind(lambda shape, width, norm, rngs: Conv1D(shape, width or 128, norm, rngs), axes=2),
}


def register_encoder(name: str, kind: EncoderKind, *, replace: bool = False) -> None:
    """Add an encoder, for studies and the command line.

    Raises:
      UserError: for a name that is taken, unless it is to be replaced.
    """
    if name in ENCODERS and not replace:
        raise UserError(f"encoder {name!r} is there already; choose another name, or say replace=True")
    _ENCODERS[name] = kind
    if name not in ENCODERS:
        ENCODERS.append(name)


def default_encoder(shape: tuple[int, ...]) -> str:
    """Return the encoder for samples of ``shape``: ``resnet8`` for images, ``mlp`` for series and vectors."""
    return "resnet8" if len(shape) == 3 else "mlp"


def make_encoder(name: str, shape: tuple[int, ...], width: int, norm: Normalization, rngs: nnx.Rngs) -> Encoder:
    """Return the encoder ``name`` for samples of ``shape``.

    Args:
      name: see :class:`mmfl_jax.models.options.ModelOptions`.
      shape: of one sample: ``(height, width, channels)``, ``(time, channels)`` or ``(features,)``.
      width: of ``mlp`` and ``conv1d``; for residual networks of the first stage; 0 for their own.
      norm: the normalisation at each place.
      rngs: for the initial weights.

    Raises:
      UserError: for an encoder that does not fit the shape.
    """
    name = default_encoder(shape) if name == "auto" else name
    kind = _ENCODERS[name]
    if kind.axes and len(shape) != kind.axes:
        raise UserError(f"--encoder {name} takes samples of {kind.axes} axes, but these have shape {shape}; try auto")
    return kind.make(shape, width, norm, rngs)
