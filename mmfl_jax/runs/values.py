"""Numbers and modality sets as the files of a run hold them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_float(value: Any) -> float:
    """Return a number as it is and anything else as NaN."""
    return float(value) if is_number(value) else math.nan


def ordered_sets(names: Iterable[str], modalities: Sequence[str] = ()) -> list[str]:
    """Order modality sets: each alone first, then larger ones, in the order of the modalities."""
    rank = {name: position for position, name in enumerate(modalities)}

    def key(name: str) -> tuple[Any, ...]:
        parts = name.split("+")
        return len(parts), [rank.get(part, len(rank)) for part in parts], name

    return sorted(set(names), key=key)


def fused_set(names: Iterable[str]) -> str | None:
    """Return the modality set with the most modalities, or ``None`` if there is none."""
    return max(ordered_sets(names), key=lambda name: name.count("+"), default=None)
