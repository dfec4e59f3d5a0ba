"""Clients side by side on the channel axis: a TPU's vectors hold 128 channels, and a small network has 16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

from mmfl_jax.ops.axes import batch_is_spread
from mmfl_jax.ops.conv_choice import forced_form
from mmfl_jax.ops.conv_spec import same_axes
from mmfl_jax.ops.platform import traced_platform

# Part of jit's cache key.
_clients = jax.make_user_context(default_value=1)

Function = Callable[..., Any]


def clients_in_lanes() -> int:
    """Return how many clients lie side by side on the channels of what is traced."""
    return _clients.value


def in_lanes(function: Function) -> Function:
    """Let vmap put clients on the channels of a function, from its arguments to its results.

    k networks are one of k times the width whose convolutions have k groups. So ``function`` is called with wider
    arrays, and may hold what treats each channel, or each group of them, by itself: convolutions of ``mmfl_jax.ops``
    (they take k times the groups), pooling, activations, sums, batch, group and whitening normalisation. Arguments and
    results are trees of real arrays whose last axis is channels, or of a kernel ``[*space, channels, features]``; what
    is named ``cov`` has groups of channels on its first. Reverse mode, any number of times, computes the forward anew:
    the compiler finds the two the same.

    On a platform other than TPU (unless form ``packed`` is forced), and where a batch is spread over devices, the
    function is left as it is.
    """

    def run(*arguments: Any) -> Any:
        if not _packs(arguments):
            return function(*arguments)
        leaves, tree = jax.tree.flatten(arguments)
        return _differentiable(function)(*jax.tree.unflatten(tree, same_axes(*leaves)))

    return run


def _packs(arguments: Any) -> bool:
    if batch_is_spread() or not (forced_form() == "packed" or (forced_form() is None and traced_platform() == "tpu")):
        return False
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(arguments))


def _differentiable(function: Function) -> Function:
    """Return the function with its client rule, and reverse-mode derivatives that have one too."""
    forward = jax.custom_vjp(_client_rule(function))

    def gradients(arguments: Any, cotangents: Any) -> Any:
        return jax.vjp(function, *arguments)[1](cotangents)

    backward = _differentiable_later(gradients)
    forward.defvjp(lambda *a: (forward(*a), a), backward)
    return forward


def _differentiable_later(function: Function) -> Function:
    # A gradient of gradients is asked for seldom: made when it is.
    return lambda *arguments: _differentiable(function)(*arguments)


def _client_rule(function: Function) -> Function:
    """Return the function with the rule that says what vmap over clients makes of it."""
    batched = custom_vmap(function)

    @batched.def_vmap
    def _(clients: int, batched: Any, *arguments: Any) -> Any:
        packed = jax.tree_util.tree_map_with_path(
            lambda path, leaf, mapped: _pack(path, leaf if mapped else jnp.broadcast_to(leaf, (clients, *leaf.shape))),
            arguments,
            tuple(batched),
        )
        with _clients(clients * _clients.value):
            results = function(*packed)
        return (
            jax.tree_util.tree_map_with_path(lambda path, leaf: _unpack(path, leaf, clients), results),
            jax.tree.map(lambda _: True, results),
        )

    return batched


def _channel_axis(path: Any) -> int:
    return 0 if any(getattr(key, "key", None) == "cov" for key in path) else -1


def _pack(path: Any, leaf: Array) -> Array:
    """Return ``[..., clients * channels]`` of ``[clients, ..., channels]``."""
    axis = _channel_axis(path) % (leaf.ndim - 1)
    leaf = jnp.moveaxis(leaf, 0, axis)
    return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])


def _unpack(path: Any, leaf: Array, clients: int) -> Array:
    axis = _channel_axis(path) % leaf.ndim
    leaf = leaf.reshape(*leaf.shape[:axis], clients, -1, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(leaf, axis, 0)
