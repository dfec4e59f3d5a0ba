"""FedNova: changes are divided by the steps that made them."""

from __future__ import annotations

import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, Params, difference
from mmfl_jax.algorithms.checks import plain_sgd


def fednova() -> Algorithm:
    """FedNova: normalised averaging, so that clients of many steps do not pull the model to their own optimum.

    ``x <- x + tau sum_i p_i (w_i - x) / a_i``, ``tau = sum_i p_i a_i``; ``a_i`` is the number of steps for SGD, and
    ``(K - r (1 - r^K) / (1 - r)) / (1 - r)`` for momentum ``r``.

    Travels: one number more than FedAvg. Use it when clients do unequal numbers of steps (ragged clients, stragglers).

    References:
      Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS 2020.
    """

    def message(params: Params, local: Local) -> tuple[dict, dict]:
        steps, r = local.steps.astype(jnp.float32), local.momentum
        a = (steps - r * (1 - r**steps) / (1 - r)) / (1 - r) if r else steps
        moved = difference(params, local.received)
        return {"change": {n: d / a for n, d in moved.items()}, "steps": dict.fromkeys(moved, a)}, local.memory

    def update(aggregate: Aggregate, state: dict, params: Params) -> tuple[Params, dict]:
        value = aggregate.value
        return {n: p + aggregate.rate * value["steps"][n] * value["change"][n] for n, p in params.items()}, state

    return Algorithm(message=message, update=update, counts=("steps",), check=plain_sgd("FedNova", "momentum"))
