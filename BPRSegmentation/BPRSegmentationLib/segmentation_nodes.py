"""The segmentation file as a segmentation node that follows its volume."""

from __future__ import annotations

from pathlib import Path

import slicer

from bpr.models import domain_models
from bpr.segmentation.labels import label_table

from .nrrd_check import complete
from .result_folder import ResultError


def add_segmentation(scene, volume_node):
    """An empty segmentation node named after the volume."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume_node.GetName()} segmentation")
    node.CreateDefaultDisplayNodes()
    return node


def our_segment_ids() -> set[str]:
    """IDs of the label table and of the installed models' own; all others in a segmentation are the person's own."""
    others = {name for bundle in domain_models() for name in bundle.facts["structures"]}
    return {structure.id for structure in label_table()} | others


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
    _remove_ours(segmentation)
    identifiers = list(fresh.GetSegmentIDs())
    for identifier in identifiers:
        segmentation.AddSegment(_taken_from(fresh.GetSegment(identifier)), identifier)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    return identifiers


def _remove_ours(segmentation) -> None:
    """Remove the segments of the label table; a person's own segments get label maps of their own before.

    Removing a segment erases its voxels from the label map that it shares with others, which takes a fifth of a second
    for each segment of a large scan; without a representation there is nothing to erase.
    """
    ours = our_segment_ids().intersection(segmentation.GetSegmentIDs())
    if not ours:
        return
    for identifier in set(segmentation.GetSegmentIDs()) - ours:
        segmentation.SeparateSegmentLabelmap(identifier)
    for identifier in ours:
        segmentation.GetSegment(identifier).RemoveAllRepresentations()
        segmentation.RemoveSegment(identifier)


def _taken_from(source):
    """A new segment with everything of another one, which keeps no voxels: all go on sharing one label map."""
    segment, name = slicer.vtkSegment(), slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    segment.DeepCopyMetadata(source)
    segment.SetLabelValue(source.GetLabelValue())
    segment.AddRepresentation(name, source.GetRepresentation(name))
    source.RemoveAllRepresentations()
    return segment


def _read(scene, path: Path):
    if not complete(path):
        raise ResultError(f"{path.name} is damaged. Run again.")
    node = scene.AddNode(slicer.vtkMRMLSegmentationNode())
    storage = scene.AddNode(slicer.vtkMRMLSegmentationStorageNode())
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise ResultError(f"{path.name} cannot be read as a segmentation.")
    return node
