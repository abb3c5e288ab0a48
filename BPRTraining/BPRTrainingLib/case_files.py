"""A volume and its segmentation from the scene to files, and a case back into the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonMath import vtkMatrix4x4
from vtkmodules.vtkCommonTransforms import vtkGeneralTransform, vtkTransform

CASE, PROJECT = "BodyPartRegression.seedCase", "BodyPartRegression.seedProject"  # attributes of a loaded case
TAGS = {"Modality": "0008,0060", "Manufacturer": "0008,0070", "ManufacturerModelName": "0008,1090",
        "ConvolutionKernel": "0018,1210", "KVP": "0018,0060", "SliceThickness": "0018,0050"}  # fmt: skip


class CaseError(Exception):
    """A case cannot be taken from the scene or shown there. The message is one sentence for the person."""


def write_case(volume_node, segmentation_node, folder: Path) -> tuple[Path, Path | None]:
    """Write the nodes as ``volume.nrrd`` and ``segmentation.seg.nrrd``, both in the volume's own space.

    Where the segmentation has another parent transform than the volume, the difference goes into the file, so that
    both lie upon each other as they do in the views. File names are fixed: node names often hold patients' names.

    Raises:
        CaseError: no volume or voxels, no segment, a non-linear transform, a disk that cannot be written.
    """
    check_volume(volume_node)
    if segmentation_node is not None and segmentation_node.GetSegmentation().GetNumberOfSegments() == 0:
        raise CaseError("The segmentation is empty: it has no segment.")
    volume = folder / "volume.nrrd"
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(volume))
    storage.SetUseCompression(False)
    if not storage.WriteData(volume_node):
        raise CaseError(f"The volume cannot be written to {folder}; is the disk full?")
    if segmentation_node is None:
        return volume, None
    return volume, write_segmentation(segmentation_node, volume_node, folder)


def write_segmentation(segmentation_node, volume_node, folder: Path) -> Path:
    """Write a segmentation in the volume's own space. Raises CaseError."""
    path = folder / "segmentation.seg.nrrd"
    scratch = slicer.vtkMRMLScene()  # a copy in the person's scene would flicker in the views
    copy = scratch.AddNewNodeByClass("vtkMRMLSegmentationNode")
    copy.GetSegmentation().DeepCopy(segmentation_node.GetSegmentation())
    matrix = _between(segmentation_node, volume_node)
    if matrix is not None:
        transform = vtkTransform()
        transform.SetMatrix(matrix)
        copy.ApplyTransform(transform)
    if not _has_labels(copy):
        raise CaseError("The segmentation holds surfaces only; convert it to a binary labelmap first.")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scratch.AddNode(storage)
    storage.SetFileName(str(path))
    if not storage.WriteData(copy):
        raise CaseError(f"The segmentation cannot be written to {folder}; is the disk full?")
    return path


def check_volume(volume_node) -> None:
    """Raises CaseError for a volume that cannot be a case."""
    if volume_node is None:
        raise CaseError("Choose a CT volume.")
    image = volume_node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise CaseError("The volume has no voxels.")
    _check_linear(volume_node)


def _check_linear(node) -> None:
    transform = node.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise CaseError(f"{node.GetName()} has a non-linear transform; harden it in the Transforms module first.")


def _between(segmentation_node, volume_node) -> vtkMatrix4x4 | None:
    """From the segmentation's own space to the volume's; None when they are the same."""
    ours, theirs = segmentation_node.GetParentTransformNode(), volume_node.GetParentTransformNode()
    if ours is theirs:
        return None
    _check_linear(segmentation_node)
    matrix = vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(ours, theirs, matrix)
    return matrix


def _has_labels(segmentation_node) -> bool:
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    return bool(segmentation_node.GetSegmentation().CreateRepresentation(name))


