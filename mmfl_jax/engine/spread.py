"""A client over several devices: the axis "samples" of the mesh shares its samples and each batch.

Each device of a home runs the encoders on its share of the batch; what the model answers goes to all of them, which
compute the loss of the whole batch alike. Moments of normalisation are taken over the axis
(:func:`mmfl_jax.ops.axes.batch_axis`), and gradients are added up over it, so the numbers are those of one device.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mmfl_jax.engine.mesh import SPAN
from mmfl_jax.models import Output

Array = jax.Array


def taken(rows: Array, span: int, values: Array, *, scatter: bool) -> Array:
    """Return ``values[rows]`` where row ``i`` lies on device ``i % span``, at ``i // span``.

    Args:
      rows: ``[batch]`` of all of the home's samples.
      span: devices of a home.
      values: ``[samples / span, ...]``, this device's.
      scatter: return this device's share of the batch, ``[batch / span, ...]``, not all of it.
    """
    mine = rows % span == jax.lax.axis_index(SPAN)
    own = values[jnp.where(mine, rows // span, 0)]
    # One term of each sum is not zero: exact in every type.
    own = jnp.where(mine.reshape(-1, *[1] * (own.ndim - 1)), own, 0)
    return jax.lax.psum_scatter(own, SPAN, tiled=True) if scatter else jax.lax.psum(own, SPAN)


def own_share(whole: Array, span: int, axis: int = 0) -> Array:
    """Return this device's share of what is of the whole batch; all of it where ``span`` is 1."""
    if span == 1:
        return whole
    size = whole.shape[axis] // span
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(SPAN) * size, size, axis)


def gathered(share: Array, axis: int = 0) -> Array:
    """Return the whole batch of every device's share."""
    return jax.lax.all_gather(share, SPAN, axis=axis, tiled=True)


def normalise_over_devices(model: nnx.Module) -> None:
    """Let the model's batch normalisations take moments of the whole batch, those of a user's own model too."""
    for _, part in nnx.iter_modules(model):
        if isinstance(part, nnx.BatchNorm):
            part.axis_name = SPAN


@jax.custom_vjp
def shared(tree: Any) -> Any:
    """Return ``tree``, the same on all devices of a home; its gradient is the sum of theirs."""
    return tree


shared.defvjp(lambda tree: (tree, None), lambda _, direction: (jax.lax.psum(direction, SPAN),))


def whole_output(output: Output, stacked: int, span: int) -> Output:
    """Return a model's output for the whole batch, of its output for this device's share.

    Args:
      output: of the share.
      stacked: axes of the logits before that of the batch.
      span: devices of a home.
    """
    known = lambda x, axis=0: None if x is None else _known(x, axis)
    return output._replace(
        logits=_known(output.logits, stacked),
        projections={m: _known(z, 0) for m, z in output.projections.items()},
        cosines=known(output.cosines, 1),
        features=known(output.features),
        # Every device has all of it, and would count the gradient again.
        texts=None if output.texts is None else _once(output.texts, span),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _known(share: Array, axis: int) -> Array:
    return gathered(share, axis)


def _known_backward(axis: int, _: None, direction: Array) -> tuple[Array]:
    # All devices go on alike: each has the gradient of the whole batch, and needs that of its share.
    return (own_share(direction, jax.lax.axis_size(SPAN), axis),)


_known.defvjp(lambda share, axis: (_known(share, axis), None), _known_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _once(x: Array, span: int) -> Array:
    return x


_once.defvjp(lambda x, span: (x, None), lambda span, _, direction: (direction / span,))
