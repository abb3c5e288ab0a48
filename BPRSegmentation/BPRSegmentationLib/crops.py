"""Crops of a volume as volumes of their own: the voxels inside of a region's box, wherever it was dragged."""

from __future__ import annotations

import slicer

from .placement import PART, follow_volume, place_beside, results_of
from .results import parts_folder
from .translation import _

CROP_PART = "crop"


def crop(volume_node, roi_node):
    """The voxels of a volume inside of a box, on the volume's own grid; the earlier crop of this box is replaced.

    Raises:
        ValueError: the box lies outside of the volume; the message is one sentence.
    """
    if not _overlap(volume_node, roi_node):
        raise ValueError(_("The box {name} lies outside of the volume.").format(name=roi_node.GetName()))
    scene, logic = volume_node.GetScene(), slicer.vtkSlicerCropVolumeLogic
    name = f"{volume_node.GetName()} {roi_node.GetName()}"
    earlier = [n for n in results_of(volume_node) if n.GetAttribute(PART) == CROP_PART and n.GetName() == name]
    node = earlier[0] if earlier else scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    logic.CropVoxelBased(roi_node, volume_node, node, True, 0.0)
    node.SetName(name)
    node.CreateDefaultDisplayNodes()
    source = volume_node.GetDisplayNode()
    if source is not None:
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(source.GetWindow(), source.GetLevel())
    node.SetAttribute(PART, CROP_PART)
    follow_volume(node, volume_node)
    place_beside(node, volume_node, folder_name=parts_folder(volume_node))
    return node


def _overlap(volume_node, roi_node) -> bool:
    """Whether the bounds (world's RAS) of volume and box have anything in common."""
    volume, box = [0.0] * 6, [0.0] * 6
    volume_node.GetRASBounds(volume)
    roi_node.GetRASBounds(box)
    return all(max(volume[k], box[k]) < min(volume[k + 1], box[k + 1]) for k in (0, 2, 4))


def show_handles(roi_nodes: list, chosen=None) -> None:
    """Make one box draggable and the others not: six boxes with all their handles would hide the anatomy."""
    for node in roi_nodes:
        display = node.GetDisplayNode()
        if display is not None:
            display.SetHandlesInteractive(node is chosen)
