"""The segmentation file as a segmentation node that follows its volume."""

from __future__ import annotations

from pathlib import Path

import slicer

from bpr.segmentation.labels import label_table

from .nrrd_check import complete
from .result_folder import ResultError


def add_segmentation(scene, volume_node):
    """An empty segmentation node named after the volume."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume_node.GetName()} segmentation")
    node.CreateDefaultDisplayNodes()
    return node


def our_segment_ids() -> set[str]:
    """IDs that belong to the label table; all others in a segmentation are the person's own."""
    return {structure.id for structure in label_table()}


def fill_segmentation(node, path: Path, volume_node) -> list[str]:
    """Read ``path`` (.seg.nrrd) into ``node`` and tie it to its volume.

    Segments of the label table are replaced, those that a person added are kept. IDs, names, colors and terms are
    those of the file.

    Returns:
        The IDs of the segments that were read.

    Raises:
        ResultError: when the file cannot be read as a segmentation.
    """
    scratch = slicer.vtkMRMLScene()  # reading in the person's scene would show half a segmentation
    fresh = _read(scratch, path).GetSegmentation()
    # Reference first: it is the geometry in which segments are kept and edited.
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), volume_node.GetID())
    segmentation = node.GetSegmentation()
    for identifier in our_segment_ids().intersection(segmentation.GetSegmentIDs()):
        segmentation.RemoveSegment(identifier)
    identifiers = list(fresh.GetSegmentIDs())
    if segmentation.GetNumberOfSegments() == 0:
        # Keeps all segments in one shared label map, as in the file: a copy segment by segment would not.
        segmentation.DeepCopy(fresh)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    else:
        for identifier in identifiers:
            segmentation.CopySegmentFromSegmentation(fresh, identifier)
    return identifiers


def _read(scene, path: Path):
    if not complete(path):
        raise ResultError(f"{path.name} is damaged. Run again.")
    node = scene.AddNode(slicer.vtkMRMLSegmentationNode())
    storage = scene.AddNode(slicer.vtkMRMLSegmentationStorageNode())
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise ResultError(f"{path.name} cannot be read as a segmentation.")
    return node
