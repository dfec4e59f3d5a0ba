"""Draw the figures of a run with matplotlib, without its global state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mmfl_jax.report.presentation import METRICS, count_text, main_metrics, run_colors, scaled_text, short_names
from mmfl_jax.runs.record import RunRecord
from mmfl_jax.runs.values import as_float, is_number

_INK, _FAINT, _BASELINE = "#22272e", "#e3e6ea", "#7a828c"
_STYLE: Any = {
    # Names come from users: a dollar sign in one is no formula.
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9aa2ad",
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _FAINT,
    "legend.frameon": False,
    "savefig.dpi": 150,
}
MAX_CLASSES, MAX_NAMED_CLIENTS = 60, 40


def draw_figures(
    run: RunRecord, folder: Path, drawings: Mapping[str, Callable[[RunRecord], Figure | None]] | None = None
) -> dict[str, Path]:
    """Write every figure that the run has data for as a PNG file.

    Args:
      run: the run.
      folder: where to write; made if it is not there.
      drawings: by name; by default ``scores``, ``losses``, ``classes``, ``clients`` and ``cost``.

    Returns:
      The files by name.
    """
    if drawings is None:
        known = (draw_scores, draw_losses, draw_classes, draw_clients, draw_cost)
        drawings = {draw.__name__.removeprefix("draw_"): draw for draw in known}
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, draw in drawings.items():
        figure = styled(draw, run)
        if figure is not None:
            files[name] = folder / f"{name}.png"
            save(figure, files[name])
    return files


def styled(draw: Callable[..., Figure | None], *arguments: Any) -> Figure | None:
    """Draw a figure in the report's style."""
    with matplotlib.rc_context(_STYLE):
        return draw(*arguments)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG in the report's style."""
    with matplotlib.rc_context(_STYLE):
        figure.savefig(path)


def draw_scores(run: RunRecord) -> Figure | None:
    """Draw the main scores of each modality set against rounds."""
    metrics = main_metrics(run.evaluation)
    if not metrics or not run.evaluations:
        return None
    figure = Figure(figsize=(4.2 * max(len(metrics), 1.5), 3.4), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics):
        for name in run.evaluated_sets:
            panel.plot(*run.curve(name, metric), label=name, **_line_style(run, name))
        if is_number(run.baseline.get(metric)):
            panel.axhline(run.baseline[metric], color=_BASELINE, linestyle=(0, (4, 3)), label="baseline")
        dress(panel, METRICS[metric])
    legend_above(figure, panels[0])
    return figure


def draw_losses(run: RunRecord) -> Figure | None:
    """Draw the clients' losses against rounds."""
    named = [key for key in dict.fromkeys(k for row in run.rounds for k in row) if key.endswith("_loss")]
    own = [key for key in named if key != "task_loss"]
    panels_of = {"Training loss": {"loss": "total", "task_loss": "task"}}
    panels_of |= {f"{label} loss": {key: label} for key in own for label in [key.removesuffix("_loss").upper()]}
    series = {key: _series(run, key) for keys in panels_of.values() for key in keys}
    for key in own:  # an objective that had nothing to compare
        if not np.nan_to_num(series[key][1]).any():
            panels_of = {title: keys for title, keys in panels_of.items() if key not in keys}
    if len(panels_of) == 1 and np.array_equal(series["loss"][1], series["task_loss"][1]):
        # Without objectives the total is the task's loss, unless the algorithm adds terms of its own.
        panels_of["Training loss"].pop("task_loss")
    if not any(len(series[key][0]) for keys in panels_of.values() for key in keys):
        return None
    figure = Figure(figsize=(4.2 * max(len(panels_of), 1.5), 2.9), layout="constrained")
    panels = figure.subplots(1, len(panels_of), squeeze=False)[0]
    colors = {"loss": _INK, "task_loss": "#D55E00"}
    for panel, (title, keys) in zip(panels, panels_of.items()):
        for key, label in keys.items():
            panel.plot(*series[key], color=colors.get(key, "#56B4E9"), label=label, **_markers(len(series[key][0])))
        dress(panel, title)
        if len(keys) > 1:
            panel.legend()
    return figure


def draw_classes(run: RunRecord) -> Figure | None:
    """Draw F1 by class and modality set, the most frequent class first."""
    return draw_bars(run, "f1_per_class", "F1")


