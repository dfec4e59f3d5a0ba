"""Draw a map beside the image that it was made from, with its legend."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import rasterio
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rasterio.enums import Resampling

from mmfl_jax.archives.pictures import composite
from mmfl_jax.maps.composites import View
from mmfl_jax.maps.geotiff import MARK
from mmfl_jax.maps.legend import NODATA, Legend
from mmfl_jax.maps.rasters import Grid, reading
from mmfl_jax.report.figures import styled
from mmfl_jax.report.presentation import short_names, shorten

_NO_DATA = "#eceef1"


def picture(image: np.ndarray, view: View, name: str, grid: Grid, path: Path, legend: Legend) -> bytes:
    """Return a PNG: an image, the map, and its classes with their shares.

    Args:
        image: float32 [height, width, bands], see :func:`mmfl_jax.archives.pictures.composite`.
        view: what it shows.
        name: of the scene.
        grid: of the scene.
        path: of the map.
        legend: of the map.
    """
    with reading(path), rasterio.open(path) as file:
        classes = file.read(1, out_shape=image.shape[:2], resampling=Resampling.mode)
    content = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", "Glyph")  # of a name's letters that the font lacks
        figure = styled(_draw, composite(image, view.true), classes, view.words, name, grid, legend)
        assert figure is not None
        figure.savefig(content, format="png", dpi=150, metadata={"Software": MARK})
    return content.getvalue()


def _draw(image: np.ndarray, classes: np.ndarray, words: str, name: str, grid: Grid, legend: Legend) -> Figure:
    height, width = classes.shape
    table = np.zeros((256, 4), np.float32)
    for value, color in legend.table.items():
        table[value] = np.divide(color, 255)
    counts = np.bincount(classes.ravel(), minlength=256)
    order = [c for c in np.argsort(-counts[: len(legend.names)], kind="stable") if counts[c]]
    known = max(int(counts[:NODATA].sum()), 1)
    names = short_names([legend.names[c] for c in order], 34)
    handles = [
        Patch(color=legend.colors[c], label=f"{shown}  {_share(counts[c] / known)}") for c, shown in zip(order, names)
    ]
    if counts[NODATA]:
        handles.append(Patch(color=_NO_DATA, label="no data"))
    # Side by side, the picture of two images of this shape and a column of names.
    side = min(4.4, 4.4 * width / height)
    tall = max(min(4.4, 4.4 * height / width), 0.19 * len(handles))
    figure = Figure(figsize=(2 * side + 2.6, tall + 0.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = (image, words, "antialiased"), (table[classes], f"land cover of {name}", "nearest")  # colours stay pure
    for panel, (pixels, title, interpolation) in zip((left, right), drawn):
        panel.set_facecolor(_NO_DATA)
        panel.imshow(pixels, interpolation=interpolation)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        panel.set_title(shorten(title, max(int(side * 11), 12)))
    _scale_bar(left, grid, width)
    right.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, fontsize=8, handlelength=1.2
    )
    return figure


def _scale_bar(panel: Axes, grid: Grid, width: int) -> None:
    """Draw a length of 1, 2 or 5 metres times a power of ten, about a quarter of the image, where that is known."""
    if grid.crs is None or not grid.crs.is_projected:
        return
    metre = grid.crs.linear_units_factor[1]
    across = float(np.hypot(grid.transform.a, grid.transform.d)) * grid.width * metre
    power = 10.0 ** np.floor(np.log10(across / 4))
    # A power that rounding made too large has none; the one below has.
    length = max(s * p for p in (power / 10, power) for s in (1, 2, 5) if s * p <= across / 4)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    bar, x, y = length / across, 0.03, 0.035
    box = {"boxstyle": "square,pad=0.25", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    panel.plot([x, x + bar], [y, y], color="white", linewidth=4.5, transform=panel.transAxes, solid_capstyle="butt")
    panel.plot([x, x + bar], [y, y], color="#22272e", linewidth=2, transform=panel.transAxes, solid_capstyle="butt")
    panel.text(x + bar / 2, y + 0.025, text, transform=panel.transAxes, ha="center", va="bottom", fontsize=7, bbox=box)


def _share(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
