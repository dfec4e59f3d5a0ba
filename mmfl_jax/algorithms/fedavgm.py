"""FedAvgM: server momentum."""

from __future__ import annotations

import optax

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.server_optimizer import server_optimizer


def fedavgm(beta: float = 0.9, rate: float = 1.0) -> Algorithm:
    """FedAvgM: momentum on the server over the clients' mean change.

    ``v <- beta v + D;  x <- x + rate * v`` with the mean change ``D``.

    Travels: as FedAvg. Use it when labels are skewed and rounds swing to and fro.

    Args:
      beta: momentum.
      rate: of the server's step.

    References:
      Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution", 2019 (arXiv 1909.06335).
    """
    return server_optimizer(optax.sgd(rate, momentum=beta))
