"""Draw one round of a federation: python docs/tools/draw_round.py docs/images/round.png."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

RADAR, OPTICAL, SHARED, INK, PAPER = "#4c78a8", "#e08214", "#2a9d8f", "#22313f", "#ffffff"
CLIENTS = (("Austria", "s1"), ("Finland", "s2"), ("Ireland", "s1"), ("Portugal", "s2"))
COLORS = {"s1": RADAR, "s2": OPTICAL}
NAMES = {"s1": "radar", "s2": "optical"}


def box(
    panel: Axes, x: float, y: float, width: float, height: float, text: str, color: str, filled: bool = True
) -> None:
    """Draw a rounded box around its centre."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=color if filled else PAPER,
        edgecolor=color,
        linewidth=1.6,
    )
    panel.add_patch(shape)
    panel.text(x, y, text, ha="center", va="center", color=PAPER if filled else INK, fontsize=9, linespacing=1.35)


def arrow(panel: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    """Draw an arrow."""
    panel.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color, linewidth=1.4))


def client(panel: Axes, x: float, country: str, modality: str) -> None:
    """Draw a client with the images that never leave it, the encoder of its modality and the shared head."""
    color = COLORS[modality]
    box(panel, x, 1.7, 2.3, 2.6, "", "#8a97a3", filled=False)
    panel.text(x, 2.78, country, ha="center", va="center", fontsize=10.5, weight="bold", color=INK)
    box(panel, x, 2.3, 1.9, 0.46, "head", SHARED)
    box(panel, x, 1.65, 1.9, 0.46, f"{modality} encoder", color)
    arrow(panel, (x, 1.1), (x, 1.4), INK)
    box(panel, x, 0.78, 1.9, 0.62, f"its {NAMES[modality]} images\nand labels: they stay", color, filled=False)


def main(path: Path) -> None:
    """Draw the picture."""
    figure, panel = plt.subplots(figsize=(10, 5.4), dpi=110)
    for i, (country, modality) in enumerate(CLIENTS):
        x = 1.4 + 2.55 * i
        client(panel, x, country, modality)
        arrow(panel, (x - 0.35, 4.72), (x - 0.35, 3.06), INK)
        arrow(panel, (x + 0.35, 3.06), (x + 0.35, 4.72), INK)
    box(panel, 5.22, 5.25, 10, 1.0, "", INK, filled=False)
    panel.text(0.42, 5.25, "server", ha="left", va="center", fontsize=10.5, weight="bold", color=INK)
    box(panel, 2.9, 5.25, 2.3, 0.6, "s1 encoder: mean\nover radar owners", RADAR)
    box(panel, 5.4, 5.25, 2.3, 0.6, "head: mean\nover all owners", SHARED)
    box(panel, 7.9, 5.25, 2.3, 0.6, "s2 encoder: mean\nover optical owners", OPTICAL)
    words = {"ha": "center", "va": "center", "fontsize": 9, "color": INK}
    panel.text(1.4 + 2.55 * 0.5, 3.9, "1  the server\nsends each client\nits parts", **words)
    panel.text(1.4 + 2.55 * 1.5, 3.9, "2  clients train,\nall at once\n(vmap)", **words)
    panel.text(1.4 + 2.55 * 2.5, 3.9, "3  changes go up\nand are averaged\n(one psum)", **words)
    panel.set(xlim=(0, 10.45), ylim=(0.3, 5.85))
    panel.axis("off")
    figure.savefig(path, bbox_inches="tight", facecolor=PAPER, pad_inches=0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
