"""A federated algorithm: what a client adds to its loss, and what the server does with the averaged update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Params = dict[str, Array]


def no_penalty(params: Params, received: Params) -> Array:
    """Return 0: the local loss is the task's."""
    return jnp.float32(0)


class Algorithm(NamedTuple):
    """Hold the pure functions of an algorithm.

    Attributes:
      init: ``params -> state`` of the server, before the first round.
      update: ``(mean_delta, state, params) -> (params, state)`` of the server; ``mean_delta`` is the clients' weighted
        mean change of each parameter.
      penalty: ``(params, received) -> scalar`` that a client adds to its loss; ``received`` are the parameters it got.
    """

    init: Callable[[Params], Any]
    update: Callable[[Params, Any, Params], tuple[Params, Any]]
    penalty: Callable[[Params, Params], Array] = no_penalty


def federated_averaging(server_optimizer: optax.GradientTransformation | None = None) -> Algorithm:
    """Return FedAvg, or its adaptive kin: the server takes the mean change of its clients as a negative gradient.

    Args:
      server_optimizer: ``optax.sgd(1.0)`` (default) is plain averaging; with momentum it is FedAvgM, ``optax.adam`` is
        FedAdam.

    References:
      McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.
      Reddi et al., "Adaptive Federated Optimization", ICLR 2021.
    """
    optimizer = server_optimizer or optax.sgd(1.0)

    def update(mean_delta: Params, state: Any, params: Params) -> tuple[Params, Any]:
        gradient = jax.tree.map(jnp.negative, mean_delta)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return Algorithm(optimizer.init, update)


def proximal(algorithm: Algorithm, weight: float) -> Algorithm:
    """Return ``algorithm`` with ``weight / 2 * ||params - received||^2`` added to every client's loss.

    References:
      Li et al., "Federated Optimization in Heterogeneous Networks" (FedProx), MLSys 2020.
    """

    def penalty(params: Params, received: Params) -> Array:
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), params, received)
        return algorithm.penalty(params, received) + weight / 2 * sum(jax.tree.leaves(squares))

    return algorithm._replace(penalty=penalty)