def draw_bars(run: RunRecord, score: str, label: str) -> Figure | None:
    """Draw a score that is known by class as bars by modality set, the most frequent class first."""
    names = run.federation["class_names"]
    found = {name: run.evaluation.get(name, {}).get(score) or [] for name in run.evaluated_sets}
    by_set = {name: values for name, values in found.items() if len(values) == len(names) > 0}
    if not by_set:
        return None
    support = _support(run, next(iter(by_set)), len(names))
    order = sorted(range(len(names)), key=lambda c: -support[c])[:MAX_CLASSES]
    labels = [f"{name}  ({count_text(support[c])})" for c, name in zip(order, short_names([names[c] for c in order]))]
    rows = np.arange(len(order))
    figure = Figure(figsize=(8.4, 1.0 + len(order) * (0.12 + 0.07 * len(by_set))), layout="constrained")
    panel = figure.subplots()
    thickness = 0.8 / len(by_set)
    for position, (name, values) in enumerate(by_set.items()):
        offset = (position - (len(by_set) - 1) / 2) * thickness
        widths = [as_float(values[c]) for c in order]
        panel.barh(rows + offset, np.nan_to_num(widths), thickness * 0.92, color=run_colors(run)[name], label=name)
    _mark_baseline(panel, run.baseline.get(score) or [], order)
    panel.set(yticks=rows, yticklabels=labels, xlim=(0, 1), ylim=(len(order) - 0.5, -0.5), xlabel=label)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x")
    panel.set_axisbelow(True)
    handles, _ = panel.get_legend_handles_labels()
    legend_above(figure, panel, handles=sorted(handles, key=lambda handle: handle.get_label() == "baseline"))
    return figure


def draw_clients(run: RunRecord) -> Figure | None:
    """Draw the clients: size as bars, modality set as colour, label mix as a heat map."""
    clients = sorted(run.federation["clients"], key=lambda client: -client["samples"])
    if not clients:
        return None
    names = run.federation["class_names"][:MAX_CLASSES]
    heights = (1.6, 0.12, 0.19 * len(names) + 0.2)
    figure = Figure(figsize=(8.4, sum(heights) + 1.7), layout="constrained")
    bars, strip, mix = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    _draw_sizes(bars, run, clients)
    # On its own, for small clients have bars too low to show a colour.
    colors = run_colors(run)
    strip.imshow([[to_rgb(colors[run.held_set(client)]) for client in clients]], aspect="auto")
    strip.set(yticks=[0], yticklabels=["modalities held"])
    _draw_label_mix(figure, mix, run, clients, names)
    for panel in (strip, mix):
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    legend_above(figure, bars, handles=_modality_patches(run, clients))
    return figure


def draw_cost(run: RunRecord) -> Figure | None:
    """Draw the main score against the bytes sent so far, and the seconds of each round."""
    metrics = main_metrics(run.evaluation)
    rounds, seconds = _series(run, "seconds")
    sent = sent_by_round(run)
    if not len(rounds) or not metrics or not sent:
        return None
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    against_bytes, against_rounds = figure.subplots(1, 2)
    for name in run.evaluated_sets:
        points = [(sent[r], value) for r, value in zip(*run.curve(name, metrics[0])) if r in sent]
        against_bytes.plot(*zip(*points) if points else ((), ()), label=name, **_line_style(run, name))
    dress(against_bytes, f"{METRICS[metrics[0]]} by traffic of all clients, up and down", "sent so far")
    against_bytes.title.set_fontsize(9)
    against_bytes.xaxis.set_major_locator(MaxNLocator(5))
    against_bytes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled_text(value, "B")))
    against_rounds.bar(rounds, seconds, width=0.8, color="#8aa4bf")
    dress(against_rounds, "Seconds by round")
    against_rounds.title.set_fontsize(9)
    against_rounds.set_xlim(rounds[0] - 0.7, max(rounds[-1], rounds[0] + 4) + 0.7)
    legend_above(figure, against_bytes)
    return figure


def sent_by_round(run: RunRecord) -> dict[int, float]:
    """Return the bytes that all clients have sent and received up to each round, from 0 at round 0."""
    total, sent = 0.0, {0: 0.0}
    for line in run.rounds:
        both = as_float(line.get("bytes_up")) + as_float(line.get("bytes_down"))
        total += 0.0 if math.isnan(both) else both
        sent[line["round"]] = total
    return sent if total else {}


