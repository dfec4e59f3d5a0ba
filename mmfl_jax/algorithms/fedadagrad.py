"""FedAdagrad: Adagrad on the server."""

from __future__ import annotations

import optax

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.server_optimizer import scale_by_moments, server_optimizer


def fedadagrad(rate: float = 0.01, tau: float = 1e-3) -> Algorithm:
    """FedAdagrad: the server's step is divided by the root of the sum of all squared changes.

    ``v <- v + D^2;  x <- x + rate * D / (sqrt(v) + tau)``, ``v`` from ``tau^2``.

    Travels: as FedAvg. Use it for sparse changes, such as embeddings; its steps only shrink.

    Args:
      rate: of the server's step.
      tau: how adaptive it is; smaller is more.

    References:
      Reddi et al., "Adaptive Federated Optimization", ICLR 2021.
    """
    moments = scale_by_moments(0.0, 0.0, tau, lambda v, square, b: v + square)
    return server_optimizer(optax.chain(moments, optax.scale(-rate)))
