"""The pictures of a run, as PNG: sections colored by score, the score curve, region boxes, the segmentation."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from bpr.results.summary import RunResult
from bpr.results.views import Section, SmallVolume, landmark_words, small_volume
from bpr.scoring.scale import COLORED_SCORES
from bpr.segmentation.labels import structure_by_value

SCORE_COLORS, SCORE_RANGE = "viridis", Normalize(*COLORED_SCORES)  # of every scan, so that pictures can be compared
REGION_COLORS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f")
INK, PALE, RESOLUTION = "#22303c", "#8a97a3", 110
SLAB_MM = 5.0
LETTERS = {"coronal": "RL", "sagittal": "AP", "axial": "RL"}
TEXT = {"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": PALE, "xtick.color": INK,
        "ytick.color": INK, "font.family": "DejaVu Sans"}  # fmt: skip


def write_pictures(result: RunResult, folder: Path) -> dict[str, Path]:
    """Draw what the run found into ``folder/pictures``.

    Returns:
        Name ("coronal", "sagittal", "curve", "regions", "segmentation") -> PNG file. The last three are left out when
        the run has no curve, regions or segments.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    small = small_volume(result.volume.image, result.segmentation if result.segments else None)
    figures = {plane: lambda plane=plane: _scored_section(result, small, plane) for plane in ("coronal", "sagittal")}
    if result.curve is not None:
        figures["curve"] = lambda: _curve(result)
    if result.regions:
        figures["regions"] = lambda: _regions(result, small)
    if small.labels is not None:
        figures["segmentation"] = lambda: _segmentation(result, small)
    written = {}
    for name, draw in figures.items():
        written[name] = pictures / f"{name}.png"
        with matplotlib.rc_context(TEXT):
            FigureCanvasAgg(draw()).print_figure(written[name], dpi=RESOLUTION, facecolor="white")
    return written


def spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions near ``wanted`` (growing), at least ``gap`` apart and inside low..high while they fit."""
    count = len(wanted)
    if count == 0:
        return np.zeros(0)
    gap = min(gap, (high - low) / max(count - 1, 1))
    offset = gap * np.arange(count)
    places = np.clip(_isotonic(np.asarray(wanted, float) - offset), low, high - offset[-1])
    return places + offset


def _isotonic(values: np.ndarray) -> np.ndarray:
    """Nearest non-decreasing sequence (least squares, pooling neighbors that violate the order)."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2], blocks[-1]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return np.concatenate([np.full(int(n), mean) for mean, n in blocks])


def _frame(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="none")


def _panel(figure: Figure, section: Section, left: float, bottom: float, inches: float) -> Axes:
    """Axes whose box has the section's proportions: ``inches`` per mm, lower left corner in inches."""
    width, height = (abs(section.extent[i] - section.extent[i + 1]) * inches for i in (0, 2))
    total = figure.get_size_inches()
    axes = figure.add_axes((left / total[0], bottom / total[1], width / total[0], height / total[1]))
    axes.set(xticks=[], yticks=[], xlim=section.extent[:2], ylim=section.extent[2:])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _show(axes: Axes, section: Section, rgb: np.ndarray | None = None) -> None:
    """The section with the letters of its sides; a viewer faces the patient."""
    image = np.repeat(section.gray[..., None], 3, -1) if rgb is None else rgb
    origin = "upper" if section.plane == "axial" else "lower"
    axes.imshow(np.clip(image, 0, 1), extent=section.extent, origin=origin, aspect="auto", interpolation="bilinear")
    axes.set(xlim=section.extent[:2], ylim=section.extent[2:])
    for place, letter, side in (
        (0.015, LETTERS[section.plane][0], "left"),
        (0.985, LETTERS[section.plane][1], "right"),
    ):
        axes.text(
            place, 0.5, letter, transform=axes.transAxes, ha=side, va="center", color="white", fontsize=8, alpha=0.8
        )


def _scale(section: Section, height: float = 6.6, width: float = 6.0) -> float:
    """Inches per mm so that the section fits into a box."""
    wide, high = (abs(section.extent[i] - section.extent[i + 1]) for i in (0, 2))
    return min(height / high, width / wide)


