"""The coordinate-wise trimmed mean of the clients' messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.reduce import by_coordinate
from mmfl_jax.algorithms.stacked import reduced_by
from mmfl_jax.errors import UserError


def trimmed_mean(algorithm: Algorithm, fraction: float = 0.2) -> Algorithm:
    """Modifier: the mean of every number without its largest and smallest values.

    ``floor(fraction * clients)`` values are left out on each side.

    Travels: as before; the server sees every client's message. Use it as the median, with less noise where few are bad.

    Args:
      fraction: left out on each side, below one half: no fewer than the clients that may be bad.

    References:
      Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018.
    """
    if not 0 <= fraction < 0.5:
        raise UserError(f"--algorithm trimmed_mean: fraction must lie in [0, 0.5), not {fraction}")

    def pick(ordered: jax.Array, count: jax.Array) -> jax.Array:
        cut = jnp.floor(fraction * count + 1e-4).astype(jnp.int32)  # 0.2 * 10 is 2, whatever float32 says
        place = jnp.arange(len(ordered)).reshape(-1, *[1] * (ordered.ndim - 1))
        kept = (place >= cut) & (place < count - cut)
        return jnp.where(kept, ordered, 0).sum(axis=0) / jnp.maximum(count - 2 * cut, 1)

    return reduced_by(algorithm, by_coordinate(pick), "trimmed_mean", 1, "one at least")