def dress(panel: Axes, title: str, xlabel: str = "round") -> None:
    """Give a panel its title, its grid and whole rounds on the x axis."""
    panel.set_title(title)
    panel.set_xlabel(xlabel)
    panel.grid(axis="y")
    panel.set_axisbelow(True)
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def legend_above(figure: Figure, panel: Axes, handles: Sequence[Any] | None = None, columns: int = 8) -> None:
    """Put a panel's legend in a row above the figure."""
    shown = handles if handles is not None else panel.get_legend_handles_labels()[0]
    if shown:
        figure.legend(handles=shown, loc="outside upper left", ncols=min(columns, len(shown)), handlelength=1.4)


def _series(run: RunRecord, key: str) -> tuple[list[int], list[float]]:
    known = [(line["round"], float(line[key])) for line in run.rounds if is_number(line.get(key))]
    return [r for r, _ in known], [value for _, value in known]


def _markers(points: int) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.5} if points <= 30 else {}


def _line_style(run: RunRecord, name: str) -> dict[str, Any]:
    width = 2.2 if "+" in name else 1.4
    return {"color": run_colors(run)[name], "linewidth": width, **_markers(len(run.evaluations))}


def _support(run: RunRecord, name: str, classes: int) -> list[float]:
    support = run.evaluation[name].get("support") or run.baseline.get("support") or []
    return list(support) if len(support) == classes else [0] * classes


def _mark_baseline(panel: Axes, values: Sequence[float | None], order: Sequence[int]) -> None:
    if order and len(values) > max(order):
        known = [(row, value) for row, c in enumerate(order) if (value := as_float(values[c])) > 0]
        if known:
            rows, marks = zip(*known)
            starts, ends = [row - 0.4 for row in rows], [row + 0.4 for row in rows]
            panel.vlines(marks, starts, ends, color=_INK, linewidth=1.4, label="baseline")


def _draw_sizes(panel: Axes, run: RunRecord, clients: list[dict[str, Any]]) -> None:
    sizes = [client["samples"] for client in clients]
    color_of = run_colors(run)
    colors = [color_of[run.held_set(client)] for client in clients]
    few = len(clients) <= MAX_NAMED_CLIENTS
    panel.bar(range(len(clients)), sizes, width=0.8 if few else 1.0, color=colors)
    if len(clients) <= 20:
        for position, size in enumerate(sizes):
            panel.annotate(
                scaled_text(size), (position, size), (0, 2), textcoords="offset points", ha="center", fontsize=8
            )
    panel.margins(y=0.18 if len(clients) <= 20 else 0.05)
    panel.set_title("Training samples by client")
    panel.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled_text(value)))
    panel.grid(axis="y")
    panel.set_axisbelow(True)
    panel.tick_params(axis="x", length=0)


def _draw_label_mix(
    figure: Figure, panel: Axes, run: RunRecord, clients: list[dict[str, Any]], names: Sequence[str]
) -> None:
    counts = np.array([client["labels"][: len(names)] for client in clients], float).reshape(len(clients), len(names))
    pixels = run.federation.get("task") == "pixel"
    whole = [sum(client["labels"]) if pixels else client["samples"] for client in clients]
    share = counts / np.maximum(whole, 1)[:, None]
    image = panel.imshow(share.T, aspect="auto", cmap="YlGnBu", norm=PowerNorm(0.5, 0, max(share.max(), 1e-3)))
    figure.colorbar(image, ax=panel, pad=0.01, aspect=30, format=FuncFormatter(lambda value, _: f"{value:.0%}"))
    panel.set_title(f"Share of the client's {'pixels' if pixels else 'samples'} with the label")
    panel.set(yticks=range(len(names)), yticklabels=short_names(names))
    if len(clients) <= MAX_NAMED_CLIENTS:
        panel.set_xticks(range(len(clients)), short_names([str(client["name"]) for client in clients], 18))
        for label in panel.get_xticklabels():
            label.set(rotation=90 if len(clients) > 12 else 40, ha="right", va="center", rotation_mode="anchor")
    else:
        panel.set_xlabel("clients, the largest first")
        panel.set_xticks([])


def _modality_patches(run: RunRecord, clients: list[dict[str, Any]]) -> list[Patch]:
    held = {run.held_set(client) for client in clients}
    return [Patch(color=color, label=name) for name, color in run_colors(run).items() if name in held]
