"""The rapid-labeling loop: a model fills in the rest of a case, and what a person has marked stays as it was drawn."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.compute.engines import open_engine
from bpr.errors import InputError
from bpr.models import Bundle
from bpr.seed.between import fill_between
from bpr.seed.case import SeedCase
from bpr.seed.cases import drawn_labels
from bpr.seed.files import write_image
from bpr.seed.grid import grid_ct
from bpr.seed.marks import organs_by_slice
from bpr.seed.project import SeedProject
from bpr.seed.segments import Drawing, Segment, read_drawing
from bpr.segmentation.inference import segment_volume
from bpr.segmentation.labels import label_table, structure_by_id, structure_by_value, terminology_entry
from bpr.training.cases import OUTSIDE
from bpr.volume import read_volume, slice_axis


def propose(
    project: SeedProject,
    identifier: str,
    bundle: Bundle,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SeedCase:
    """Replace what is not marked in a case by the model's answer; marks and state stay.

    Segments that stand for no known organ are kept.

    Raises:
        InputError: the case is damaged, or the scan does not hold the bundle's region.
    """
    case = project.case(identifier)
    volume = read_volume(case.volume_path)
    grid = grid_ct(case.volume_path, project.folder / "cache", bundle.role == "region")
    if grid.slices_of(bundle) is None:
        raise InputError(f"The case {identifier} does not hold the region of {bundle.name}.", "Choose another model.")
    ends = [grid.heights[name] for name in bundle.regions if name in grid.heights]
    heights = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (-math.inf, math.inf)
    wanted = [structure_by_id(name).value for name in bundle.facts["structures"]]
    engine = open_engine(device="cpu")
    found = segment_volume(volume, {bundle: heights}, engine.predictor, wanted, progress)
    drawing, labels = None, sitk.GetArrayFromImage(found.labels)
    if case.segmentation_path:
        drawing = read_drawing(case.segmentation_path, {e["id"]: e["structure"] for e in case.segments})
        labels = merged(labels, wanted, drawing, case, volume.image)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "proposal.seg.nrrd"
        _write(path, labels, drawing, volume.image)
        return project.replace_segmentation(identifier, path, role="model", state=case.state)


def merged(labels: np.ndarray, wanted: list[int], drawing: Drawing, case: SeedCase, volume: sitk.Image) -> np.ndarray:
    """The model's labels (z, y, x), with the known organs of marked slices as the person drew them.

    Between marked slices the contours of the model's organs (label values ``wanted``) are moved as the corrections say,
    see bpr.seed.between.
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
        values = [structure_by_id(organ).value for organ in organs]
        result[here & np.isin(result, values)] = 0
        theirs = here & np.isin(drawn, values) & (drawn != OUTSIDE)
        result[theirs] = drawn[theirs]
    for name in set(drawing.structures) - {structure_by_value(int(v)).id for v in np.unique(along) if v}:
        value = structure_by_id(name).value  # an organ that the model does not know stays as drawn
        result[(drawn == value) & (result == 0)] = value
    return result


def _in_part(groups: dict[frozenset[str], np.ndarray], wanted: list[int]) -> dict[int, np.ndarray]:
    """Label value to the slices in which it is known, of those organs of the model that are known in some only."""
    known: dict[int, np.ndarray] = {}
    for organs, slices in groups.items():
        for organ in organs:
            value = structure_by_id(organ).value
            known[value] = known.get(value, np.zeros(len(slices), bool)) | slices
    return {value: slices for value, slices in known.items() if value in wanted and not slices.all()}


def _write(path: Path, labels: np.ndarray, drawing: Drawing | None, volume: sitk.Image) -> None:
    """A .seg.nrrd: organs in the first layer, every other segment of the person in a layer of its own."""
    layers, entries = [labels.astype(np.uint8)], []
    for structure in label_table():
        if (labels == structure.value).any():
            tags = f"TerminologyEntry:{terminology_entry(structure)}|"
            entries.append(
                (Segment(structure.id, structure.name, 0, structure.value, structure.id), tags, structure.color)
            )
    for segment in drawing.segments if drawing else ():
        if not segment.structure:
            own = sitk.Resample(drawing.layers[segment.layer], volume, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
            layers.append((sitk.GetArrayFromImage(own) == segment.label).astype(np.uint8))
            moved = Segment(segment.id, segment.name, len(layers) - 1, 1, "")
            entries.append((moved, "", (1.0, 0.8, 0.2)))
    images = [sitk.GetImageFromArray(layer) for layer in layers]
    image = sitk.Compose(images) if len(images) > 1 else images[0]
    image.CopyInformation(volume)
    extent = " ".join(f"0 {n - 1}" for n in volume.GetSize())
    for k, (segment, tags, color) in enumerate(entries):
        fields = {"ID": segment.id, "Name": segment.name, "Layer": str(segment.layer), "Extent": extent,
                  "LabelValue": str(segment.label), "Tags": tags, "NameAutoGenerated": "0", "ColorAutoGenerated": "0",
                  "Color": " ".join(f"{channel:.6f}" for channel in color)}  # fmt: skip
        for field, value in fields.items():
            image.SetMetaData(f"Segment{k}_{field}", value)
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    image.SetMetaData("Segmentation_SourceRepresentation", "Binary labelmap")
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    write_image(image, path)