def domain_of_node(volume_node) -> str:
    """Scanner and protocol of a volume that was loaded from DICOM, without names; "" for others."""
    from bpr.seed.domain import domain_words

    identifiers = (volume_node.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not identifiers or database is None:
        return ""
    return domain_words({name: database.instanceValue(identifiers[0], tag) for name, tag in TAGS.items()})


def current_slice(volume_node, slice_node) -> int:
    """Index, along the volume's slice axis, of the slice that a slice view shows. Raises CaseError outside of it."""
    matrix, place = slice_node.GetSliceToRAS(), np.ones(4)
    place[:3] = [matrix.GetElement(row, 3) for row in range(3)]
    to_node = vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, volume_node.GetParentTransformNode(), to_node)
    place[:3] = to_node.TransformPoint(place[:3])
    to_ijk = vtkMatrix4x4()
    volume_node.GetRASToIJKMatrix(to_ijk)
    ijk = to_ijk.MultiplyPoint(place)
    axis = slice_axis(volume_node)
    index = round(ijk[axis])
    if not 0 <= index < volume_node.GetImageData().GetDimensions()[axis]:
        raise CaseError("The red view shows a place outside of the volume.")
    return index


def slice_axis(volume_node) -> int:
    """Index axis closest to superior-inferior, as bpr.volume.slice_axis says of the file."""
    matrix = vtkMatrix4x4()
    volume_node.GetIJKToRASDirectionMatrix(matrix)
    return int(np.argmax([abs(matrix.GetElement(2, column)) for column in range(3)]))


def load_case(scene, case, project: Path):
    """A stored case as a volume and a segmentation node; nodes of it that are in the scene are taken again.

    Returns:
        (volume node, segmentation node). A case without labels gets an empty segmentation.

    Raises:
        CaseError: a file cannot be read.
    """
    segmentation = loaded_segmentation(scene, case.id, project)
    if segmentation is not None:
        reference = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
        if reference is not None:
            return reference, segmentation
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", case.id)
    _read(scene, "vtkMRMLVolumeArchetypeStorageNode", case.volume_path, volume)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{case.id} segmentation")
    if case.segmentation_path and case.segmentation_path.name.endswith(".seg.nrrd"):
        _read(scene, "vtkMRMLSegmentationStorageNode", case.segmentation_path, segmentation)
    elif case.segmentation_path:
        _read_label_map(scene, case, segmentation)
    for node in (volume, segmentation):
        node.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.SetNodeReferenceID(segmentation.GetReferenceImageGeometryReferenceRole(), volume.GetID())
    segmentation.SetAttribute(CASE, case.id)
    segmentation.SetAttribute(PROJECT, str(project))
    return volume, segmentation


def loaded_segmentation(scene, identifier: str, project: Path):
    """The segmentation node of a case that is in the scene, or None."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLSegmentationNode")
        if (node.GetAttribute(CASE), node.GetAttribute(PROJECT)) == (identifier, str(project)):
            return node
    return None


def unload_case(scene, identifier: str, project: Path) -> None:
    """Remove the segmentation node of a case from the scene, so that the next Edit reads its file again."""
    node = loaded_segmentation(scene, identifier, project)
    if node is not None:
        for index in range(node.GetNumberOfDisplayNodes()):
            scene.RemoveNode(node.GetNthDisplayNode(index))
        scene.RemoveNode(node)


def _read(scene, storage_class: str, path: Path, node) -> None:
    storage = scene.AddNewNodeByClass(storage_class)
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        scene.RemoveNode(storage)
        scene.RemoveNode(node)
        raise CaseError(f"{path.name} cannot be read.")
    if storage_class == "vtkMRMLVolumeArchetypeStorageNode":
        node.SetAndObserveStorageNodeID(storage.GetID())
    else:
        scene.RemoveNode(storage)  # saving the scene must not write into the project


def _read_label_map(scene, case, segmentation_node) -> None:
    """Label values become segments with the IDs and names of the case's own map."""
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(case.segmentation_path))
    if not storage.ReadData(labels):
        scene.RemoveNode(labels)
        raise CaseError(f"{case.segmentation_path.name} cannot be read.")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    names = {entry["label"]: entry for entry in case.segments}
    for label, entry in names.items():
        oriented = logic.CreateOrientedImageDataFromVolumeNode(labels)
        voxels = vtk_to_numpy(oriented.GetPointData().GetScalars())
        voxels[:] = voxels == label
        segment = slicer.vtkSegment()
        segment.SetName(entry["name"])
        segment.AddRepresentation("Binary labelmap", oriented)
        segmentation_node.GetSegmentation().AddSegment(segment, entry["structure"] or entry["id"])
    scene.RemoveNode(labels)
