"""The lower bound: each client alone."""

from __future__ import annotations

from mmfl_jax.algorithms.algorithm import Algorithm


def local() -> Algorithm:
    """Bound: each client trains alone on what it has; scores are the mean over clients of their own models'.

    Travels: nothing. Use it to know what federation brings.

    References:
      None: a bound, not a federated algorithm.
    """
    return Algorithm(private=("*",), isolated=True)
