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

LANES = 128

# Part of jit's cache key.
_clients = jax.make_user_context(default_value=1)

Function = Callable[..., Any]


def clients_in_lanes() -> int:
    """Return how many clients lie side by side on the channels of what is traced."""
    return _clients.value


def in_lanes(function: Function, width: int) -> Function:
    """Let vmap put clients on the channels of a function, from its arguments to its results.

    k networks are one of k times the width whose convolutions have k groups. So ``function`` is called with wider
    arrays, and may hold what treats each channel, or each group of them, by itself: convolutions of ``mmfl_jax.ops``
    (they take k times the groups), pooling, activations, sums, batch, group and whitening normalisation. Arguments and
    results are trees of real arrays whose last axis is channels, or of a kernel ``[*space, channels, features]``; what
    is named ``cov`` has groups of channels on its first. Reverse mode, any number of times, computes the forward anew:
    the compiler finds the two the same.

    As many clients lie side by side as fill the lanes with ``width`` channels, those of the narrowest layer. On a
    platform other than TPU (unless form ``packed`` is forced), and where a batch is spread over devices, the function
    is left as it is.
    """

    def run(*arguments: Any) -> Any:
        if not (lanes_are_used() and _are_real(arguments)):
            return function(*arguments)
        leaves, tree = jax.tree.flatten(arguments)
        return _differentiable(function, width)(*jax.tree.unflatten(tree, same_axes(*leaves)))

    return run


def join_channels(*parts: Array) -> Array:
    """Return arrays ``[..., channels]`` behind one another on their channels, each client's own together."""
    clients = clients_in_lanes()
    apart = [part.reshape(*part.shape[:-1], clients, -1) for part in parts]
    return jnp.concatenate(apart, axis=-1).reshape(*parts[0].shape[:-1], -1)


def lanes_are_used() -> bool:
    """Return whether what is traced may have clients on channels."""
    form = forced_form()
    return not batch_is_spread() and (form == "packed" or (form is None and traced_platform() == "tpu"))


def _are_real(arguments: Any) -> bool:
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(arguments))


def _differentiable(function: Function, width: int) -> Function:
    """Return the function with its client rule, and reverse-mode derivatives that have one too."""
    forward = jax.custom_vjp(_client_rule(function, width))

    def gradients(arguments: Any, cotangents: Any) -> Any:
        return jax.vjp(function, *arguments)[1](cotangents)

    def backward(arguments: Any, cotangents: Any) -> Any:
        return _differentiable(gradients, width)(arguments, cotangents)

    forward.defvjp(lambda *arguments: (forward(*arguments), arguments), backward)
    return forward


def _client_rule(function: Function, width: int) -> Function:
    """Return the function with the rule that says what vmap over clients makes of it."""
    operation = custom_vmap(function)

    @operation.def_vmap
    def _(clients: int, batched: Any, *arguments: Any) -> Any:
        fits = min(clients, max(1, LANES // width))
        together = next(n for n in range(fits, 0, -1) if clients % n == 0)
        if together == 1:
            results = jax.vmap(function, jax.tree.map(lambda mapped: 0 if mapped else None, tuple(batched)))(*arguments)
        else:
            arguments = jax.tree.map(
                lambda leaf, mapped: leaf if mapped else jnp.broadcast_to(leaf, (clients, *leaf.shape)),
                arguments,
                tuple(batched),
            )
            # One after another: beside each other they would be groups, whose layout has to be copied.
            packs = [
                _packed(function, together, jax.tree.map(lambda leaf: leaf[i : i + together], arguments))  # noqa: B023
                for i in range(0, clients, together)
            ]
            results = jax.tree.map(lambda *parts: jnp.concatenate(parts), *packs)
        return results, jax.tree.map(lambda _: True, results)

    return operation


def _packed(function: Function, clients: int, arguments: Any) -> Any:
    """Call the function with all clients on channels: from ``[clients, ...]`` to ``[clients, ...]``."""
    packed = jax.tree_util.tree_map_with_path(_pack, arguments)
    with _clients(clients * _clients.value):
        results = function(*packed)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _unpack(path, leaf, clients), results)


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
