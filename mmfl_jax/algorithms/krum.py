"""Krum: the message that lies nearest to its neighbours."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.reduce import Reduce, Stack
from mmfl_jax.algorithms.stacked import reduced_by
from mmfl_jax.errors import UserError


def krum(algorithm: Algorithm, bad: int = 1) -> Algorithm:
    """Modifier: one client's message instead of the mean, the one nearest to its neighbours.

    The client with the smallest sum of squared distances to its ``n - bad - 2`` nearest, over the parameters that the
    same clients hold.

    Travels: as before; the server sees every client's message. Use it against a known number of hostile clients when
    the others are alike; with unlike clients it takes one and forgets the rest.

    Args:
      bad: f, the clients that may be hostile; a round needs ``2 f + 3`` of them or more.

    References:
      Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017.
    """
    return nearest_messages(algorithm, bad, 1, "krum")


def nearest_messages(algorithm: Algorithm, bad: int, keep: int, name: str) -> Algorithm:
    """Return ``algorithm`` with the mean of the ``keep`` messages of the best scores; ``name`` is for refusals."""
    if bad < 0 or keep < 1:
        raise UserError(f"--algorithm {name}: bad must be 0 or more, and 1 client or more kept, not {bad} and {keep}")

    def combine(stack: Stack, weight: jax.Array) -> Stack:
        rank = jnp.argsort(jnp.argsort(scores(stack["change"], weight > 0, bad)))
        chosen = (rank < keep) & (weight > 0)
        # The chosen alone are looked at: 0 times another's 1e30 would do no harm, 0 times its infinity would.
        share = lambda x: jnp.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
        return jax.tree.map(lambda x: share(x).sum(axis=0) / jnp.maximum(chosen.sum(), 1), stack)

    fewest = max(2 * bad + 3, keep)
    return reduced_by(algorithm, Reduce(combine=combine), name, fewest, f"2 x {bad} + 3")


def scores(change: dict[str, jax.Array], there: jax.Array, bad: int) -> jax.Array:
    """Return each client's sum of squared distances to its nearest, ``[clients]``; infinite for those not there."""
    count = len(there)
    distances = jnp.zeros((count, count))
    for x in change.values():
        flat = x.reshape(count, -1)
        row = lambda one, flat=flat: ((flat - one) ** 2).sum(axis=-1)  # one client at a time: memory of one message
        distances += jax.lax.map(row, flat)
    both = there[:, None] & there[None, :] & ~jnp.eye(count, dtype=bool)
    ordered = jnp.sort(jnp.where(both & jnp.isfinite(distances), distances, jnp.inf), axis=1)
    nearest = jnp.arange(count) < jnp.maximum(there.sum() - bad - 2, 1)
    return jnp.where(there, jnp.where(nearest, ordered, 0).sum(axis=1), jnp.inf)
