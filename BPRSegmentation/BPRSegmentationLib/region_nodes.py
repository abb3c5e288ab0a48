"""Body regions as Markups ROI nodes."""

from __future__ import annotations

import numpy as np

from .placement import array_to_matrix
from .result_folder import RegionBox
from .score_nodes import score_color


def box_to_ras(region: RegionBox) -> np.ndarray:
    """(4, 4) matrix from the box's own axes (mm, origin at its center) to RAS.

    An image may be stored left-handed (one axis flipped); a ROI may not. The box is symmetric, so turning one axis
    round describes the same box.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = region.directions / np.linalg.norm(region.directions, axis=0)
    if np.linalg.det(matrix[:3, :3]) < 0:
        matrix[:3, 2] *= -1
    matrix[:3, 3] = region.center
    return matrix


def add_region(scene, region: RegionBox):
    """A ROI node for one region: oriented like the volume, outline only, in the color of its middle score.

    The box can be dragged once its handles are shown ("Interaction" in Markups); six boxes with all their handles
    would hide the anatomy.
    """
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", region.name)
    node.SetROIType(node.ROITypeBox)
    node.SetSize(*region.size)
    node.SetAndObserveObjectToNodeMatrix(array_to_matrix(box_to_ras(region)))
    low, high = region.score_range
    node.SetDescription(f"scores {low:.1f} to {high:.1f}, {100 * region.complete:.0f} % of the region is in the scan")
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    color = score_color((low + high) / 2)
    display.SetColor(*color)
    display.SetSelectedColor(*color)
    display.SetFillVisibility(False)
    display.SetHandlesInteractive(False)
    display.SetPropertiesLabelVisibility(True)
    display.SetTextScale(2.5)
    return node
