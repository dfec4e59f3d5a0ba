"""Draw scores against rounds, bytes and simulated time: a line for each configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfl_jax.errors import UserError
from mmfl_jax.report.comparison.groups import Group, group_runs, labels
from mmfl_jax.report.comparison.intervals import mean, statistic
from mmfl_jax.report.comparison.targets import COSTS
from mmfl_jax.report.presentation import METRICS, main_metrics, shown_sets
from mmfl_jax.runs.values import ordered_sets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmfl_jax.runs.record import RunRecord

# Okabe and Ito's palette.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444", "#8C6D31")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
# Lines that can be told apart; of more configurations the best are drawn as lines, and all as final scores.
_MOST_LINES = 12
#: By what scores are drawn against: the axis' words, and what the file's name ends with.
_AXES = {
    "rounds": ("round", ""),
    "bytes": ("sent and received by all clients", "-bytes"),
    "simulated_seconds": ("simulated time", "-time"),
}


def write_comparison(
    run_dirs: Sequence[Path], output: Path, over: Sequence[str] = ("seed",), folds: Sequence[str] = ()
) -> list[Path]:
    """Write figures of score against rounds, bytes and simulated time: lines, and bands of one standard deviation.

    Of more than 12 configurations the best 12 are drawn, and a further figure has the final scores of all.

    Args:
      run_dirs: run directories.
      output: the PNG file against rounds; the others, where runs know them, end with ``-bytes``, ``-time`` and
        ``-scores``.
      over: the fields to average over, and whose spread is drawn.
      folds: fields to average over first.

    Returns:
      The files.

    Raises:
      UserError: if there is no run, a directory is not a run directory, or no run was evaluated.
    """
    from mmfl_jax.report import figures

    groups = group_runs(run_dirs, over, folds)
    output = Path(output)
    written = []
    for against, (_, suffix) in _AXES.items():
        figure = figures.styled(_draw, groups, against)
        if figure is not None:
            path = output.with_name(f"{output.stem}{suffix}{output.suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            figures.save(figure, path)
            written.append(path)
        elif against == "rounds":
            raise UserError(f"{run_dirs[0]}: no run has an evaluation to compare")
    if len(groups) > _MOST_LINES:
        written.append(output.with_name(f"{output.stem}-scores{output.suffix}"))
        if (figure := figures.styled(_draw_final, groups)) is not None:
            figures.save(figure, written[-1])
    return written


def _draw(groups: Sequence[Group], against: str) -> Figure | None:
    """Draw a panel for each main score (rows) and modality set (columns)."""
    from matplotlib.figure import Figure

    from mmfl_jax.report.figures import dress, legend_above

    runs = [run for group in groups for run in group.runs if run.evaluations]
    if against != "rounds":
        runs = [run for run in runs if any(run.totals(*COSTS[against]).values())]
    if not runs:
        return None
    metrics, sets = _shown(runs)
    if not metrics or not sets:
        return None
    names, chosen = labels(groups), list(range(len(groups)))
    if len(groups) > _MOST_LINES:  # those of the best score of the modalities together, in their own order
        chosen = sorted(_by_score(groups, sets[-1], metrics[0])[-_MOST_LINES:])
    figure = Figure(figsize=(max(3.1 * len(sets), 5), 2.6 * len(metrics) + 0.5), layout="constrained")
    panels = figure.subplots(len(metrics), len(sets), squeeze=False, sharex=True, sharey="row")
    for row, metric in zip(panels, metrics):
        for panel, name in zip(row, sets):
            for style, position in enumerate(chosen):
                _draw_group(panel, groups[position], (name, metric), against, style, names[position])
            dress(panel, f"{METRICS[metric]}, {name}", _AXES[against][0] if metric == metrics[-1] else "")
            if against != "rounds":
                _name_ticks(panel, against)
    longest = max(len(names[position]) for position in chosen)
    legend_above(figure, panels[0][0], columns=max(1, int(figure.get_figwidth() * 12 / (longest + 6))))
    if len(chosen) < len(groups):
        figure.supxlabel(f"the best {len(chosen)} of {len(groups)}", fontsize="small", ha="right", x=0.99)
    return figure


def _shown(runs: Sequence[RunRecord]) -> tuple[list[str], list[str]]:
    """Return the main scores and the modality sets of runs."""
    metrics = main_metrics({str(i): scores for i, run in enumerate(runs) for scores in run.evaluation.values()})
    sets = shown_sets(ordered_sets((name for run in runs for name in run.evaluated_sets), runs[0].modalities))
    return metrics, sets


def _by_score(groups: Sequence[Group], name: str, metric: str) -> list[int]:
    """Return the positions of groups by their final score, the best last, of equal ones the first."""
    return sorted(range(len(groups)), key=lambda i: (statistic(groups[i].final(name, metric))["mean"] or 0.0, -i))


def _draw_final(groups: Sequence[Group]) -> Figure:
    """Draw the final scores of many configurations: a row each, the best on top; a column for each modality set."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from mmfl_jax.report.figures import dress

    (metric, *_), sets = _shown([run for group in groups for run in group.runs])
    names, order = labels(groups), _by_score(groups, sets[-1], metric)
    size = (3.1 * len(sets) + 0.08 * max(map(len, names)), 0.19 * len(groups) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for panel, name in zip(panels, sets):
        for height, position in enumerate(order):
            final = statistic(groups[position].final(name, metric))
            if final["mean"] is not None:
                panel.errorbar(final["mean"], height, xerr=final["std"], fmt="o", color=_COLORS[0], markersize=4)
        dress(panel, f"{METRICS[metric]}, {name}", "mean and standard deviation" if panel is panels[0] else "")
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.grid(axis="both")
    panels[0].set_yticks(range(len(order)), [names[position] for position in order])
    panels[0].set_ylim(-0.7, len(order) - 0.3)
    return figure


def _draw_group(panel: Any, group: Group, score: tuple[str, str], against: str, position: int, label: str) -> None:
    """Draw the mean over units at each round, against the mean over units of what they had spent by then."""
    units = [(unit, curve) for unit in group.units if (curve := unit.curve(*score))]
    places = [dict.fromkeys(curve) if against == "rounds" else unit.totals(*COSTS[against]) for unit, curve in units]
    rounds = sorted(set.intersection(*({*c} & {*p} for (_, c), p in zip(units, places)))) if units else []
    points = [statistic([curve[r] for _, curve in units]) for r in rounds]
    x = [r if against == "rounds" else mean([place[r] for place in places]) for r in rounds]
    color, dashes = _COLORS[position % len(_COLORS)], _DASHES[position // len(_COLORS) % len(_DASHES)]
    marker = "o" if len(rounds) == 1 else ""
    panel.plot(
        x, [point["mean"] for point in points], color=color, linestyle=dashes, linewidth=1.6, marker=marker, label=label
    )
    if len(units) > 1:
        low = [point["mean"] - point["std"] for point in points]
        high = [point["mean"] + point["std"] for point in points]
        panel.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def _name_ticks(panel: Any, against: str) -> None:
    """Write ``20 MB`` or ``2 min 00 s`` at the ticks of the horizontal axis, few enough to stand beside each other."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    from mmfl_jax.report.presentation import scaled_text, short_seconds_text

    write = short_seconds_text if against == "simulated_seconds" else lambda value: scaled_text(value, "B")
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
