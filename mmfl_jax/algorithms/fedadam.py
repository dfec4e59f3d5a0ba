"""FedAdam: Adam on the server."""

from __future__ import annotations

import optax

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.server_optimizer import scale_by_moments, server_optimizer


def fedadam(rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> Algorithm:
    """FedAdam: the server's step is Adam's, without bias correction.

    ``m <- b1 m + (1-b1) D;  v <- b2 v + (1-b2) D^2;  x <- x + rate * m / (sqrt(v) + tau)``, ``v`` from ``tau^2``.

    Travels: as FedAvg. Use it when parameters differ much in the size of their changes.

    Args:
      rate: of the server's step.
      beta1, beta2: of the moments.
      tau: how adaptive it is; smaller is more.

    References:
      Reddi et al., "Adaptive Federated Optimization", ICLR 2021.
    """
    moments = scale_by_moments(beta1, beta2, tau, lambda v, square, b: b * v + (1 - b) * square)
    return server_optimizer(optax.chain(moments, optax.scale(-rate)))
