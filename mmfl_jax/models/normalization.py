"""Normalisation layers of the encoders: batch, group, none, or whitening of channel groups.

Statistics live in ``nnx.BatchStat`` variables named ``mean`` and ``var`` (batch normalisation) or ``mean`` and ``cov``
(whitening); the engine pools them over clients by these names.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from mmfl_jax import ops
from mmfl_jax.models.options import ModelOptions
from mmfl_jax.ops import whitening

Array = jax.Array

MOMENTUM = 0.1
#: None is float32, in which parameters are: nothing is cast.
DTYPES: dict[str, jnp.dtype | None] = {"float32": None, "bfloat16": jnp.dtype(jnp.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Say which normalisation stands at each place of an encoder.

    Attributes:
      options: which layer, and how it whitens.
      whitened: whether there is whitening at all (FW).
      iterations: of Newton-Schulz.
    """

    options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    whitened: bool = False
    iterations: int = 5

    @property
    def dtype(self) -> jnp.dtype | None:
        """Return the compute type of a layer's output; statistics are float32."""
        return DTYPES[self.options.precision]

    def layer(self, channels: int, stage: int, rngs: nnx.Rngs) -> nnx.Module:
        """Return the layer for ``channels`` at ``stage`` (0: stem, 1..: stages)."""
        reach = {"stem": 0, "stem+stage1": 1, "all": 1_000}[self.options.whitening_where]
        if self.whitened and stage <= reach:
            return Whitening(channels, self)
        if self.options.norm == "batch":
            return BatchNorm(channels, momentum=1 - MOMENTUM, rngs=rngs)
        if self.options.norm == "group":
            groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
            return GroupNorm(channels, groups, self.dtype, rngs)
        return Identity()


class Identity(nnx.Module):
    """Return the input: the layer that stands for no normalisation."""

    def __call__(self, x: Array, use_running_average: bool = False) -> Array:
        """Return ``x``."""
        return x


class BatchNorm(nnx.BatchNorm):
    """Normalise channels over the batch in float32, and return the type of the input.

    Told to compute in bfloat16, Flax would add up the gradients of scale and bias in it, over all pixels of a batch.
    """

    def __call__(self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None) -> Array:
        """Return the normalised ``x [batch, ..., channels]``; in training, update the running moments."""
        return super().__call__(x, use_running_average, mask=mask).astype(x.dtype)


class GroupNorm(nnx.Module):
    """Normalise groups of channels within each sample: no statistics to average (Wu and He, ECCV 2018)."""

    def __init__(self, channels: int, groups: int, dtype: jnp.dtype | None, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(channels, num_groups=groups, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, use_running_average: bool = False) -> Array:
        """Return the normalised ``x [batch, ..., channels]``."""
        if ops.clients_in_lanes() > 1:
            self.norm.num_groups = x.shape[-1] // self.norm.group_size  # of a copy that lives as long as this call
        return self.norm(x)


class Whitening(nnx.Module):
    """Whiten groups of channels with the batch's moments, then scale and shift each channel.

    ``x_hat = W (x - mu)`` with ``W`` from the shrunk covariance over batch and pixels, as the domain-whitening layer of
    Roy et al. (CVPR 2019). Running moments are exponential averages with momentum 0.1.
    """

    def __init__(self, channels: int, norm: Normalization):
        self.norm = norm
        # A layer narrower than the group, or not a multiple of it, takes the largest group that divides it.
        self.group_size = next(
            g for g in range(min(norm.options.whitening_group, channels), 0, -1) if channels % g == 0
        )
        groups = channels // self.group_size
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.cov = nnx.BatchStat(jnp.broadcast_to(jnp.eye(self.group_size), (groups, self.group_size, self.group_size)))

    def __call__(self, x: Array, use_running_average: bool = False) -> Array:
        """Return the whitened ``x [batch, ..., channels]``; in training, update the running moments."""
        mean, covariance = self.mean[...], self.cov[...]
        if not use_running_average:
            batch_mean, batch_covariance = whitening.group_moments(x, self.group_size)
            self.mean[...] = (1 - MOMENTUM) * mean + MOMENTUM * jax.lax.stop_gradient(batch_mean)
            self.cov[...] = (1 - MOMENTUM) * covariance + MOMENTUM * jax.lax.stop_gradient(batch_covariance)
            if self.norm.options.whitening_moments == "batch":
                mean, covariance = batch_mean, batch_covariance
        options = self.norm.options
        shrunk = whitening.shrink(covariance, options.whitening_epsilon)
        matrix = whitening.whitening_matrix(shrunk, options.whitening, self.norm.iterations)
        return whitening.apply_whitening(x, mean, matrix, self.scale[...], self.bias[...])
