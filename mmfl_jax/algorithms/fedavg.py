"""FedAvg: the server takes the clients' mean model."""

from __future__ import annotations

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Params


def fedavg(rate: float = 1.0) -> Algorithm:
    """FedAvg: the mean of the clients' models, weighted by samples.

    ``x <- x + rate * sum_i n_i (w_i - x) / sum_i n_i``

    Travels: the parameters, both ways. Use it first, and to compare with.

    Args:
      rate: of the server's step; 1 is averaging.

    References:
      McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.
    """

    def update(aggregate: Aggregate, state: dict, params: Params) -> tuple[Params, dict]:
        return {n: p + aggregate.rate * rate * aggregate.value["change"][n] for n, p in params.items()}, state

    return Algorithm(update=update)
