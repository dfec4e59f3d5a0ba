"""FedDyn: dynamic regularisation aligns the clients' optima with the server's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, Params, difference, square_norm, zeros


def feddyn(alpha: float = 0.01) -> Algorithm:
    """FedDyn: every client's loss is tilted by the gradient of its last rounds, so that all optima meet.

    ``F_i(w) - <h_i, w> + alpha/2 ||w - x||^2``, then ``h_i <- h_i - alpha (w - x)``; on the server
    ``h <- h - alpha share mean_S (w - x)``, ``x <- mean_S w - h / alpha``.

    Travels: as FedAvg. Keeps: one model a client. Use it for strong heterogeneity and many rounds; a large ``alpha`` is
    cautious.

    Args:
      alpha: of the regularisation; the paper uses 0.1, 0.01 and 0.001.

    References:
      Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021.
    """

    def loss(params: Params, local: Local) -> jax.Array:
        tilt = sum((jnp.vdot(local.memory[n], params[n]) for n in params), jnp.float32(0))
        return local.loss(params) - tilt + alpha / 2 * square_norm(difference(params, local.received))

    def message(params: Params, local: Local) -> tuple[dict, Params]:
        moved = difference(params, local.received)
        return {"change": moved}, {n: local.memory[n] - alpha * moved[n] for n in params}

    def update(aggregate: Aggregate, h: Params, params: Params) -> tuple[Params, Params]:
        mean = aggregate.value["change"]
        h = {n: x - alpha * aggregate.share[n] * mean[n] for n, x in h.items()}
        return {n: p + aggregate.rate * (mean[n] - h[n] / alpha) for n, p in params.items()}, h

    return Algorithm(init=zeros, memory=zeros, loss=loss, message=message, update=update)
