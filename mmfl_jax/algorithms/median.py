"""The coordinate-wise median of the clients' messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.reduce import by_coordinate
from mmfl_jax.algorithms.stacked import reduced_by


def median(algorithm: Algorithm) -> Algorithm:
    """Modifier: the median of every number instead of the mean, unmoved by fewer than half of the clients.

    The mean of the two middle values where their number is even.

    Travels: as before; the server sees every client's message. Use it against broken or hostile clients of any kind; it
    ignores a minority's honest differences too.

    References:
      Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018.
    """

    def pick(ordered: jax.Array, count: jax.Array) -> jax.Array:
        low, high = jnp.maximum(count - 1, 0) // 2, count // 2
        return (ordered[low] + ordered[high]) / 2

    return reduced_by(algorithm, by_coordinate(pick), "median", 1, "one at least")
