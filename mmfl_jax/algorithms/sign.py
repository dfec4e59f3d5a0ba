"""Uplink of signs."""

from __future__ import annotations

from mmfl_jax.algorithms import transforms
from mmfl_jax.algorithms.algorithm import Algorithm


def sign(algorithm: Algorithm) -> Algorithm:
    """Modifier: one bit a number goes up, and each array's mean magnitude; the error is added to the next change.

    Travels: a 32nd of the bytes up. Keeps: one model a client. Use it on the slowest uplinks.

    References:
      Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019.
    """
    return algorithm._replace(transform=transforms.chain(algorithm.transform, transforms.sign()))
