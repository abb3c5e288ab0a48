"""From a corrected case to training labels: only what is marked teaches, everything else is unknown.

Slices of one case can differ in which organs are known in them. The case then becomes several labeled parts that share
their voxels, one for each set of known organs, so that the loss needs to know of one set only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.errors import InputError
from bpr.models import Bundle
from bpr.seed.case import SeedCase
from bpr.seed.files import read_image
from bpr.seed.grid import GridCT, grid_ct
from bpr.seed.marks import organs_by_slice
from bpr.seed.segments import Drawing, read_stored, reference_geometry
from bpr.seed.taught import find_structure
from bpr.segmentation.grid import GRID_MM
from bpr.segmentation.labels import label_table, structure_by_id
from bpr.training.cases import OUTSIDE, LabeledCase
from bpr.volume import slice_axis


@dataclass(frozen=True)
class TeachingCase:
    """A case as training and evaluation see it: ``parts`` share ``hu``; labels are OUTSIDE where nothing is known."""

    id: str
    patient: str
    domain: str
    hu: np.ndarray
    parts: tuple[LabeledCase, ...]

    @property
    def shown(self) -> int:
        """How many organs have voxels, summed over the parts."""
        return sum(len(part.voxels) for part in self.parts)


def teaching_case(case: SeedCase, bundle: Bundle, cache: Path, organs: tuple[str, ...] = ()) -> TeachingCase:
    """The marked labels of a case in the part that the bundle's network sees.

    Args:
        organs: structure IDs to learn; empty means all that the bundle knows.

    Raises:
        InputError: the case is damaged, nothing of it is marked there, or its labels do not match the bundle.
    """
    wanted = wanted_structures(case, bundle, set(bundle.facts["structures"]), organs)
    grid = grid_ct(case.volume_path, cache, bundle.role == "region")
    seen = grid.slices_of(bundle)
    advice = f"Mark slices of the {bundle.slot}, or start from another model."
    if seen is None:
        raise InputError(f"The case {case.id} does not hold the region of {bundle.name}.", advice)
    labels, group, sets = labels_on(grid, case)
    parts = _parts(case.id, grid.hu[seen], labels[seen], group[seen], sets, wanted)
    if not parts:
        raise InputError(f"Nothing is marked in the part of {case.id} that {bundle.name} sees.", advice)
    return TeachingCase(case.id, case.patient, case.domain, grid.hu[seen], parts)


def wanted_structures(case: SeedCase, bundle: Bundle, known: set[str], organs: tuple[str, ...]) -> set[str]:
    """IDs of what a bundle, which knows ``known``, shall learn: ``organs``, or all of it when there are none.

    Raises:
        InputError: the case has none of them.
    """
    wanted = known & set(organs) if organs else known
    named = set(case.structures) | {organ for mark in case.marks for organ in mark.organs}
    if not named & wanted:
        raise InputError(
            f"The labels of {case.id} do not match the model {bundle.name}: "
            f"it segments none of {', '.join(sorted(named)) or 'them'}.",
            "Start from a model that knows these organs, or exclude the case.",
        )
    return wanted


def labels_on(grid: GridCT, case: SeedCase) -> tuple[np.ndarray, np.ndarray, list[frozenset[str]]]:
    """Labels and the number of the known set of every voxel on the networks' grid.

    A marked slice teaches the grid's planes within half a grid step of it, from its own voxels, however thin it is.

    Returns:
        (z, y, x) uint8 label-table values (OUTSIDE where drawings overlap or end), (z, y, x) uint8 1-based index into
        the list of known sets (0: nothing is marked there).
    """
    volume = read_image(case.volume_path)
    drawing = read_stored(case)
    reference = reference_geometry(case.segmentation_path) if drawing.outside_is_background else None
    groups = organs_by_slice(case.marks, volume.GetSize()[slice_axis(volume)], drawing.structures)
    marked, normal, step = _marked(volume, list(groups.values()))
    target = grid.empty()
    labels = np.full(grid.hu.shape, OUTSIDE, np.uint8)
    group = np.zeros(grid.hu.shape, np.uint8)
    reach = max((GRID_MM - step) / 2, 0)  # a slice is half a step thick already
    for shift in sorted({s * side for s in (*np.arange(0, reach, step), reach) for side in (-1, 1)}, key=abs):
        move = sitk.TranslationTransform(3, (shift * normal).tolist())
        here = sitk.GetArrayFromImage(sitk.Resample(marked, target, move, sitk.sitkNearestNeighbor, 0))
        new = (here > 0) & (group == 0)
        if new.any():
            labels[new] = drawn_labels(drawing, reference, target, move)[new]
            group[new] = here[new]
    return labels, group, list(groups)


def _marked(volume: sitk.Image, groups: list[np.ndarray]) -> tuple[sitk.Image, np.ndarray, float]:
    """An image with the 1-based group of every slice, the slices' LPS normal, and their distance in mm."""
    axis = slice_axis(volume)
    of_slice = np.zeros(volume.GetSize()[axis], np.uint8)
    for number, slices in enumerate(groups, 1):
        of_slice[slices] = number
    shape = [1, 1, 1]
    shape[2 - axis] = -1
    marked = sitk.GetImageFromArray(np.broadcast_to(of_slice.reshape(shape), volume.GetSize()[::-1]).copy())
    marked.CopyInformation(volume)
    normal = np.array(volume.GetDirection()).reshape(3, 3)[:, axis]
    return marked, normal, volume.GetSpacing()[axis]


