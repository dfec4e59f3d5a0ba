"""Colours of classes, the same in reports and on maps."""

from __future__ import annotations

from collections.abc import Sequence


def class_colors(known: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    """Return ``#rrggbb`` for each class: the archive's own, or else as different as a palette has them."""
    if known is not None and len(known) == classes:
        return tuple(known)
    import matplotlib

    palette = matplotlib.colormaps["tab20" if classes <= 20 else "turbo"]
    # Of tab20 the strong colours first, then the pale ones.
    order = [2 * i % 20 + (2 * i // 20) for i in range(classes)]
    rgb = [palette(order[i]) if classes <= 20 else palette(i / (classes - 1)) for i in range(classes)]
    return tuple(matplotlib.colors.to_hex(color) for color in rgb)
