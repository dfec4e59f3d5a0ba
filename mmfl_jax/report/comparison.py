"""Compare runs: a table, and score against rounds, with mean and spread over seeds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfl_jax.errors import UserError
from mmfl_jax.report.presentation import (
    METRICS,
    MISSING,
    fused_set,
    is_number,
    main_metrics,
    ordered_sets,
    scaled_text,
    seconds_text,
)
from mmfl_jax.report.run_directory import RunRecord, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

#: Fields that say where and under which name a run was made, not what was run.
INCIDENTAL = frozenset({"name", "run_dir", "resume", "quiet", "tensorboard"})
# Okabe and Ito's palette.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444", "#8C6D31")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))


@dataclasses.dataclass(frozen=True)
class _Group:
    """Hold the runs of one configuration, and what tells it from the others.

    Attributes:
      units: the runs; those of one unit (the folds of a seed, say) count as one, by their mean.
      differences: the fields that tell this configuration from the others.
    """

    units: list[list[RunRecord]]
    differences: dict[str, Any]

    @property
    def runs(self) -> list[RunRecord]:
        return [run for unit in self.units for run in unit]

    @property
    def name(self) -> str:
        # "mf-seed0-fold0" and "mf-seed1-fold0" together are "mf".
        letters = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*(run.name for run in self.runs)))
        common = "".join(column[0] for column in letters)
        if len(self.runs) > 1:
            common = re.sub(r"([-_. ]+(seed|fold)?\d*)+$", "", common)  # the 8 of "resnet8-seed0" stays
        return common or self.runs[0].name


def compare(
    run_dirs: Sequence[Path], over: Sequence[str] = ("seed",), folds: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Summarise runs, those together whose configurations differ in their seeds only.

    Args:
      run_dirs: run directories, finished or still going.
      over: the fields to average over, and whose spread is told.
      folds: fields to average over first: with ``("test_split",)`` the folds of a seed count as one, by their mean.

    Returns:
      A row for each configuration, in the order given: ``name``, ``algorithm``, ``differences`` (fields that tell the
      rows apart), ``seeds``, ``runs`` (paths), ``rounds``, ``finished``, ``scores`` ({modality set: {metric:
      statistic}}), ``total_bytes`` and ``seconds_per_round``. A statistic is {``mean``, ``std``, ``n``}; ``std`` is
      the sample's, ``None`` for one run.

    Raises:
      UserError: if there is no run, a directory is given twice, or one is not a run directory.
    """
    return [_row(group) for group in _groups(run_dirs, over, folds)]


def comparison_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the rows of ``compare`` as a table for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    sets = _shown_sets(ordered_sets(name for row in rows for name in row["scores"]))
    found: dict[str, dict[str, float]] = {"": {m: 1.0 for row in rows for s in row["scores"].values() for m in s}}
    metrics = main_metrics(found)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), leading=1, pad_edge=False)
    table.add_column("run", overflow="fold", min_width=16)
    table.add_column("score", no_wrap=True)
    for head in (*sets, "cost"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text.assemble((row["name"], "bold"), "\n", (_row_facts(row), "dim")),
            "\n".join(METRICS[metric] for metric in metrics),
            *("\n".join(_statistic_text(row["scores"].get(s, {}).get(m)) for m in metrics) for s in sets),
            f"{scaled_text(row['total_bytes']['mean'], 'B')}\n{seconds_text(row['seconds_per_round']['mean'])}/round",
        )
    return table


def write_comparison(
    run_dirs: Sequence[Path], output: Path, over: Sequence[str] = ("seed",), folds: Sequence[str] = ()
) -> Path:
    """Write a figure of score against rounds: a line for each configuration, a band of one standard deviation.

    Args:
      run_dirs: run directories.
      output: the PNG file.
      over: the fields to average over, and whose spread is drawn.
      folds: fields to average over first.

    Raises:
      UserError: if there is no run, a directory is not a run directory, or no run was evaluated.
    """
    from mmfl_jax.report import figures

    groups = _groups(run_dirs, over, folds)
    figure = figures.styled(_draw, groups)
    if figure is None:
        raise UserError(f"{run_dirs[0]}: no run has an evaluation to compare")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    figures.save(figure, output)
    return output


def _groups(run_dirs: Sequence[Path], over: Sequence[str], folds: Sequence[str]) -> list[_Group]:
    paths = [Path(path).resolve() for path in run_dirs]
    if not paths:
        raise UserError("compare: no run directory was given")
    if twice := [str(given) for given, path in zip(run_dirs, paths) if paths.count(path) > 1]:
        raise UserError(f"compare: {twice[0]} was given twice")
    left_out = INCIDENTAL | set(over) | set(folds)
    grouped: dict[str, dict[str, list[RunRecord]]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for path in run_dirs:
        run = read_run(Path(path))
        config = {key: value for key, value in run.config.items() if key not in left_out}
        identity = json.dumps(config, sort_keys=True)
        unit = json.dumps([run.config.get(key) for key in over] if folds else str(path))
        grouped.setdefault(identity, {}).setdefault(unit, []).append(run)
        configs[identity] = config
    fields = list(dict.fromkeys(key for config in configs.values() for key in config))
    varying = [key for key in fields if len({json.dumps(config.get(key)) for config in configs.values()}) > 1]
    return [_Group(list(units.values()), {key: configs[i].get(key) for key in varying}) for i, units in grouped.items()]


def _row(group: _Group) -> dict[str, Any]:
    runs = group.runs
    rounds = sorted({run.last_round for run in runs})
    scores: dict[str, dict[str, Any]] = {}
    for name in ordered_sets(name for run in runs for name in run.evaluation):
        values = {
            m: [_mean([run.evaluation.get(name, {}).get(m) for run in unit]) for unit in group.units] for m in METRICS
        }
        scores[name] = {m: _statistic(found) for m, found in values.items() if any(map(is_number, found))}
    return {
        "name": group.name,
        "algorithm": runs[0].config.get("algorithm", MISSING),
        "differences": group.differences,
        "seeds": list(dict.fromkeys(run.config.get("seed") for run in runs)),
        "runs": [run.path for run in runs],
        "rounds": str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}",
        "finished": all(run.finished for run in runs),
        "scores": scores,
        "total_bytes": _statistic([run.total_bytes for run in runs]),
        "seconds_per_round": _statistic([run.seconds_per_round for run in runs]),
    }


