"""Pictures of a training: curves while it runs, and the cases that the new model does worst."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from bpr.seed.measure import OrganDice, mean_dice
from bpr.seed.taught import find_structure, table_of
from bpr.segmentation.labels import Structure
from bpr.segmentation.windows import Predictor
from bpr.training.cases import OUTSIDE

if TYPE_CHECKING:
    from bpr.seed.material import Material

INK, PALE = "#22303c", "#8a97a3"
TEXT = {"font.size": 8, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": PALE, "xtick.color": INK,
        "ytick.color": INK, "font.family": "DejaVu Sans"}  # fmt: skip
WORST = 2  # cases that are shown
WINDOW_HU = (-160, 240)


def draw_curves(history: list[dict], held_out: bool, path: Path) -> None:
    """Loss, Dice of validation and training with the old model as a line, and Dice by organ, against steps."""
    steps = [entry["step"] for entry in history]
    with matplotlib.rc_context(TEXT):
        figure = Figure((4.6, 6.2), layout="constrained")
        top, middle, bottom = figure.subplots(3, 1, height_ratios=(2, 3, 3), sharex=True)
        top.plot(steps, [np.nan if e["loss"] is None else e["loss"] for e in history], color="#4e79a7", marker=".")
        top.set_ylabel("loss")
        validation, training = ([entry[key] for entry in history] for key in ("dice", "training_dice"))
        middle.fill_between(steps, validation, training, color="#f28e2b", alpha=0.15, linewidth=0, label="gap")
        middle.plot(steps, training, color="#f28e2b", marker=".", label="training cases")
        name = "held-out slices" if held_out else "validation cases"
        middle.plot(steps, validation, color="#59a14f", marker=".", label=name)
        middle.axhline(validation[0], color=INK, linestyle="--", linewidth=1, label="old model")
        middle.set_ylabel("mean Dice")
        middle.legend(fontsize=7, frameon=False, loc="lower right")
        for organ in history[-1]["organs"]:
            structure, values = find_structure(organ), [entry["organs"].get(organ, np.nan) for entry in history]
            (line,) = bottom.plot(steps, values, color=structure.color, marker=".", label=structure.name)
            bottom.axhline(values[0], color=line.get_color(), linestyle="--", linewidth=0.7)
        bottom.set_ylabel("Dice by organ")
        bottom.set_xlabel("steps (dashed: the old model)")
        bottom.legend(fontsize=6, frameon=False, ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.25))
        _save(figure, path)


def draw_worst(material: Material, after: list[OrganDice], predict: Predictor, folder: Path) -> list[Path]:
    """The validation cases with the lowest Dice: the CT, what a person drew and what the new model says."""
    scored = {
        case.id: mean_dice([r for r in after if r.case == case.id and r.domain == case.domain])
        for case in material.validation
    }
    worst = sorted(material.validation, key=lambda case: np.nan_to_num(scored[case.id], nan=2.0))[:WORST]
    paths = []
    for number, case in enumerate(worst, 1):
        paths.append(folder / f"worst_{number}.png")
        title = f"{case.id}: mean Dice {scored[case.id]:.2f}, the slice with most wrong voxels"
        _worst(material.kind.worst(case, predict), table_of(material.bundle), title, paths[-1])
    return paths


def _worst(
    found: tuple[np.ndarray, np.ndarray, np.ndarray], table: tuple[Structure, ...], title: str, path: Path
) -> None:
    """A slice three times: bare, with the true labels, with those that were found where something is known."""
    hu, truth, guess = found
    colors = np.ones((256, 4))
    for structure in table:
        colors[structure.value, :3] = structure.color
    colors[OUTSIDE] = (0.3, 0.3, 0.3, 1)
    with matplotlib.rc_context(TEXT):
        figure = Figure((6.6, 2.5), layout="constrained")
        panels = ((None, "CT"), (truth, "marked as right"), (np.where(truth != OUTSIDE, guess, 0), "new model"))
        for axes, (labels, name) in zip(figure.subplots(1, 3), panels, strict=True):
            axes.imshow(hu, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
            if labels is not None:
                shown = np.ma.masked_equal(labels, 0)
                axes.imshow(shown, cmap=ListedColormap(colors), vmin=0, vmax=255, alpha=0.6, interpolation="nearest")
            axes.set_title(name, fontsize=8)
            axes.set_axis_off()
        figure.suptitle(title, fontsize=8)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Complete or not at all: the panel may be reading."""
    partial = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure).print_png(str(partial))
    os.replace(partial, path)
