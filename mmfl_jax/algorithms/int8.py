"""Uplink in few bits a number."""

from __future__ import annotations

from mmfl_jax.algorithms import transforms
from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.errors import UserError


def int8(algorithm: Algorithm, bits: int = 8) -> Algorithm:
    """Modifier: messages go up rounded to 8 bits a number, stochastically and so without bias.

    Each array is divided by its largest magnitude over 127 and rounded up or down by chance.

    Travels: a quarter of the bytes up. Use it almost always: at 8 bits the noise is far below that of batches.

    Args:
      bits: a number, sign included, 2 to 16.

    References:
      Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017.
    """
    if not 2 <= bits <= 16:
        raise UserError(f"--algorithm int8: bits must be 2 to 16, not {bits}")
    return algorithm._replace(transform=transforms.chain(algorithm.transform, transforms.int8(bits)))
