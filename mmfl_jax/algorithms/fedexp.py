"""FedExP: the server's step grows where clients disagree."""

from __future__ import annotations

import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, Params, change, square_norm


def fedexp(epsilon: float = 1e-3) -> Algorithm:
    """FedExP: an adaptive server step by extrapolation, nothing to tune.

    ``x <- x + eta D``, ``eta = max(1, mean_i ||D_i||^2 / (2 (||D||^2 + epsilon)))`` with the mean change ``D``.

    Travels: one number more a parameter than FedAvg, the client's squared change. Use it when FedAvg is slow and you
    will not tune a server rate. The paper evaluates the mean of the last two models; here it is the last.

    Args:
      epsilon: keeps the step bounded where clients cancel out.

    References:
      Jhunjhunwala, Wang and Joshi, "FedExP: Speeding Up Federated Averaging via Extrapolation", ICLR 2023.
    """

    def message(params: Params, local: Local) -> tuple[dict, dict]:
        sent, memory = change(params, local)
        return {**sent, "squares": {n: jnp.vdot(d, d) for n, d in sent["change"].items()}}, memory

    def update(aggregate: Aggregate, state: dict, params: Params) -> tuple[Params, dict]:
        mean = aggregate.value["change"]
        squares = sum(aggregate.value["squares"].values(), jnp.float32(0))
        rate = jnp.maximum(1.0, squares / (2 * (square_norm(mean) + epsilon))) * aggregate.rate
        return {n: p + rate * mean[n] for n, p in params.items()}, state

    # Clipped or compressed, the change would no longer be the one whose square was sent.
    return Algorithm(
        message=message, update=update, indivisible="the server's step compares changes with their squares"
    )
