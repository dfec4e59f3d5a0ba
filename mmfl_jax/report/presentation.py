"""Words, numbers and colours that the figures, the page and the terminal share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmfl_jax.runs.values import fused_set, is_number, ordered_sets

if TYPE_CHECKING:
    from mmfl_jax.runs.record import RunRecord

Evaluation = Mapping[str, Mapping[str, Any]]

#: Scores in the order they are shown, with the words for them.
METRICS = {
    "miou": "Mean IoU",
    "accuracy": "Accuracy",
    "map": "mAP",
    "f1_tuned": "Micro F1, tuned",  # at the threshold that validation samples chose; the others are at 0.5
    "f1_micro": "Micro F1",
    "f1_macro_common": "Macro F1, common",  # likewise tuned, over classes of 4 % of the samples and more
    "f1_macro": "Macro F1",
    "balanced_accuracy": "Balanced accuracy",
    "subset_accuracy": "Subset accuracy",
}
MISSING = "-"

# Okabe and Ito's palette, told apart with every common colour blindness; green is kept for all modalities together.
_SINGLE_COLORS = ("#0072B2", "#E69F00", "#CC79A7", "#56B4E9", "#D55E00")
_FUSED_COLOR = "#009E73"
_OTHER_COLORS = ("#D55E00", "#56B4E9", "#8C6D31", "#666666")
_LINKING_WORDS = {"and", "or", "with", "by", "of", "in", "the", "from"}


def shown_sets(sets: list[str], most: int = 4) -> list[str]:
    """Keep each modality alone and all together where every set would not fit on a line."""
    if len(sets) <= most:
        return sets
    return [name for name in sets if "+" not in name or name == fused_set(sets)]


def modality_colors(sets: Sequence[str]) -> dict[str, str]:
    """Give each modality set its colour."""
    singles = [name for name in sets if "+" not in name]
    colors = {name: _SINGLE_COLORS[i % len(_SINGLE_COLORS)] for i, name in enumerate(singles)}
    several = [name for name in sets if "+" in name]
    full = fused_set(several)
    others = [name for name in several if name != full]
    colors |= {name: _OTHER_COLORS[i % len(_OTHER_COLORS)] for i, name in enumerate(others)}
    return colors | ({full: _FUSED_COLOR} if full else {})


def run_colors(run: RunRecord) -> dict[str, str]:
    """Give each modality set that was evaluated or that a client holds its colour."""
    return modality_colors(run.sets)


def shown_metrics(evaluation: Evaluation) -> list[str]:
    """List the scores an evaluation holds, the two main ones first."""
    found = [name for name in METRICS if any(is_number(scores.get(name)) for scores in evaluation.values())]
    # With one label a sample micro F1 is the accuracy: show it once.
    return [name for name in found if not (name == "f1_micro" and "accuracy" in found)]


def main_metrics(evaluation: Evaluation) -> list[str]:
    """List the one or two scores that curves and comparisons show."""
    return shown_metrics(evaluation)[:2]


def score_text(value: Any, digits: int = 3) -> str:
    """Write a score, or a dash where there is none."""
    return f"{value:.{digits}f}" if is_number(value) else MISSING


def count_text(value: Any) -> str:
    """Write a count with thousands separators, or a dash."""
    return f"{round(value):,}" if is_number(value) else MISSING


def skipped_text(skipped: int) -> str:
    """Write how many updates of clients were left out."""
    return f"{skipped:,} client update{'s' * (skipped != 1)}"


def scaled_text(value: Any, unit: str = "", digits: int = 3) -> str:
    """Write a quantity with a decimal prefix, such as ``1.23 MB``, or a dash."""
    if not is_number(value):
        return MISSING
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    step = 0
    while abs(value) >= 999.5 and step < len(prefixes) - 1:
        value, step = value / 1000, step + 1
    number = f"{value:.{digits}g}"
    return f"{number} {prefixes[step]}{unit}".rstrip()


def seconds_text(seconds: Any) -> str:
    """Write a duration, such as ``0.42 s``, ``2 min 05 s`` or ``1 h 20 min``, or a dash."""
    if not is_number(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short_seconds_text(seconds: Any) -> str:
    """Write a duration in one unit, such as ``2.5 min``, for the ticks of an axis."""
    if not is_number(seconds):
        return MISSING
    for unit, length in (("h", 3600), ("min", 60)):
        if abs(seconds) >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def shorten(name: str, width: int = 42) -> str:
    """Cut a long name after a word that can stand last."""
    if len(name) <= width:
        return name
    words = name[:width].split(" ")[:-1] or [name[: width - 1]]
    while len(words) > 1 and words[-1].strip(",;") in _LINKING_WORDS:
        words.pop()
    return " ".join(words).rstrip(",; ") + "…"


def short_names(names: Sequence[str], width: int = 42) -> list[str]:
    """Shorten names, leaving those whole that would look alike."""
    short = [shorten(name, width) for name in names]
    return [cut if short.count(cut) == 1 else name for cut, name in zip(short, names)]


def shown_bounds(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield name, modality set and scores of a run's bounds: of all modalities, or of each where none has all."""
    fused = fused_set(summary.get("evaluation") or {})
    for name, scores in (summary.get("bounds") or {}).items():
        for held in ordered_sets(name for name in scores if name == fused or fused not in scores):
            yield name, held, scores[held]
