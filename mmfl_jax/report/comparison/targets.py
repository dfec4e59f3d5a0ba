"""What a score costs: rounds, bytes and simulated time until a row reaches it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from mmfl_jax.errors import UserError
from mmfl_jax.report.comparison.groups import Group, Unit
from mmfl_jax.report.comparison.intervals import statistic
from mmfl_jax.report.presentation import METRICS, main_metrics
from mmfl_jax.runs.values import is_number

#: A metric, and the score to reach.
Target = tuple[str, float]

#: By the name of a cost, the fields of a round's line that it sums up.
COSTS = {"bytes": ("bytes_up", "bytes_down"), "simulated_seconds": ("simulated_seconds",)}
# Where no target is given: this share of the best row's final score.
_SHARE = 0.95


def parse_target(text: str) -> Target:
    """Return the target that a text such as ``f1_micro=0.45`` names.

    Raises:
      UserError: for another form, an unknown metric, or a score outside (0, 1].
    """
    metric, _, value = text.partition("=")
    metric = metric.replace("-", "_")
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, 1)
        meant = f"; did you mean {near[0]}?" if near else f"; one of {', '.join(METRICS)}"
        raise UserError(f"--target {text!r}: {metric!r} is no metric{meant}")
    try:
        score = float(value)
    except ValueError:
        score = -1.0
    if not 0 < score <= 1:
        raise UserError(f"--target {text!r}: the score must be a number in (0, 1], such as {metric}=0.45")
    return metric, score


def choose_target(groups: Sequence[Group], rows: Sequence[dict[str, Any]], target: Target | None) -> Target | None:
    """Return the target, by default a share of the best row's final score; None where nothing was evaluated.

    Raises:
      UserError: for a metric that no row has.
    """
    together = [row["scores"].get(group.fused, {}) for row, group in zip(rows, groups)]
    known = [metric for metric in METRICS if any(metric in scores for scores in together)]
    if target is not None:
        if target[0] not in known:
            raise UserError(f"--target {target[0]}: no run has this score; one of {', '.join(known) or 'none'}")
        return target
    metrics = main_metrics({str(i): {m: s[m]["mean"] for m in s} for i, s in enumerate(together)})
    if not metrics:
        return None
    best = max(scores[metrics[0]]["mean"] for scores in together if metrics[0] in scores)
    return metrics[0], _SHARE * best


def cost_to(target: Target, group: Group) -> dict[str, Any]:
    """Return what a row spent until an evaluation of its modalities together first reached the target.

    Returns:
      ``metric``, ``value``, ``set``; ``reached`` and ``of``: units (runs, or seeds with their folds averaged) that
      reached it, and all; ``rounds``, ``bytes`` and ``simulated_seconds``: statistics over those that did.
    """
    metric, value = target
    crossed = [(unit, r) for unit in group.units if (r := _crossing(unit, group.fused, metric, value)) is not None]
    totals = {
        name: [unit.totals(*fields).get(r) for unit, r in crossed] if crossed else [] for name, fields in COSTS.items()
    }
    return {
        "metric": metric,
        "value": value,
        "set": group.fused,
        "reached": len(crossed),
        "of": len(group.units),
        "rounds": statistic([r for _, r in crossed]),
        **{name: statistic(values) for name, values in totals.items()},
    }


def _crossing(unit: Unit, modality_set: str | None, metric: str, value: float) -> int | None:
    curve = unit.curve(modality_set, metric) if modality_set else {}
    return next((r for r, score in curve.items() if is_number(score) and score >= value), None)
