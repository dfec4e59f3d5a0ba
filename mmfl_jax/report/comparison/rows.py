"""The rows of a comparison: scores, costs, cost to a target, and differences against a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError
from mmfl_jax.report.comparison.groups import Group, group_runs
from mmfl_jax.report.comparison.intervals import mean, paired_difference, statistic
from mmfl_jax.report.comparison.targets import Target, choose_target, cost_to
from mmfl_jax.report.presentation import METRICS, MISSING
from mmfl_jax.runs.values import is_number, ordered_sets


def compare(
    run_dirs: Sequence[Path],
    over: Sequence[str] = ("seed",),
    folds: Sequence[str] = (),
    *,
    target: Target | None = None,
    baseline: str | None = None,
    validation: bool = False,
) -> list[dict[str, Any]]:
    """Summarise runs, those together whose configurations differ in their seeds only.

    Args:
      run_dirs: run directories, finished or still going; bounds that were run beside them have rows of their own.
      over: the fields to average over, and whose spread is told.
      folds: fields to average over first: with ``("test_split",)`` the folds of a seed count as one, by their mean.
      target: metric and score of the modalities together whose cost is told; None for 95 % of the best row's.
      baseline: name of the row, or of a run directory in it, that the others are compared with; None for the first.
      validation: tell the scores on validation samples, by which options may be chosen, in place of the test's.

    Returns:
      A row for each configuration, in the order given: ``name``, ``method``, ``algorithm``, ``differences`` (fields
      that tell the rows apart), ``seeds``, ``runs`` (paths), ``rounds``, ``finished``, ``scores`` ({modality set:
      {metric: statistic}}), ``total_bytes``, ``seconds_per_round``, ``simulated_seconds``, ``total_flops``,
      ``epsilon``, ``target`` (see :func:`mmfl_jax.report.comparison.targets.cost_to`) and ``against``: None for the
      baseline, else ``baseline`` (its name) and ``scores`` ({modality set: {metric: difference}}). A statistic is
      {``mean``, ``std``, ``n``}; ``std`` is the sample's, ``None`` for one run. A difference is {``mean``, ``low``,
      ``high``, ``n``}: of runs paired by seed (and fold; the folds of a seed count as one pair), with its 95 %
      t-interval.

    Raises:
      UserError: if there is no run, a directory is given twice, or one is not a run directory; for a target or baseline
        that no run has.
    """
    groups = group_runs(run_dirs, over, folds, validation)
    rows = [_row(group) for group in groups]
    first = _baseline(groups, baseline)
    # Of validation samples only the last scores are known: what it cost to reach one is not.
    target = None if validation else choose_target(groups, rows, target)
    for position, (row, group) in enumerate(zip(rows, groups)):
        row["target"] = cost_to(target, group) if target else None
        row["against"] = None if position == first else _against(row, group, rows[first], groups[first])
    return rows


def _row(group: Group) -> dict[str, Any]:
    runs = group.runs
    config = runs[0].config
    rounds = sorted({run.last_round for run in runs})
    scores: dict[str, dict[str, Any]] = {}
    for name in ordered_sets((name for run in runs for name in run.evaluation), runs[0].modalities):
        values = {m: group.final(name, m) for m in METRICS}
        scores[name] = {m: statistic(found) for m, found in values.items() if any(map(is_number, found))}
    return {
        "name": group.name,
        "method": config.get("method", config.get("algorithm", MISSING)),
        "algorithm": config.get("algorithm", MISSING),
        "differences": group.differences,
        "seeds": list(dict.fromkeys(run.config.get("seed") for run in runs)),
        "runs": [run.path for run in runs],
        "rounds": str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}",
        "finished": all(run.finished for run in runs),
        "scores": scores,
        "total_bytes": statistic([run.total_bytes for run in runs]),
        "seconds_per_round": statistic([run.seconds_per_round for run in runs]),
        "simulated_seconds": statistic([run.simulated_seconds for run in runs]),
        "total_flops": statistic([run.total_flops for run in runs]),
        "epsilon": statistic([run.epsilon for run in runs]),
    }


def _baseline(groups: Sequence[Group], name: str | None) -> int:
    """Return the position of the row that the others are compared with."""
    if name is None:
        return 0
    for position, group in enumerate(groups):
        if Path(name).resolve() in {run.path.resolve() for run in group.runs}:
            return position
    named = [position for position, group in enumerate(groups) if name == group.name]
    if len(named) > 1:
        runs = ", ".join(str(groups[position].runs[0].path) for position in named)
        raise UserError(f"--baseline {name!r} is the name of {len(named)} rows; give the directory of a run: {runs}")
    if named:
        return named[0]
    asked = Path(name).name
    for position, group in enumerate(groups):
        if asked in {run.path.resolve().name for run in group.runs}:
            return position
    raise UserError(f"--baseline {name!r} is no row; one of {', '.join(group.name for group in groups)}")


def _against(row: dict[str, Any], group: Group, first: dict[str, Any], other: Group) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for name, scores in row["scores"].items():
        shared = [metric for metric in scores if metric in first["scores"].get(name, {})]
        differences = {metric: _difference(group, other, name, metric) for metric in shared}
        found[name] = {metric: value for metric, value in differences.items() if value["n"]}
    return {"baseline": first["name"], "scores": found}


def _difference(group: Group, other: Group, name: str, metric: str) -> dict[str, Any]:
    """Return the difference over seeds, of each the mean over the folds that both groups have."""
    both = [g.by_run(name, metric) for g in (group, other)]
    keys = [key for key in both[0] if key in both[1]]
    seeds = {seed for seed, _ in keys}
    own, others = ({s: mean([scores[key] for key in keys if key[0] == s]) for s in seeds} for scores in both)
    return paired_difference(own, others)
