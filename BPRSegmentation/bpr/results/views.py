"""Sections through a volume for looking at: small, along the patient's axes, head up, patient right on the left."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from bpr.volume import canonical

FINEST_MM, LONGEST_PIXELS = 1.6, 420
BODY_HU = -400.0
# Gray by HU: a little detail in lung, most of the range for soft tissue, the rest for bone.
WINDOW_HU, WINDOW_GRAY = (-1000, -300, -150, 250, 1200), (0.0, 0.06, 0.16, 0.68, 1.0)


@dataclass(frozen=True)
class Section:
    """A picture with true proportions.

    Attributes:
        gray: (rows, columns) 0..1; row 0 is the lowest (coronal, sagittal) or the front (axial).
        labels: (rows, columns) label values, or None.
        extent: left, right, bottom, top in mm, RAS superior on the vertical axis of coronal and sagittal sections.
        plane: "coronal", "sagittal" or "axial".
    """

    gray: np.ndarray
    labels: np.ndarray | None
    extent: tuple[float, float, float, float]
    plane: str


@dataclass(frozen=True)
class SmallVolume:
    """The volume on a coarse grid along the patient's axes: HU and labels (z up, y back, x left), places in mm."""

    hu: np.ndarray
    labels: np.ndarray | None
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]

    def section(self, plane: str, index: int, half_slab: int = 0) -> Section:
        """The section through voxel ``index``; ``half_slab`` voxels on both sides are averaged."""
        axis = {"axial": 0, "coronal": 1, "sagittal": 2}[plane]
        first, last = max(0, index - half_slab), min(self.hu.shape[axis], index + half_slab + 1)
        hu = self.hu.take(range(first, last), axis).mean(axis)
        labels = None if self.labels is None else self.labels.take(index, axis)
        across, up = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
        ends = [(self.origin[k] - self.spacing[k] / 2, self.spacing[k]) for k in (across, up)]
        (left, dx), (bottom, dy) = ends
        extent = (left, left + dx * hu.shape[1], bottom, bottom + dy * hu.shape[0])
        if plane == "axial":
            extent = (*extent[:2], extent[3], extent[2])
        return Section(np.interp(hu, WINDOW_HU, WINDOW_GRAY), labels, extent, plane)

    def body_center(self) -> tuple[int, int, int]:
        """Index (z, y, x) of the middle of what is denser than lung; the volume's middle when there is nothing."""
        body = self.hu > BODY_HU
        if not body.any():
            return tuple(n // 2 for n in self.hu.shape)
        center = []
        for axis in range(3):
            weight = np.cumsum(body.sum(tuple(other for other in range(3) if other != axis)))
            center.append(int(np.searchsorted(weight, weight[-1] / 2)))
        return tuple(center)

    def richest(self, plane: str) -> int:
        """Index of the section that shows most structures, among equals the one with most labeled voxels."""
        axis = {"axial": 0, "coronal": 1, "sagittal": 2}[plane]
        flat = np.moveaxis(self.labels, axis, 0).reshape(self.labels.shape[axis], -1)
        counts = np.stack([np.bincount(row, minlength=256)[1:256] for row in flat])
        shown = (counts > 12).sum(1)
        return int(np.lexsort((counts.sum(1), shown))[-1])


def landmark_words(name: str) -> str:
    """A landmark's name as people write it: ``t12_l1`` -> "T12/L1", ``l3_center`` -> "L3 center"."""
    words = re.sub(r"\b([ctls]\d+)_([ctls]\d+)\b", r"\1/\2", name).replace("_", " ")
    return re.sub(r"\b[ctls]\d+\b", lambda match: match.group().upper(), words)


def small_volume(image: sitk.Image, labels: sitk.Image | None = None) -> SmallVolume:
    """Shrink a volume of any orientation to at most about ``LONGEST_PIXELS`` per side; needs little memory."""
    extent = np.array(image.GetSize()) * image.GetSpacing()
    step = max(FINEST_MM, float(extent.max()) / LONGEST_PIXELS)
    factors = [max(1, int(step / spacing + 1e-3)) for spacing in image.GetSpacing()]
    factors = [min(factor, size) for factor, size in zip(factors, image.GetSize(), strict=True)]
    grid = canonical(sitk.BinShrink(image, factors) if max(factors) > 1 else image, (step,) * 3)
    small_labels = None
    if labels is not None:
        fitted = sitk.Resample(labels, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
        small_labels = sitk.GetArrayFromImage(fitted)
    return SmallVolume(sitk.GetArrayFromImage(grid), small_labels, grid.GetOrigin(), grid.GetSpacing())
