"""The files of a measurement: CSV, JSON, the segmentation of the slices, and a picture with the contours."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bpr.body_composition.job import Composition, SliceFound, facts
from bpr.body_composition.tissues import DRAWN, TISSUES, terminology
from bpr.results.files import write_json
from bpr.results.pictures import TEXT
from bpr.results.seg_nrrd import SegmentHeader, describe_segments
from bpr.volume import Volume, slice_axis

STEM = "body_composition"
RESOLUTION = 110


def write_composition(found: Composition, volume: Volume, folder: Path) -> None:
    """Write ``body_composition.json``, ``.csv``, ``.seg.nrrd`` and ``.png``; the last two only when it was measured."""
    write_json(folder / f"{STEM}.json", facts(found))
    _write_csv(found, folder / f"{STEM}.csv")
    if found.slices:
        sitk.WriteImage(segmentation(found, volume.image), str(folder / f"{STEM}.seg.nrrd"), useCompression=True)
        with matplotlib.rc_context(TEXT):
            FigureCanvasAgg(_picture(found)).print_figure(folder / f"{STEM}.png", dpi=RESOLUTION, facecolor="white")


def _write_csv(found: Composition, path: Path) -> None:
    """One row per slice and tissue, then the means; areas in cm2, heights in RAS mm."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["level", "state", "slice", "z_mm", "tissue", "area_cm2", "mean_hu"])
        for one in sorted(found.slices, key=lambda s: s.slice.z_mm):
            for tissue in one.tissues:
                writer.writerow([found.level.name, found.state, one.slice.index, f"{one.slice.z_mm:.2f}", tissue.id,
                                 f"{tissue.area_cm2:.2f}", _text(tissue.mean_hu)])  # fmt: skip
        for tissue in found.tissues:
            writer.writerow([found.level.name, found.state, "mean", f"{found.level.z_mm:.2f}", tissue.id,
                             f"{tissue.area_cm2:.2f}", _text(tissue.mean_hu)])  # fmt: skip
        if not found.slices:
            writer.writerow([found.level.name, found.state, "", "", "", "", ""])


def _text(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else ""


def segmentation(found: Composition, image: sitk.Image) -> sitk.Image:
    """uint8 labels on the input's own grid, from the lowest to the highest measured slice, as Slicer's .seg.nrrd."""
    axis = slice_axis(image)
    indices = [one.slice.index for one in found.slices]
    start, size = [0, 0, 0], list(image.GetSize())
    start[axis], size[axis] = min(indices), max(indices) - min(indices) + 1
    block = sitk.Image(size, sitk.sitkUInt8)
    block.SetSpacing(image.GetSpacing())
    block.SetDirection(image.GetDirection())
    block.SetOrigin(image.TransformIndexToPhysicalPoint(start))
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    for one in found.slices:
        labels = sitk.GetImageFromArray(one.labels[None])
        labels.CopyInformation(one.slice.image)
        place = [0, 0, 0]
        place[axis] = one.slice.index - min(indices)
        block = sitk.Paste(block, sitk.DICOMOrient(labels, code), sitk.DICOMOrient(labels, code).GetSize(), [0, 0, 0],
                           place)  # fmt: skip
    tissues = [structure for structure in DRAWN if structure.group == "tissue"]
    describe_segments(block, [SegmentHeader(s.id, s.name, s.value, s.color, terminology(s)) for s in tissues])
    return block


def _picture(found: Composition) -> Figure:
    """The slice nearest to the level, bare and with tissues, and the numbers beside it."""
    one = found.central
    rows, columns = one.labels.shape
    body = np.argwhere(one.labels > 0)
    low, high = (body.min(0), body.max(0)) if len(body) else ((0, 0), (rows - 1, columns - 1))
    margin = [round(12 / mm) for mm in one.slice.spacing]
    box = tuple(slice(max(0, a - m), b + m + 1) for a, b, m in zip(low, high, margin, strict=True))
    gray = np.clip((one.slice.hu[box] + 160) / 400, 0, 1)
    aspect = one.slice.spacing[0] / one.slice.spacing[1]
    figure = Figure(figsize=(11.5, 0.5 + 4.3 * max(0.55, aspect * gray.shape[0] / gray.shape[1])))
    for k, labels in enumerate((None, one.labels[box])):
        axes = figure.add_axes((0.01 + 0.385 * k, 0.02, 0.375, 0.9))
        axes.imshow(gray, cmap="gray", aspect=aspect, vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.text(0.01, 0.5, "R", transform=axes.transAxes, color="white", va="center")
        axes.text(0.99, 0.5, "L", transform=axes.transAxes, color="white", va="center", ha="right")
        if labels is not None:
            _contours(axes, labels)
    figure.text(0.012, 0.945, _title(found, one), fontsize=10, weight="bold")
    _numbers(figure, found)
    return figure


def _contours(axes, labels: np.ndarray) -> None:
    for tissue in TISSUES:
        mask = labels == tissue.value
        if mask.any() and not mask.all():
            color = np.array(tissue.color) / 255
            axes.imshow(np.dstack([*(np.full(mask.shape, c) for c in color), mask * 0.3]), aspect=axes.get_aspect())
            axes.contour(mask, [0.5], colors=[color], linewidths=0.9)


def _title(found: Composition, one: SliceFound) -> str:
    sd = f" ± {found.level.sd_mm:.0f}" if found.span is None else ""
    return (f"{found.level.name} at {found.level.z_mm:.0f}{sd} mm, {len(found.slices)} slices measured, "
            f"shown: slice {one.slice.index}")  # fmt: skip


def _numbers(figure: Figure, found: Composition) -> None:
    y = 0.86
    for tissue, value in zip(TISSUES, found.tissues, strict=True):
        hu = f"{value.mean_hu:.0f} HU".replace("-", "−") if np.isfinite(value.mean_hu) else ""
        figure.text(0.785, y, tissue.name, color=np.array(tissue.color) / 255 * 0.8, weight="bold", fontsize=9)
        figure.text(0.785, y - 0.055, f"{value.area_cm2:.1f} cm²   {hu}", fontsize=9)
        y -= 0.135
    if found.muscle_index:
        figure.text(0.785, y, f"muscle index {found.muscle_index:.1f} cm²/m²", fontsize=9)
        y -= 0.07
    if found.range_cm2:
        low, high = found.range_cm2
        figure.text(
            0.785, y, f"muscle within the level's\nuncertainty: {low:.0f} to {high:.0f} cm²", fontsize=8, va="top"
        )
        y -= 0.13
    words = ", ".join(notice.code.replace("_", " ") for notice in found.notices)
    figure.text(0.785, y, f"{found.state}{': ' if words else ''}{words}", fontsize=8, wrap=True, va="top")
