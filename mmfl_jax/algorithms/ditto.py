"""Ditto: a personal model beside the global one."""

from __future__ import annotations

from typing import Any

import jax
import optax

from mmfl_jax.algorithms.algorithm import Algorithm, Local, Params, change


def ditto(weight: float = 0.1) -> Algorithm:
    """Ditto: each client trains a model of its own too, held near the global one, which is FedAvg's.

    ``v <- v - eta (grad F_i(v) + weight (v - x))`` beside every local step of the global model, by the clients'
    optimizer.

    Travels: as FedAvg. Keeps: one model a client; twice the work. Use it when clients need models of their own, and the
    global one must stay what it is.

    Args:
      weight: lambda of the pull towards the global model; the paper tries 0.1 to 2.

    References:
      Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021.
    """

    def carry(local: Local) -> tuple[Params, Any]:
        return local.memory, local.optimizer.init(local.memory)

    def step(params: Params, local: Local) -> tuple[Params, Any]:
        own, state = local.carry
        g = jax.grad(local.loss)(own)
        pulled = {n: g[n] + weight * (own[n] - local.received[n]) for n in own}
        updates, state = local.optimizer.update(pulled, state, own)
        return optax.apply_updates(own, {n: local.rate * u for n, u in updates.items()}), state

    def message(params: Params, local: Local) -> tuple[dict, Params]:
        return change(params, local)[0], local.carry[0]

    return Algorithm(
        memory=lambda params: params,
        carry=carry,
        step=step,
        message=message,
        personal=lambda params, memory, broadcast: memory,
    )
