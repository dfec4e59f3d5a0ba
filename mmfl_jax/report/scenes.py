"""Draw what learning on a frozen CLIP shows: scenes with answers, accuracy by client, bytes by what is trained."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from mmfl_jax.report.figures import draw_figures, legend_above
from mmfl_jax.report.presentation import scaled_text, shorten
from mmfl_jax.runs import predictions
from mmfl_jax.runs.record import RunRecord
from mmfl_jax.runs.values import is_number

# Okabe and Ito's: told apart with every common colour blindness; wrong ones are framed thicker as well.
RIGHT, WRONG = "#009E73", "#D55E00"
_COLUMNS = 8
# Of the published CLIP ViT-B/32 (Radford et al., 2021).
VIT_B_32 = {"parameters": 151_277_313, "text_width": 512, "projection": 512}
_FLOAT = 4
MAX_BARS = 60


def draw_scene_figures(run: RunRecord, folder: Path) -> dict[str, Path]:
    """Write ``scenes``, ``personal`` and ``bytes``, where the run has data for them, as PNG files; by name."""
    return draw_figures(run, folder, {"scenes": draw_scenes, "personal": draw_personal, "bytes": draw_bytes})


def draw_scenes(run: RunRecord) -> Figure | None:
    """Draw test scenes framed by whether the global model is right, with class and, where wrong, its answer."""
    kept = predictions.load(run.path, len(run.federation["class_names"]))
    if "images" not in kept:
        return None
    names = run.federation["class_names"]
    rows = -(-len(kept["images"]) // _COLUMNS)
    figure = Figure(figsize=(9.6, 1.75 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for panel in panels[len(kept["images"]) :]:
        panel.set_axis_off()
    for panel, image, label, answer in zip(panels, kept["images"], kept["labels"], kept["answers"]):
        right = label == answer
        panel.imshow(image, interpolation="nearest" if len(image) >= 64 else "bicubic")
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(visible=True, color=RIGHT if right else WRONG, linewidth=2 if right else 3.5)
        panel.set_title(_wrapped(names[label]), fontsize=7, fontweight="normal", loc="center", pad=4)
        if not right:
            panel.set_xlabel(_wrapped(names[answer]), fontsize=7, color=WRONG, labelpad=4)
    hits = int((kept["labels"] == kept["answers"]).sum())
    handles = [
        Patch(color=RIGHT, label=f"right ({hits})"),
        Patch(color=WRONG, label=f"wrong ({len(kept['labels']) - hits}): below, what it was taken for"),
    ]
    legend_above(figure, panels[0], handles=handles)
    return figure


def draw_personal(run: RunRecord) -> Figure | None:
    """Draw the accuracy of each client's own model, the best first; of many clients a histogram."""
    accuracy = predictions.load(run.path, len(run.federation["class_names"])).get("personal")
    if accuracy is None or not np.isfinite(accuracy).any():
        return None
    accuracy = np.sort(accuracy[np.isfinite(accuracy)])[::-1]
    figure = Figure(figsize=(8.4, 2.6), layout="constrained")
    panel = figure.subplots()
    mean = float(accuracy.mean())
    if len(accuracy) <= MAX_BARS:
        panel.bar(range(1, len(accuracy) + 1), accuracy, width=0.8, color="#8aa4bf")
        panel.axhline(mean, color="#22272e", linestyle=(0, (4, 3)), label=f"mean {mean:.3f}")
        panel.set(ylim=(0, 1), xlabel="clients, the best first", xlim=(0.3, len(accuracy) + 0.7))
        panel.set_xticks([])
    else:
        panel.hist(accuracy, bins=np.linspace(0, 1, 41).tolist(), color="#8aa4bf")
        panel.axvline(mean, color="#22272e", linestyle=(0, (4, 3)), label=f"mean {mean:.3f}")
        panel.set(xlim=(0, 1), xlabel="accuracy", ylabel="clients")
    answers = _global_accuracy(run)
    if answers is not None:
        line = panel.axhline if len(accuracy) <= MAX_BARS else panel.axvline
        line(answers, color=RIGHT, linestyle="-", label=f"global model on all classes {answers:.3f}")
    panel.set_title("Accuracy of each client's own model")
    panel.grid(axis="y")
    panel.set_axisbelow(True)
    legend_above(figure, panel)
    return figure


def draw_bytes(run: RunRecord) -> Figure | None:
    """Draw the bytes that a client sends in a round, by what is trained, on a logarithmic axis."""
    own = run.summary.get("clip") or {}
    if not all(is_number(own.get(field)) for field in VIT_B_32):
        return None
    tokens = run.config.get("prompt_tokens") or 4
    classes = len(run.federation["class_names"])
    models = {"CLIP ViT-B/32": VIT_B_32}
    same = all(own[field] == value for field, value in VIT_B_32.items())
    models |= {} if same else {"this run's CLIP": own}
    sent = {model: bytes_by_method(sizes, tokens, classes) for model, sizes in models.items()}
    methods = list(next(iter(sent.values())))
    figure = Figure(figsize=(8.4, 1.2 + 0.42 * len(methods) * len(models)), layout="constrained")
    panel = figure.subplots()
    thickness = 0.8 / len(models)
    for position, (model, by_method) in enumerate(sent.items()):
        rows = np.arange(len(methods)) + (position - (len(models) - 1) / 2) * thickness
        bars = panel.barh(
            rows, list(by_method.values()), thickness * 0.9, color=("#0072B2", "#8aa4bf")[position], label=model
        )
        panel.bar_label(bars, [scaled_text(value, "B") for value in by_method.values()], padding=3, fontsize=8)
    panel.set_xscale("log")
    panel.set(yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
    # From below the shortest bar, or it would have no length.
    shortest, longest = min(min(b.values()) for b in sent.values()), max(max(b.values()) for b in sent.values())
    panel.set_xlim(10 ** np.floor(np.log10(shortest) - 0.5), longest * 12)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled_text(value, "B")))
    panel.set_title("Bytes a client sends in a round")
    panel.tick_params(axis="y", length=0)
    panel.minorticks_off()
    panel.grid(axis="x")
    panel.set_axisbelow(True)
    legend_above(figure, panel)
    return figure


def bytes_by_method(sizes: Mapping[str, Any], tokens: int, classes: int) -> dict[str, float]:
    """Return the bytes that a client sends in a round, float32, by what is trained.

    Args:
      sizes: of the CLIP: ``parameters``, ``text_width`` and ``projection``.
      tokens: of a prompt.
      classes: of a linear head, with bias.
    """
    return {
        f"shared prompt of {tokens} tokens\n(FedRSCLIP, PromptFL)": _FLOAT * tokens * sizes["text_width"],
        f"linear head, {classes} classes": _FLOAT * (sizes["projection"] + 1) * classes,
        "all of CLIP": _FLOAT * sizes["parameters"],
    }


def _global_accuracy(run: RunRecord) -> float | None:
    scores = [score.get("accuracy") for score in run.evaluation.values()]
    return scores[0] if len(scores) == 1 and is_number(scores[0]) else None


def _wrapped(name: str) -> str:
    return textwrap.fill(shorten(name, 40), 18)