def drawn_labels(
    drawing: Drawing, reference: sitk.Image | None, target: sitk.Image, move: sitk.Transform | None = None
) -> np.ndarray:
    """(z, y, x) uint8 label-table values on ``target``; OUTSIDE where two known organs overlap or the drawing ends."""
    move = move or sitk.Transform(3, sitk.sitkIdentity)
    labels = np.zeros(target.GetSize()[::-1], np.uint8)
    for k, layer in enumerate(drawing.layers):
        values = sitk.GetArrayFromImage(sitk.Resample(layer, target, move, sitk.sitkNearestNeighbor, 0))
        for segment in drawing.segments:
            if segment.layer == k and segment.structure:
                mask = values == segment.label
                labels[mask & (labels != 0)] = OUTSIDE
                labels[mask & (labels == 0)] = find_structure(segment.structure).value
    ground = reference if drawing.outside_is_background else drawing.layers[0]
    if ground is not None:
        covered = sitk.Image(ground.GetSize(), sitk.sitkUInt8) + 1
        covered.CopyInformation(ground)
        there = sitk.GetArrayFromImage(sitk.Resample(covered, target, move, sitk.sitkNearestNeighbor, 0))
        labels[there == 0] = OUTSIDE
    return labels


def _parts(name, hu, labels, group, sets, wanted: set[str]) -> tuple[LabeledCase, ...]:
    """One labeled part for each known set that has voxels here."""
    parts = []
    for number, organs in enumerate(sets, 1):
        chosen = organs & wanted
        here = group == number
        if not chosen or not here.any():
            continue
        keep = np.zeros(256, np.uint8)
        values = [structure_by_id(organ).value for organ in chosen]
        keep[values], keep[OUTSIDE] = values, OUTSIDE  # an organ that is not asked about is "none of those"
        parts.append(labeled_part(name, hu, np.where(here, keep[labels], OUTSIDE).astype(np.uint8), chosen))
    return tuple(parts)


def labeled_part(name: str, hu: np.ndarray, labels: np.ndarray, organs) -> LabeledCase:
    """A labeled case in which only ``organs`` (structure IDs) are known."""
    known = np.zeros(len(label_table()) + 1, bool)
    known[[0, *(structure_by_id(organ).value for organ in organs)]] = True
    voxels = {int(v): np.flatnonzero(labels == v)[::3] for v in np.unique(labels) if v not in (0, OUTSIDE)}
    return LabeledCase(name, hu, labels, known, np.full(len(hu), np.nan), voxels)
