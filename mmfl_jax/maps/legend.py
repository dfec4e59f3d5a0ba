"""Names and colours of classes, as maps carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmfl_jax.errors import UserError
from mmfl_jax.report.palette import class_colors

if TYPE_CHECKING:
    from mmfl_jax.maps.predictor import Predictor

NODATA = 255


@dataclass(frozen=True)
class Legend:
    """Hold the classes of a map in the order of their numbers: names, and colours as ``#rrggbb``."""

    names: tuple[str, ...]
    colors: tuple[str, ...]

    @classmethod
    def of(cls, predictor: Predictor) -> Legend:
        """Return the legend of a model's classes; of a palette where it has no colours.

        Raises:
            UserError: more classes than a byte can tell apart from no data.
        """
        names = predictor.class_names
        if len(names) > NODATA:
            raise UserError(f"{len(names)} classes; a map holds at most {NODATA}, 0 to {NODATA - 1}")
        return cls(tuple(names), class_colors(predictor.class_colors, len(names)))

    @property
    def table(self) -> dict[int, tuple[int, int, int, int]]:
        """Return red, green, blue and alpha by number; no data is transparent."""
        opaque = {number: (*bytes.fromhex(color.removeprefix("#")), 255) for number, color in enumerate(self.colors)}
        return {**opaque, NODATA: (0, 0, 0, 0)}  # type: ignore[dict-item]
