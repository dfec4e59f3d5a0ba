"""MimeLite: clients step with the server's momentum, which stays fixed in a round."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, Params, add_change, difference, zeros
from mmfl_jax.algorithms.checks import plain_sgd


def mimelite(beta: float = 0.9) -> Algorithm:
    """MimeLite: centralised momentum mimicked by every local step.

    ``w <- w - eta ((1-beta) g + beta s)`` with the server's momentum ``s``; then ``s <- (1-beta) mean_S grad F_i(x) +
    beta s``.
    ``grad F_i(x)`` is the mean, over the round's batches, of the gradient at the received parameters: one more
    gradient a step. It is that of all the client's samples where local epochs are whole.

    Travels: twice FedAvg both ways. Keeps nothing, so it suits cohorts drawn from very many clients.

    Args:
      beta: momentum.

    References:
      Karimireddy et al., "Mime: Mimicking Centralized Stochastic Algorithms in Federated Learning", NeurIPS 2021.
    """

    def gradient(g: Params, params: Params, local: Local) -> Params:
        return {n: (1 - beta) * g[n] + beta * local.broadcast[n] for n in g}

    def step(params: Params, local: Local) -> Params:
        at_received = jax.grad(local.loss)(local.received)
        return {n: local.carry[n] + at_received[n] / local.steps for n in params}

    def message(params: Params, local: Local) -> tuple[dict, dict]:
        return {"change": difference(params, local.received), "gradient": local.carry}, local.memory

    def update(aggregate: Aggregate, momentum: Params, params: Params) -> tuple[Params, Params]:
        mean = aggregate.value["gradient"]
        moved = {n: (1 - beta) * mean[n] + beta * s for n, s in momentum.items()}
        return add_change(
            aggregate, {n: jnp.where(aggregate.share[n] > 0, moved[n], momentum[n]) for n in moved}, params
        )

    return Algorithm(
        init=zeros,
        broadcast=lambda momentum: momentum,
        carry=lambda local: zeros(local.received),
        gradient=gradient,
        step=step,
        message=message,
        update=update,
        check=plain_sgd("MimeLite"),
    )
