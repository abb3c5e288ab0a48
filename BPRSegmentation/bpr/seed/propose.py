"""The rapid-labeling loop: a model fills in the rest of a case, and what a person has marked stays as it was drawn."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.body_composition.files import segmentation
from bpr.body_composition.job import VERTEBRAE, Composition, CompositionRequest, measure_composition
from bpr.body_composition.tissues import ROLE, terminology
from bpr.compute.engines import open_engine
from bpr.errors import InputError
from bpr.models import Bundle, choose_bundles
from bpr.results.seg_nrrd import SegmentHeader, describe_segments
from bpr.scoring.inference import score_volume
from bpr.seed.between import fill_between
from bpr.seed.case import SeedCase
from bpr.seed.cases import drawn_labels
from bpr.seed.files import write_image
from bpr.seed.grid import grid_ct
from bpr.seed.marks import organs_by_slice
from bpr.seed.project import SeedProject
from bpr.seed.segments import Drawing, read_stored
from bpr.seed.taught import find_structure, table_of
from bpr.segmentation.inference import segment_volume
from bpr.segmentation.labels import Structure, structure_by_id
from bpr.training.cases import OUTSIDE
from bpr.volume import Volume, read_volume, slice_axis

OWN_COLOR = (1.0, 0.8, 0.2)  # of segments that stand for nothing in the label table


def propose(
    project: SeedProject,
    identifier: str,
    bundle: Bundle,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SeedCase:
    """Replace what is not marked in a case by the model's answer; marks and state stay.

    Segments that stand for no known organ are kept.

    Raises:
        InputError: the case is damaged, or the scan does not hold the bundle's region, or L3.
    """
    case = project.case(identifier)
    volume = read_volume(case.volume_path)
    labels, wanted = (
        _tissues(case, volume, bundle) if bundle.role == ROLE else _organs(project, case, volume, bundle, progress)
    )
    drawing = read_stored(case) if case.segmentation_path else None
    if drawing:
        labels = merged(labels, wanted, drawing, case, volume.image)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "proposal.seg.nrrd"
        _write(path, labels, table_of(bundle), drawing, volume.image)
        return project.replace_segmentation(identifier, path, role="model", state=case.state)


def _organs(
    project: SeedProject, case: SeedCase, volume: Volume, bundle: Bundle, progress: Callable[[int, int], None]
) -> tuple[np.ndarray, list[int]]:
    """The model's labels (z, y, x) in its region, and the label values of its organs."""
    grid = grid_ct(case.volume_path, project.folder / "cache", bundle.role == "region")
    if grid.slices_of(bundle) is None:
        raise InputError(f"The case {case.id} does not hold the region of {bundle.name}.", "Choose another model.")
    ends = [grid.heights[name] for name in bundle.regions if name in grid.heights]
    heights = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (-math.inf, math.inf)
    wanted = [structure_by_id(name).value for name in bundle.facts["structures"]]
    found = segment_volume(volume, {bundle: heights}, open_engine(device="cpu").predictor, wanted, progress)
    return sitk.GetArrayFromImage(found.labels), wanted


def _tissues(case: SeedCase, volume: Volume, bundle: Bundle) -> tuple[np.ndarray, list[int]]:
    """The model's labels (z, y, x) on the slices about L3; no label values: contours are not moved between slices."""
    found = composition_of(volume, bundle)
    if not found.slices:
        raise InputError(f"L3 was not found in the case {case.id}: {found.notices[0].message}",
                         "Draw and mark slices yourself, or choose another scan.")  # fmt: skip
    block = segmentation(found, volume.image)
    full = sitk.Image(volume.image.GetSize(), sitk.sitkUInt8)
    full.CopyInformation(volume.image)
    place = full.TransformPhysicalPointToIndex(block.GetOrigin())
    return sitk.GetArrayFromImage(sitk.Paste(full, block, block.GetSize(), [0, 0, 0], place)), []


def composition_of(volume: Volume, bundle: Bundle) -> Composition:
    """The measurement at L3 by this bundle; score curve and vertebrae by the models in use."""
    engine, used = open_engine(device="cpu"), choose_bundles([])
    curve = score_volume(volume, used["score"], engine.predictor(used["score"]))
    count = engine.predictor(used[VERTEBRAE]) if VERTEBRAE in used else None
    return measure_composition(volume, curve, engine.predictor(bundle), count, CompositionRequest())


def merged(labels: np.ndarray, wanted: list[int], drawing: Drawing, case: SeedCase, volume: sitk.Image) -> np.ndarray:
    """The model's labels (z, y, x), with the known organs of marked slices as the person drew them.

    Between marked slices the contours of those organs whose label values are ``wanted`` are moved as the corrections
    say, see bpr.seed.between.
    """
    drawn = drawn_labels(drawing, None, volume)
    axis = 2 - slice_axis(volume)
    groups = organs_by_slice(case.marks, drawn.shape[axis], drawing.structures)
    spacing = volume.GetSpacing()[::-1]
    order = [axis, *(k for k in range(3) if k != axis)]
    along = fill_between(labels.transpose(order), drawn.transpose(order), _in_part(groups, wanted),
                         tuple(spacing[k] for k in order))  # fmt: skip
    result = along.transpose(np.argsort(order)).copy()
    for organs, slices in groups.items():
        here = np.zeros(drawn.shape, bool)
        np.moveaxis(here, axis, 0)[slices] = True
        values = [find_structure(organ).value for organ in organs]
        result[here & np.isin(result, values)] = 0
        theirs = here & np.isin(drawn, values) & (drawn != OUTSIDE)
        result[theirs] = drawn[theirs]
    for value in {find_structure(name).value for name in drawing.structures} - set(np.unique(along).tolist()):
        result[(drawn == value) & (result == 0)] = value  # what the model does not know stays as drawn
    return result


def _in_part(groups: dict[frozenset[str], np.ndarray], wanted: list[int]) -> dict[int, np.ndarray]:
    """Label value to the slices in which it is known, of those organs of the model that are known in some only."""
    known: dict[int, np.ndarray] = {}
    for organs, slices in groups.items():
        for organ in organs:
            value = find_structure(organ).value
            known[value] = known.get(value, np.zeros(len(slices), bool)) | slices
    return {value: slices for value, slices in known.items() if value in wanted and not slices.all()}


def _write(
    path: Path, labels: np.ndarray, table: tuple[Structure, ...], drawing: Drawing | None, volume: sitk.Image
) -> None:
    """A .seg.nrrd: the table's structures in the first layer, every other segment of the person in one of its own."""
    layers = [labels.astype(np.uint8)]
    headers = [
        SegmentHeader(one.id, one.name, one.value, one.color, terminology(one))
        for one in table if (labels == one.value).any()
    ]  # fmt: skip
    for segment in drawing.segments if drawing else ():
        if not segment.structure:
            own = sitk.Resample(drawing.layers[segment.layer], volume, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
            headers.append(SegmentHeader(segment.id, segment.name, 1, OWN_COLOR, layer=len(layers)))
            layers.append((sitk.GetArrayFromImage(own) == segment.label).astype(np.uint8))
    images = [sitk.GetImageFromArray(layer) for layer in layers]
    image = sitk.Compose(images) if len(images) > 1 else images[0]
    image.CopyInformation(volume)
    describe_segments(image, headers)
    write_image(image, path)
