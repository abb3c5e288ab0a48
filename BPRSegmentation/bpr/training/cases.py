"""Labeled cases as arrays: cached on one grid, what is known of each, and where its slices lie on the ruler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.segmentation.grid import GRID_MM
from bpr.segmentation.labels import label_table, structure_by_id
from bpr.training.dataset import Case, first_slice_height
from bpr.training.ruler import Observation, Ruler, dense_target
from bpr.volume import canonical

CASE_MM = 3.0  # the labels' own voxels: patches are interpolated from these once
HIDDEN_MM = 30.0  # about the course of a structure that is contoured in part
OUTSIDE = 255  # label of voxels that no one has looked at: padding and slices beyond the label map


@dataclass(frozen=True)
class LabeledCase:
    """One case on a grid along the patient's axes.

    Attributes:
        hu, labels: (z, y, x) int16 and uint8, cropped to the body; labels hold label-table values or OUTSIDE.
        known: (structures + 1,) bool by label value: labeled or certainly absent in this case.
        place: (z,) ruler position of each slice in mm, NaN when the case has no landmarks.
        voxels: label value to flat indices of (some of) its voxels.
        step_mm: edge of a voxel.
    """

    id: str
    hu: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    place: np.ndarray
    voxels: dict[int, np.ndarray]
    step_mm: float = GRID_MM


def load_cases(cases: list[Case], observations: list[Observation], ruler: Ruler, cache: Path) -> list[LabeledCase]:
    """All cases that have labels, on a grid of 3 mm; the resampled arrays are cached."""
    cache.mkdir(parents=True, exist_ok=True)
    loaded = []
    for case in cases:
        if case.labels is None:
            continue
        file = cache / f"{case.id}_{CASE_MM:g}mm.npz"
        if not file.exists():
            np.savez_compressed(file, **_on_grid(case))
        stored = np.load(file)
        target = dense_target([o for o in observations if o.scan == case.id], stored["z"], ruler)
        place = np.full(len(stored["z"]), np.nan) if target is None else target[0]
        loaded.append(_labeled_case(case, stored["hu"], stored["labels"], place))
    return loaded


def read_labels(case: Case) -> sitk.Image:
    """The labels of a case as values of the label table, on the labels' own grid, axes along the patient's (LPS)."""
    labels = sitk.DICOMOrient(sitk.ReadImage(str(case.labels)), "LPS")
    if case.values:
        names = {value: structure_by_id(name).value for value, name in case.values.items()}
        labels = sitk.ChangeLabel(sitk.Cast(labels, sitk.sitkUInt8), {float(k): float(v) for k, v in names.items()})
    return labels


def _on_grid(case: Case) -> dict[str, np.ndarray]:
    """CT and labels of one case on an isotropic grid (the labels' own where it fits), cropped to the body."""
    ct, labels = sitk.ReadImage(str(case.path)), read_labels(case)
    if not np.allclose(labels.GetSpacing(), CASE_MM, atol=1e-3):
        grid = canonical(ct, (CASE_MM,) * 3, -1024)
        labels = sitk.Resample(labels, grid, sitk.Transform(), sitk.sitkNearestNeighbor, OUTSIDE, sitk.sitkUInt8)
    hu = sitk.Resample(ct, labels, sitk.Transform(), sitk.sitkLinear, -1024, sitk.sitkFloat32)
    covered = sitk.Resample(_ones(ct), labels, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    hu = np.clip(sitk.GetArrayFromImage(hu), -1024, 3000).astype(np.int16)
    values = np.where(sitk.GetArrayFromImage(covered) > 0, sitk.GetArrayFromImage(labels), OUTSIDE).astype(np.uint8)
    for name in case.hint.get("partial", []):
        _hide_beyond(values, structure_by_id(name).value)
    inside = np.argwhere(hu > -300)
    box = tuple(slice(low, high + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True))
    z = labels.GetOrigin()[2] + labels.GetSpacing()[2] * np.arange(len(hu)) - first_slice_height(case.path)
    return {"hu": hu[box], "labels": values[box], "z": z[box[0]]}


def _ones(image: sitk.Image) -> sitk.Image:
    covered = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    covered.CopyInformation(image)
    return covered


def _hide_beyond(labels: np.ndarray, value: int) -> None:
    """Where a long structure goes on beyond its contoured part, what surrounds its course is unknown, not background.

    Around the last contour's middle, background within HIDDEN_MM becomes OUTSIDE in all slices beyond.
    """
    slices = np.flatnonzero((labels == value).any((1, 2)))
    if not len(slices):
        return
    y, x = np.indices(labels.shape[1:])
    for end, beyond in ((slices[0], slice(0, slices[0])), (slices[-1], slice(slices[-1] + 1, None))):
        middle = np.argwhere(labels[end] == value).mean(0)
        near = np.hypot(y - middle[0], x - middle[1]) * CASE_MM < HIDDEN_MM
        part = labels[beyond]
        part[(part == 0) & near] = OUTSIDE


def _labeled_case(case: Case, hu: np.ndarray, labels: np.ndarray, place: np.ndarray) -> LabeledCase:
    known = np.zeros(len(label_table()) + 1, bool)
    known[0] = True
    absent = [text.split(" ")[0] for text in case.hint["absent"]]
    ids = {structure.id for structure in label_table()}
    for name in [*case.hint["labelled"], *(name for name in absent if name in ids)]:
        known[structure_by_id(name).value] = True
    voxels = {int(v): np.flatnonzero(labels == v)[::3] for v in np.unique(labels) if v not in (0, OUTSIDE)}
    return LabeledCase(case.id, hu, labels, known, place, voxels, CASE_MM)


def crop_to_interval(case: LabeledCase, low_mm: float, high_mm: float) -> LabeledCase | None:
    """The part of a case between two ruler positions; None when less than 40 mm of it lies there."""
    slices = np.flatnonzero((case.place >= low_mm) & (case.place <= high_mm))
    if len(slices) * case.step_mm < 40:
        return None
    keep = slice(slices[0], slices[-1] + 1)
    labels = case.labels[keep]
    voxels = {v: np.flatnonzero(labels == v)[::3] for v in case.voxels}
    voxels = {v: index for v, index in voxels.items() if len(index)}
    return LabeledCase(case.id, case.hu[keep], labels, case.known, case.place[keep], voxels, case.step_mm)
