"""Names and colours of classes, as maps carry them."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmfl_jax.errors import UserError

if TYPE_CHECKING:
    from mmfl_jax.maps.predictor import Predictor

NODATA = 255
_GOLDEN = 0.618034


@dataclass(frozen=True)
class Legend:
    """Hold the classes of a map in the order of their numbers: names, and colours as ``#rrggbb``."""

    names: tuple[str, ...]
    colors: tuple[str, ...]

    @classmethod
    def of(cls, predictor: Predictor) -> Legend:
        """Return the legend of a model's classes; hues far from each other where it has no colours.

        Raises:
            UserError: more classes than a byte can tell apart from no data.
        """
        names = predictor.class_names
        if len(names) > NODATA:
            raise UserError(f"{len(names)} classes; a map holds at most {NODATA}, 0 to {NODATA - 1}")
        return cls(tuple(names), predictor.class_colors or tuple(map(_hue, range(len(names)))))

    @property
    def table(self) -> dict[int, tuple[int, int, int, int]]:
        """Return red, green, blue and alpha by number; no data is transparent."""
        opaque = {number: (*bytes.fromhex(color.removeprefix("#")), 255) for number, color in enumerate(self.colors)}
        return {**opaque, NODATA: (0, 0, 0, 0)}  # type: ignore[dict-item]


def _hue(number: int) -> str:
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.65, 0.9 - 0.25 * (number % 2))
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
