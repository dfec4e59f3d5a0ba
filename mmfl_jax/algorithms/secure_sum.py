"""Secure aggregation: the server learns sums only."""

from __future__ import annotations

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.checks import all_of
from mmfl_jax.algorithms.reduce import fixed_point
from mmfl_jax.algorithms.setting import Setting
from mmfl_jax.errors import UserError


def secure_sum(algorithm: Algorithm, bits: int = 20) -> Algorithm:
    """Modifier: messages are added in fixed point modulo 2^32, as the server sees them with masks that cancel.

    Each client would add masks that it agreed with every other; they cancel in the sum, exactly, because integers
    modulo 2^32 do. The simulation adds what is left: the same numbers, without the key exchange.

    Travels: as before (4 bytes a number). Use it to see what fixed point does to the model.

    Args:
      bits: fractional bits, 1 to 30: sums reach up to ``2^(31 - bits)`` in magnitude, in steps of ``2^-bits``.

    References:
      Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017.
    """
    if not 1 <= bits <= 30:
        raise UserError(f"--algorithm secure_sum: bits must be 1 to 30, not {bits}")
    if algorithm.reduce.combine is not None:
        raise UserError("--algorithm: secure_sum shows the server a sum, but the other reduction needs every message")
    if algorithm.pooled or algorithm.isolated:
        raise UserError("--algorithm: secure_sum adds the messages of clients, and a bound has none")

    def check(setting: Setting) -> None:
        largest = setting.cohort * (setting.steps if "steps" in algorithm.counts else 1)
        if algorithm.counts and largest >= 2 ** (31 - bits):
            raise UserError(
                f"--algorithm secure_sum: {' and '.join(algorithm.counts)} of {setting.cohort} clients may come to "
                f"{largest}, but sums of {bits} fractional bits reach {2 ** (31 - bits)}; give fewer bits"
            )
        if setting.sums:
            raise UserError(
                f"--algorithm secure_sum hides the message, but {', '.join(setting.sums)} sends sums of its own; "
                "leave it out"
            )

    return algorithm._replace(reduce=fixed_point(bits), check=all_of(algorithm.check, check))
