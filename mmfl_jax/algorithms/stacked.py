"""What the robust reductions share: they replace the mean, and refuse cohorts that are too small for them."""

from __future__ import annotations

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.algorithms.checks import all_of
from mmfl_jax.algorithms.reduce import Reduce
from mmfl_jax.algorithms.setting import Setting
from mmfl_jax.errors import UserError


def reduced_by(algorithm: Algorithm, reduce: Reduce, name: str, fewest: int, why: str) -> Algorithm:
    """Return ``algorithm`` with another reduction of the cohort's messages.

    Args:
      algorithm: whose messages are reduced.
      reduce: instead of the mean.
      name: of the modifier, for its refusal.
      fewest: the clients that have to hold each parameter, and take part.
      why: what that number comes from.

    Raises:
      UserError: for an algorithm whose messages are not reduced by a mean.
    """
    if algorithm.reduce.combine is not None or algorithm.reduce.relative:
        raise UserError(f"--algorithm: {name} takes the place of the mean, and another reduction did so already")
    if algorithm.pooled or algorithm.isolated:
        raise UserError(f"--algorithm: {name} reduces the messages of clients, and a bound has none")

    def check(setting: Setting) -> None:
        held, number = min(((count, n) for n, count in setting.holders.items()), default=(setting.cohort, ""))
        found = min(held, setting.cohort)
        if found < fewest:
            raise UserError(
                f"--algorithm {name} needs {fewest} clients in a round ({why}), "
                f"but {number or 'it'} has {found} at most"
            )

    return algorithm._replace(reduce=reduce, weighting="uniform", check=all_of(algorithm.check, check))
