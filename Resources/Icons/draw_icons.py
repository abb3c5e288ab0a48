"""Draws the icons of the extension and of its two modules: a torso in slices, colored from pelvis to head.

python Resources/Icons/draw_icons.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch, Polygon

ROOT = Path(__file__).resolve().parents[2]
# Half widths of the body from the thighs (y = 0) to the top of the head (y = 1).
HEIGHTS = [0.0, 0.10, 0.22, 0.36, 0.50, 0.62, 0.68, 0.72, 0.77, 0.85, 0.94, 1.0]
HALF_WIDTHS = [0.22, 0.25, 0.26, 0.20, 0.25, 0.31, 0.26, 0.10, 0.09, 0.15, 0.13, 0.04]
N_SLICES = 13


def draw(path: Path, loop: bool) -> None:
    """Write a 128 x 128 PNG; ``loop`` adds the arrow that stands for training."""
    figure, axes = plt.subplots(figsize=(1.28, 1.28), dpi=100)
    figure.patch.set_alpha(0)
    axes.set_position([0, 0, 1, 1])
    axes.set(xlim=(-0.55, 0.55), ylim=(-0.05, 1.05))
    axes.axis("off")
    edges = np.linspace(0, 1, N_SLICES + 1)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        heights = np.linspace(low + 0.012, high - 0.012, 6)
        widths = np.interp(heights, HEIGHTS, HALF_WIDTHS)
        outline = np.r_[np.c_[-widths, heights], np.c_[widths, heights][::-1]]
        axes.add_patch(Polygon(outline, facecolor=plt.cm.viridis((low + high) / 2), linewidth=0))
    if loop:
        box = FancyBboxPatch((0.2, -0.02), 0.3, 0.3, boxstyle="circle,pad=0.02", facecolor="white", edgecolor="#444444")
        axes.add_patch(box)
        arrow = {"arrowstyle": "-|>", "color": "#d55e00", "connectionstyle": "arc3,rad=-0.9", "linewidth": 2}
        axes.annotate("", xy=(0.46, 0.15), xytext=(0.25, 0.15), arrowprops=arrow)
    figure.savefig(path, transparent=True)
    plt.close(figure)


def main() -> int:
    """Draw all icons."""
    draw(ROOT / "Resources" / "Icons" / "BodyPartRegression.png", loop=False)
    draw(ROOT / "BPRSegmentation" / "Resources" / "Icons" / "BPRSegmentation.png", loop=False)
    draw(ROOT / "BPRTraining" / "Resources" / "Icons" / "BPRTraining.png", loop=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
