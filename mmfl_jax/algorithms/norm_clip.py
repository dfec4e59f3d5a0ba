"""Clipping of the clients' messages to a norm."""

from __future__ import annotations

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.transforms import chain, clip
from mmfl_jax.errors import UserError


def norm_clip(algorithm: Algorithm, norm: float = 1.0) -> Algorithm:
    """Modifier: every client's message is scaled down to a norm of at most ``norm``.

    ``D_i <- D_i min(1, norm / ||D_i||)``

    Travels: as before. Use it against huge updates; it bounds what one client can do, and does not tell good from bad.

    Args:
      norm: Euclidean, of the whole message (but numbers of steps); about the median of honest clients' norms.

    References:
      Sun et al., "Can You Really Backdoor Federated Learning?", 2019 (arXiv 1911.07963).
    """
    if not norm > 0:
        raise UserError(f"--algorithm norm_clip: norm must be positive, not {norm}")
    return algorithm._replace(transform=chain(algorithm.transform, clip(norm, algorithm.counts)))
