"""FedYogi: Yogi on the server."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.server_optimizer import scale_by_moments, server_optimizer


def fedyogi(rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> Algorithm:
    """FedYogi: as FedAdam, but the second moment moves by a bounded step.

    ``v <- v - (1-b2) D^2 sign(v - D^2)``, ``v`` from ``tau^2``; the rest is FedAdam's.

    Travels: as FedAvg. Use it where FedAdam forgets rare large changes too soon.

    Args:
      rate: of the server's step.
      beta1, beta2: of the moments.
      tau: how adaptive it is; smaller is more.

    References:
      Reddi et al., "Adaptive Federated Optimization", ICLR 2021.
    """
    moments = scale_by_moments(beta1, beta2, tau, lambda v, square, b: v - (1 - b) * square * jnp.sign(v - square))
    return server_optimizer(optax.chain(moments, optax.scale(-rate)))