def _shown_sets(sets: list[str], most: int = 4) -> list[str]:
    """Keep each modality alone and all together where every set would not fit on a line."""
    if len(sets) <= most:
        return sets
    return [name for name in sets if "+" not in name or name == fused_set(sets)]


def _row_facts(row: dict[str, Any]) -> str:
    told = {key: value for key, value in row["differences"].items() if key != "algorithm" and value is not None}
    facts = [
        str(row["algorithm"]) if row["algorithm"] != row["name"] else "",
        f"{row['rounds']} rounds{'' if row['finished'] else ', not finished'}",
        f"seed{'s' if len(row['seeds']) > 1 else ''} {' '.join(map(str, row['seeds']))}",
        _told(told),
    ]
    return ", ".join(fact for fact in facts if fact)


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if is_number(value)]
    return statistics.fmean(known) if known else None


def _statistic(values: Sequence[Any]) -> dict[str, Any]:
    known = [float(value) for value in values if is_number(value)]
    return {
        "mean": _mean(known),
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


def _statistic_text(statistic: dict[str, Any] | None) -> str:
    if not statistic or statistic["mean"] is None:
        return MISSING
    spread = f" ±{statistic['std']:.3f}".replace("0.", ".") if statistic["std"] is not None else ""
    return f"{statistic['mean']:.3f}{spread}"


def _told(differences: dict[str, Any], most: int = 4) -> str:
    """Write the fields that tell a configuration from the others, ``most`` of them."""
    fields = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in differences.items()]
    return ", ".join(fields[:most]) + (f" and {len(fields) - most} more" if len(fields) > most else "")


def _labels(groups: Sequence[_Group]) -> list[str]:
    """Name the groups, with their differences where names alone do not tell them apart."""
    names = [group.name for group in groups]
    same = len(set(names)) < len(names)
    labels = [f"{group.name} ({_told(group.differences)})" if same else group.name for group in groups]
    return [f"{x}, mean of {len(g.units)}" if len(g.units) > 1 else x for x, g in zip(labels, groups)]


def _draw(groups: Sequence[_Group]) -> Figure | None:
    """Draw a panel for each main score (rows) and modality set (columns)."""
    from matplotlib.figure import Figure

    from mmfl_jax.report.figures import dress, legend_above

    runs = [run for group in groups for run in group.runs if run.evaluations]
    if not runs:
        return None
    metrics = main_metrics({str(i): scores for i, run in enumerate(runs) for scores in run.evaluation.values()})
    sets = _shown_sets(ordered_sets((name for run in runs for name in run.evaluated_sets), runs[0].modalities))
    if not metrics or not sets:
        return None
    labels = _labels(groups)
    figure = Figure(figsize=(max(3.1 * len(sets), 5), 2.6 * len(metrics) + 0.5), layout="constrained")
    panels = figure.subplots(len(metrics), len(sets), squeeze=False, sharex=True, sharey="row")
    for row, metric in zip(panels, metrics):
        for panel, name in zip(row, sets):
            for position, group in enumerate(groups):
                _draw_group(panel, group, name, metric, position, labels[position])
            dress(panel, f"{METRICS[metric]}, {name}", "round" if metric == metrics[-1] else "")
    legend_above(figure, panels[0][0], columns=max(1, int(figure.get_figwidth() * 12 / (max(map(len, labels)) + 6))))
    return figure


def _draw_group(panel: Any, group: _Group, name: str, metric: str, position: int, label: str) -> None:
    by_unit = [[dict(zip(*run.curve(name, metric))) for run in unit] for unit in group.units]
    by_unit = [curves for unit in by_unit if (curves := [curve for curve in unit if curve])]
    rounds = sorted(set.intersection(*(set(curve) for unit in by_unit for curve in unit))) if by_unit else []
    points = [_statistic([_mean([curve[r] for curve in unit]) for unit in by_unit]) for r in rounds]
    mean = [point["mean"] for point in points]
    color, dashes = _COLORS[position % len(_COLORS)], _DASHES[position // len(_COLORS) % len(_DASHES)]
    marker = "o" if len(rounds) == 1 else ""
    panel.plot(rounds, mean, color=color, linestyle=dashes, linewidth=1.6, marker=marker, label=label)
    if len(by_unit) > 1:
        low = [point["mean"] - point["std"] for point in points]
        high = [point["mean"] + point["std"] for point in points]
        panel.fill_between(rounds, low, high, color=color, alpha=0.18, linewidth=0)
