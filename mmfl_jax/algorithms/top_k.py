"""Uplink of the largest changes only."""

from __future__ import annotations

from mmfl_jax.algorithms import transforms
from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.errors import UserError


def top_k(algorithm: Algorithm, fraction: float = 0.01) -> Algorithm:
    """Modifier: of each array the changes of largest magnitude go up; what is left out is added to the next change.

    Travels: ``2 x fraction`` of the bytes up (values and places). Keeps: one model a client. Use it on slow uplinks
    with clients that take part often, so that what they kept is sent.

    Args:
      fraction: of the numbers that go up, in (0, 1].

    References:
      Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"--algorithm top_k: fraction must lie in (0, 1], not {fraction}")
    return algorithm._replace(transform=transforms.chain(algorithm.transform, transforms.top_k(fraction)))
