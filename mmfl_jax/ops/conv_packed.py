"""A grouped convolution with several groups on one block-diagonal kernel, so that their channels fill a TPU's lanes.

Clients under vmap are groups too. A matrix unit multiplies 128 channels at once whether they are there or not, and
lanes hold 128 numbers: the zeros beside the diagonal cost nothing where they take the place of emptiness.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array

from mmfl_jax.ops.conv_direct import plain_forward, plain_input, plain_weight
from mmfl_jax.ops.conv_spec import ConvSpec

# Two times the lanes: several blocks are groups again, whose layout XLA copies. A step of ResNet-8 with 8 clients is
# estimated at 253,000 cycles a client with 128, 171,000 with 256, 174,000 with 512.
_WIDTH = 256


def groups_per_block(groups: int, channels: int, features: int) -> int:
    """Return how many groups, each of ``channels`` and ``features``, share a block of the kernel."""
    fits = (n for n in range(groups, 0, -1) if groups % n == 0 and n * max(channels, features) <= _WIDTH)
    return next(fits, 1)


def packed_forward(spec: ConvSpec, x: Array, w: Array) -> Array:
    """Convolve with the block-diagonal kernel."""
    spec, per = _blocks(spec, w.shape[-2], w.shape[-1] // spec.groups)
    return plain_forward(spec, x, _block_diagonal(w, spec.groups, per))


def packed_input(spec: ConvSpec, dy: Array, w: Array) -> Array:
    """Return the input gradient by the block-diagonal kernel."""
    spec, per = _blocks(spec, w.shape[-2], w.shape[-1] // spec.groups)
    return plain_input(spec, dy, _block_diagonal(w, spec.groups, per))


def packed_weight(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """Return the kernel's gradient: the diagonal blocks of the packed kernel's."""
    channels = x.shape[-1] // spec.groups
    spec, per = _blocks(spec, channels, dy.shape[-1] // spec.groups)
    full = plain_weight(spec, x, dy).reshape(*spec.kernel, per, channels, spec.groups, per, -1)
    blocks = jnp.einsum("...icgjf,ij->...cgif", full, jnp.eye(per, dtype=full.dtype))
    return blocks.reshape(*spec.kernel, channels, dy.shape[-1])


def _blocks(spec: ConvSpec, channels: int, features: int) -> tuple[ConvSpec, int]:
    per = groups_per_block(spec.groups, channels, features)
    return dataclasses.replace(spec, groups=spec.groups // per), per


def _block_diagonal(w: Array, blocks: int, per: int) -> Array:
    """Return ``[*space, per * channels, features]`` of a kernel ``[*space, channels, features]``."""
    *space, channels, features = w.shape
    w = w.reshape(*space, channels, blocks, per, -1)
    w = jnp.einsum("...cgif,ij->...jcgif", w, jnp.eye(per, dtype=w.dtype))
    return w.reshape(*space, per * channels, features)