def _names_beside(axes: Axes, heights: np.ndarray, names: list[str], span: tuple[float, float]) -> None:
    """Names beside the axes at their heights (data units), moved apart where they would overlap, with leader lines."""
    order = np.argsort(heights)
    low, high = span
    inches = axes.get_figure().get_size_inches()[1] * axes.get_position().height
    gap = 0.145 / max(inches, 0.1) * (high - low)
    places = spread(np.asarray(heights, float)[order], gap, low, max(high, low + gap * (len(names) - 1)))
    edge, step = 1.0, 0.04
    transform = axes.get_yaxis_transform()
    for k, place in zip(order, places, strict=True):
        line = ([edge, edge + step * 0.4, edge + step], [heights[k], heights[k], place])
        axes.plot(*line, transform=transform, color=PALE, lw=0.7, clip_on=False)
        axes.text(edge + 1.25 * step, place, names[k], transform=transform, fontsize=7.5, va="center", ha="left")


def _scored_section(result: RunResult, small: SmallVolume, plane: str) -> Figure:
    """Section through the body's middle, tinted by each slice's score on the whole ruler, landmarks named beside it."""
    axis = {"coronal": 1, "sagittal": 2}[plane]
    section = small.section(plane, small.body_center()[axis], round(SLAB_MM / small.spacing[0]))
    inches = _scale(section)
    width, height = (abs(section.extent[i] - section.extent[i + 1]) * inches for i in (0, 2))
    curve = result.curve
    beside = 1.9 if curve is not None else 0.2
    figure = _frame(width + 0.2 + beside, max(height + 0.75, 1.6))
    axes = _panel(figure, section, 0.1, 0.65 if curve is not None else 0.1, inches)
    if curve is None:
        _show(axes, section)
        return figure
    rows = small.origin[2] + small.spacing[2] * np.arange(len(section.gray))
    tint = matplotlib.colormaps[SCORE_COLORS](SCORE_RANGE(curve.score_at(rows)))[:, None, :3]
    share = np.where(section.gray > 0.08, 0.42, 0.22)[..., None]
    light = np.repeat(section.gray[..., None], 3, -1)
    _show(axes, section, (1 - share) * light + share * tint * (0.35 + 0.65 * light))
    marks = [mark for mark in curve.landmarks if mark.in_scan]
    names = [landmark_words(mark.name) for mark in marks]
    _names_beside(axes, np.array([mark.z_mm for mark in marks]), names, section.extent[2:])
    for mark in marks:
        axes.axhline(mark.z_mm, color="white", lw=0.4, alpha=0.45)
    total = figure.get_size_inches()
    bar_axes = figure.add_axes((0.1 / total[0], 0.42 / total[1], width / total[0], 0.11 / total[1]))
    bar = figure.colorbar(ScalarMappable(SCORE_RANGE, SCORE_COLORS), cax=bar_axes, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.set_ticks([0, 25, 50, 75, 100])
    bar_axes.tick_params(labelsize=7, length=2)
    bar_axes.text(1.04, 0.5, "score", transform=bar_axes.transAxes, va="center", fontsize=7.5)
    return figure


def _curve(result: RunResult) -> Figure:
    """Score against height, upright like the patient: raw dots, cleaned line with its spread, regions, landmarks."""
    curve = result.curve
    order = np.argsort(curve.z_mm)
    z, raw, cleaned, sd = (values[order] for values in (curve.z_mm, curve.raw, curve.cleaned, curve.sd))
    figure = _frame(5.9, 7.2)
    axes = figure.add_axes((0.27, 0.075, 0.46, 0.905))
    axes.fill_betweenx(z, cleaned - 2 * sd, cleaned + 2 * sd, color="#4e79a7", alpha=0.22, lw=0, label="± 2 sd")
    axes.plot(raw, z, ".", color="#f28e2b", ms=4, alpha=0.75, mew=0, label="each slice alone")
    axes.plot(cleaned, z, color="#1f4e79", lw=1.8, label="cleaned")
    pad = max(3.0, 0.02 * float(np.ptp(z)))
    low, high = float(z[0]) - pad, float(z[-1]) + pad
    shown = np.concatenate([np.percentile(raw, [2, 98]), cleaned])
    axes.set(ylim=(low, high), xlim=(shown.min() - 6, shown.max() + 6), xlabel="score")
    axes.grid(alpha=0.25, lw=0.6)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    axes.tick_params(labelleft=False, length=2)
    marks = [mark for mark in curve.landmarks if mark.in_scan]
    axes.plot(
        [mark.score for mark in marks], [mark.z_mm for mark in marks], "D", ms=3.6, color="white", mec=INK, mew=0.9
    )
    _names_beside(axes, np.array([m.z_mm for m in marks]), [landmark_words(m.name) for m in marks], (low, high))
    bands = figure.add_axes((0.11, 0.075, 0.15, 0.905), sharey=axes)
    _region_bars(bands, axes, result, (low, high))
    bands.set_ylabel("height in mm (superior)")
    return figure


def _region_bars(bands: Axes, axes: Axes, result: RunResult, span: tuple[float, float]) -> None:
    """Regions as upright bars beside the curve, each in one of three lanes, continued as faint bands behind it."""
    bands.set(xlim=(0, 3), xticks=[])
    for side in ("top", "right", "bottom"):
        bands.spines[side].set_visible(False)
    bands.tick_params(length=2)
    regions = sorted(result.regions, key=lambda region: region.z_range_mm[0])
    for k, region in enumerate(regions):
        bottom, top = np.clip(region.z_range_mm, *span)
        color = REGION_COLORS[k % len(REGION_COLORS)]
        axes.axhspan(bottom, top, color=color, alpha=0.07, lw=0)
        bands.add_patch(Rectangle((k % 3 + 0.12, bottom), 0.76, top - bottom, color=color, alpha=0.35, lw=0))
        if top - bottom > 0.012 * len(region.name) * (span[1] - span[0]):
            bands.text(k % 3 + 0.5, (bottom + top) / 2, region.name, rotation=90, ha="center", va="center", fontsize=8)


def _regions(result: RunResult, small: SmallVolume) -> Figure:
    """Coronal section with the regions' boxes; each a little narrower than the last, so that overlaps can be seen."""
    section = small.section("coronal", small.body_center()[1], round(SLAB_MM / small.spacing[0]))
    inches = _scale(section)
    width, height = (abs(section.extent[i] - section.extent[i + 1]) * inches for i in (0, 2))
    figure = _frame(width + 2.2, max(height + 0.2, 1.6))
    axes = _panel(figure, section, 0.1, 0.1, inches)
    _show(axes, section)
    left, right, low, high = section.extent
    regions = sorted(result.regions, key=lambda region: region.z_range_mm[0])
    middles = []
    for k, region in enumerate(regions):
        bottom, top = np.clip(region.z_range_mm, low, high)
        inset = (0.02 + 0.028 * (k % 3)) * (right - left)
        style = {"ec": REGION_COLORS[k % 6], "fc": REGION_COLORS[k % 6] + "1f", "lw": 1.8}
        axes.add_patch(Rectangle((left + inset, bottom), right - left - 2 * inset, top - bottom, **style))
        middles.append((bottom + top) / 2)
    names = [r.name + ("" if r.complete > 0.98 else f" ({r.complete:.0%})") for r in regions]
    _names_beside(axes, np.array(middles), names, (low, high))
    for text in axes.texts[-len(names) :]:  # in order of height, which need not be the regions' order
        text.set(color=REGION_COLORS[names.index(text.get_text()) % 6], fontweight="bold", fontsize=8.5)
    return figure


def _segmentation(result: RunResult, small: SmallVolume) -> Figure:
    """Axial, coronal and sagittal sections that show most segments, with a legend below."""
    sections = [small.section(plane, small.richest(plane)) for plane in ("coronal", "sagittal", "axial")]
    upright = 5.2
    inches = min([_scale(s, upright, 4.2) for s in sections[:2]] + [_scale(sections[2], upright, 4.4)])
    widths = [abs(s.extent[1] - s.extent[0]) * inches for s in sections]
    heights = [abs(s.extent[3] - s.extent[2]) * inches for s in sections]
    present = sorted({segment.value for segment in result.segments})
    rows = int(np.ceil(len(present) / 5))
    below = 0.22 * rows + 0.15
    width = max(sum(widths) + 0.4, 7.2)
    figure = _frame(width, max(heights) + below + 0.15)
    left = (width - sum(widths) - 0.2) / 2
    for section, wide, high in zip(sections, widths, heights, strict=True):
        axes = _panel(figure, section, left, below + (max(heights) - high) / 2, inches)
        _show(axes, section, _painted(section))
        left += wide + 0.1
    patches = [Patch(color=structure_by_value(value).color, label=structure_by_value(value).name) for value in present]
    figure.legend(handles=patches, loc="lower center", ncols=5, frameon=False, fontsize=7.5, handlelength=1.0)
    return figure


def _painted(section: Section) -> np.ndarray:
    """RGB (rows, columns, 3) of the section with its segments in their colors and a firmer outline."""
    table = np.zeros((256, 3))
    for value in np.unique(section.labels[section.labels > 0]):
        table[value] = structure_by_value(int(value)).color
    labels = section.labels
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        edge |= (labels != np.roll(labels, 1, axis)) | (labels != np.roll(labels, -1, axis))
    share = np.where(labels > 0, np.where(edge, 0.95, 0.5), 0.0)[..., None]
    return (1 - share) * section.gray[..., None] + share * table[labels]
