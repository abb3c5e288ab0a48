"""A segmentation as files: .seg.nrrd, a label map with its table, or DICOM SEG."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import slicer
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from bpr.segmentation.labels import label_table

from .placement import ijk_to_ras
from .translation import _


class SavingError(Exception):
    """The file cannot be written. The message is one sentence for the person."""


def save_seg_nrrd(segmentation_node, path: Path) -> None:
    """Slicer's own format: all segments with names, colors and terms. Raises SavingError."""
    storage = slicer.vtkMRMLSegmentationStorageNode()  # not the node's own, which remembers where the scene saves it
    storage.SetFileName(str(path))
    if not storage.WriteData(segmentation_node):
        raise SavingError(_("{path} cannot be written.").format(path=path))


def label_values(segmentation_node) -> dict[str, int]:
    """Label value of each segment: those of the label table; segments of the person's own get the next free ones."""
    known = {structure.id: structure.value for structure in label_table()}
    values, free = {}, max(known.values()) + 1
    for identifier in segmentation_node.GetSegmentation().GetSegmentIDs():
        values[identifier] = known.get(identifier, free)
        free += identifier not in known
    return values


def label_array(segmentation_node, volume_node) -> np.ndarray:
    """(k, j, i) label values on the volume's grid; where segments overlap the higher value wins."""
    size = volume_node.GetImageData().GetDimensions()
    labels = np.zeros(size[::-1], np.uint16)
    for identifier, value in sorted(label_values(segmentation_node).items(), key=lambda item: item[1]):
        mask = segment_mask(segmentation_node, identifier, volume_node)
        labels[mask] = value
    return labels.astype(np.uint8) if labels.max(initial=0) < 256 else labels


def segment_mask(segmentation_node, identifier: str, volume_node) -> np.ndarray:
    """(k, j, i) bool voxels of a segment on the volume's own grid."""
    geometry, image = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    matrix = vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    geometry.SetImageToWorldMatrix(matrix)
    geometry.SetDimensions(*volume_node.GetImageData().GetDimensions())
    segmentation_node.GetBinaryLabelmapRepresentation(identifier, image)
    fitted = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, geometry, fitted)
    scalars = fitted.GetPointData().GetScalars()
    return vtk_to_numpy(scalars).reshape(fitted.GetDimensions()[::-1]) > 0


def save_nifti(segmentation_node, volume_node, path: Path) -> Path:
    """One label map on the volume's grid, and beside it a table of values, IDs and names, whose path is returned.

    Raises:
        SavingError: the file cannot be written.
    """
    import SimpleITK as sitk  # takes long to import: not at the start of the application

    image = sitk.GetImageFromArray(label_array(segmentation_node, volume_node))
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijk_to_ras(volume_node)
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(to_lps[:3, 3].tolist())
    image.SetDirection((to_lps[:3, :3] / spacing).ravel().tolist())
    table = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + "_labels.csv")
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
        with open(table, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["value", "id", "name"])
            for identifier, value in label_values(segmentation_node).items():
                segment = segmentation_node.GetSegmentation().GetSegment(identifier)
                writer.writerow([value, identifier, segment.GetName()])
    except (RuntimeError, OSError) as error:
        raise SavingError(_("{path} cannot be written ({error}).").format(path=path, error=error)) from error
    return table


def save_dicom_seg(segmentation_node, volume_node, sources: Sequence[str], path: Path) -> None:
    """DICOM SEG by highdicom, on the grid of the series that the volume was loaded from.

    Args:
        sources: the files of that series.

    Raises:
        SavingError: the series is missing or does not fit, or the file cannot be written.
    """
    from .dicom_seg import write_dicom_seg

    masks = {
        identifier: segment_mask(segmentation_node, identifier, volume_node)
        for identifier in label_values(segmentation_node)
    }
    names = {key: segmentation_node.GetSegmentation().GetSegment(key).GetName() for key in masks}
    try:
        write_dicom_seg(masks, names, ijk_to_ras(volume_node), sources, path)
    except (ValueError, OSError) as error:
        raise SavingError(_("DICOM SEG cannot be written: {error}").format(error=error)) from error
