"""Multi-Krum: the mean of the messages that lie nearest to their neighbours."""

from __future__ import annotations

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.krum import nearest_messages


def multi_krum(algorithm: Algorithm, bad: int = 1, keep: int = 3) -> Algorithm:
    """Modifier: the mean of the ``keep`` messages of the best Krum scores.

    Travels: as before; the server sees every client's message. Use it as Krum, with less noise: between Krum (1 kept)
    and the mean (all kept).

    Args:
      bad: f, the clients that may be hostile; a round needs ``2 f + 3`` of them or more.
      keep: m, the messages that are averaged.

    References:
      Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017.
    """
    return nearest_messages(algorithm, bad, keep, "multi_krum")
