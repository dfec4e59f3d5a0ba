"""FedProx: clients are held near what they received."""

from __future__ import annotations

import jax

from mmfl_jax.algorithms.algorithm import Algorithm, Local, Params, difference, square_norm


def fedprox(mu: float = 0.01) -> Algorithm:
    """FedProx: a pull towards the received parameters in every client's loss.

    ``F_i(w) + mu/2 ||w - x||^2``

    Travels: as FedAvg. Use it when clients drift apart in long local training, or do unequal work.

    Args:
      mu: strength of the pull; the paper tries 0.001 to 1.

    References:
      Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020.
    """

    def loss(params: Params, local: Local) -> jax.Array:
        return local.loss(params) + mu / 2 * square_norm(difference(params, local.received))

    return Algorithm(loss=loss) if mu else Algorithm()
