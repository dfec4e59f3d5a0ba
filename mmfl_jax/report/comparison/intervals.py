"""Means, spreads, and paired differences with Student's confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from mmfl_jax.runs.values import is_number

_LEVEL = 0.95


def mean(values: Sequence[Any]) -> float | None:
    """Return the mean of the numbers among ``values``, ``None`` where there is none."""
    known = [float(value) for value in values if is_number(value)]
    return statistics.fmean(known) if known else None


def statistic(values: Sequence[Any]) -> dict[str, Any]:
    """Return ``mean``, ``std`` (the sample's, ``None`` for one) and ``n`` of the numbers among ``values``."""
    known = [float(value) for value in values if is_number(value)]
    return {"mean": mean(known), "std": statistics.stdev(known) if len(known) > 1 else None, "n": len(known)}


def paired_difference(own: Mapping[Hashable, Any], other: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return the mean of ``own - other`` over the keys that both have, with its 95 % t-interval.

    Returns:
        ``mean``, ``low``, ``high`` and ``n``; ``low`` and ``high`` are ``None`` for fewer than two pairs, ``mean`` too
        for none.
    """
    pairs = [float(own[key]) - float(other[key]) for key in own if is_number(own[key]) and is_number(other.get(key))]
    n = len(pairs)
    center = mean(pairs)
    if n < 2 or center is None:
        return {"mean": center, "low": None, "high": None, "n": n}
    half = student_quantile(_LEVEL, n - 1) * statistics.stdev(pairs) / math.sqrt(n)
    return {"mean": center, "low": center - half, "high": center + half, "n": n}


def student_quantile(level: float, freedom: int) -> float:
    """Return the t with probability ``level`` between -t and t for Student's distribution.

    Args:
        level: between 0 and 1, such as 0.95.
        freedom: degrees of freedom, a positive integer.
    """
    low, high = 0.0, math.pi / 2  # of the angle: t = sqrt(freedom) tan(angle) is unbounded, the angle is not
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Return the probability between -t and t, t = sqrt(freedom) tan(angle).

    References:
        Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    cosine, odd = math.cos(angle), freedom % 2
    power, factor, total = cosine**odd, 1.0, 0.0
    # odd: cos + 2/3 cos^3 + 2*4/(3*5) cos^5 ...; even: 1 + 1/2 cos^2 + 1*3/(2*4) cos^4 ...; to the power freedom - 2
    for exponent in range(odd, freedom - 1, 2):
        total += factor * power
        factor *= (exponent + 1) / (exponent + 2)
        power *= cosine**2
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total
