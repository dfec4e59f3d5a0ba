"""Draw what a model of labels by pixel answers: tiles beside their truth, IoU by class, the confusion of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmfl_jax.archives.base import IGNORED
from mmfl_jax.report.figures import MAX_CLASSES, draw_bars, draw_figures, legend_above
from mmfl_jax.report.palette import class_colors
from mmfl_jax.report.presentation import short_names
from mmfl_jax.runs import predictions
from mmfl_jax.runs.record import RunRecord
from mmfl_jax.runs.values import fused_set

_UNLABELLED, _FRAME = "#ffffff", "#c3c9d1"


def draw_tile_figures(run: RunRecord, folder: Path) -> dict[str, Path]:
    """Write ``tiles``, ``iou`` and ``confusion``, where the run has data for them, as PNG files; by name."""
    return draw_figures(run, folder, {"tiles": draw_tiles, "iou": draw_iou, "confusion": draw_confusion})


def draw_tiles(run: RunRecord) -> Figure | None:
    """Draw the worst, typical and best test tiles: each sensor, the truth, and an answer by modality set."""
    names = run.federation["class_names"]
    kept = predictions.load(run.path, len(names))
    if "tile_labels" not in kept:
        return None
    colors = class_colors(kept["class_colors"].tolist(), len(names))
    order = np.argsort(kept["tile_accuracy"][-1], kind="stable")  # of all modalities together: the last set
    modalities, sets = kept["tile_modalities"].tolist(), kept["tile_sets"].tolist()
    columns = len(modalities) + 1 + len(sets)
    figure = Figure(figsize=(1.45 * columns + 0.4, 1.5 * len(order) + 0.9), layout="constrained")
    panels = figure.subplots(len(order), columns, squeeze=False)
    for row, i in zip(panels, order):
        for panel, image in zip(row, kept["tile_pictures"][:, i]):
            panel.imshow(image, interpolation="nearest")
        row[len(modalities)].imshow(painted(kept["tile_labels"][i], colors), interpolation="nearest")
        for panel, answer, accuracy in zip(
            row[len(modalities) + 1 :], kept["tile_answers"][:, i], kept["tile_accuracy"][:, i]
        ):
            panel.imshow(painted(answer, colors), interpolation="nearest")
            panel.set_xlabel(f"{accuracy:.0%} right", fontsize=7, labelpad=2)
        for panel in row:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set(visible=True, color=_FRAME, linewidth=0.6)  # snow and clouds are white, as the page is
    for panel, title in zip(panels[0], [*modalities, "truth", *(f"from {name}" for name in sets)]):
        panel.set_title(title, fontsize=8, loc="center")
    third = max(1, len(order) // 3)
    for row, word in ((0, "worst"), (third, "typical"), (2 * third, "best")):
        if row < len(order):
            panels[row][0].set_ylabel(word, fontsize=8, fontweight="bold")
    present = np.unique(np.concatenate([kept["tile_labels"].ravel(), kept["tile_answers"].ravel()]))
    handles = [Patch(color=colors[c], label=name) for c, name in enumerate(short_names(names)) if c in present]
    if IGNORED in present:
        handles.append(Patch(facecolor=_UNLABELLED, edgecolor="#9aa2ad", label="no label"))
    legend_above(figure, panels[0][0], handles=handles, columns=5)
    return figure


def draw_iou(run: RunRecord) -> Figure | None:
    """Draw IoU by class and modality set, the most frequent class first."""
    return draw_bars(run, "iou_per_class", "IoU")


def draw_confusion(run: RunRecord) -> Figure | None:
    """Draw, of the modalities together, what share of each class is taken for which."""
    names = run.federation["class_names"][:MAX_CLASSES]
    fused = fused_set(run.evaluated_sets) or ""
    scores = run.evaluation.get(fused, {})
    counts = np.array(scores.get("confusion") or [], float)
    if counts.shape != (len(names), len(names)) or len(names) < 2:
        return None
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    side = 0.42 * len(names) + 2.2
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    panel = figure.subplots()
    panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 20:
        _write_shares(panel, share)
    labels = short_names(names, 24)
    panel.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=labels, xlabel="answer", ylabel="truth")
    panel.set_xticks(range(len(names)), labels, rotation=40, ha="right", rotation_mode="anchor")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set_title(f"Answers to each class, %, from {fused}")
    return figure


def painted(labels: np.ndarray, colors: Sequence[str]) -> np.ndarray:
    """Return ``[height, width, 3]`` floats of class numbers; what is no class is white."""
    table = np.ones((256, 3))
    table[: len(colors)] = [to_rgb(color) for color in colors]
    return table[labels]


def _write_shares(panel: Axes, share: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005:
            color = "white" if value > 0.5 else "#22272e"
            panel.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color)
