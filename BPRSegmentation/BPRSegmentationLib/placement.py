"""Where a result node belongs: under the volume's transform and in its place of the subject hierarchy."""

from __future__ import annotations

import numpy as np
import slicer
from vtkmodules.vtkCommonMath import vtkMatrix4x4

PART = "BodyPartRegression.part"  # attribute: which field of LoadedResult a node is
VOLUME_ROLE = "BodyPartRegression.volume"  # node reference from each result node to the volume it was made from


def matrix_to_array(matrix: vtkMatrix4x4) -> np.ndarray:
    """(4, 4) array of a VTK matrix."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def array_to_matrix(array: np.ndarray) -> vtkMatrix4x4:
    """VTK matrix of a (4, 4) array."""
    matrix = vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(array[row, column]))
    return matrix


def ijk_to_ras(volume_node) -> np.ndarray:
    """(4, 4) matrix from voxel index to the node's own RAS in mm, without the parent transform."""
    matrix = vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return matrix_to_array(matrix)


def parent_to_world(node) -> np.ndarray:
    """(4, 4) matrix from the node's own RAS to the world's, by its parent transform (linear)."""
    transform, matrix = node.GetParentTransformNode(), vtkMatrix4x4()
    if transform is not None:
        transform.GetMatrixTransformToWorld(matrix)
    return matrix_to_array(matrix)


def follow_volume(node, volume_node) -> None:
    """Mark ``node`` as a result of ``volume_node`` and put it under the same parent transform, if it can have one."""
    node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    if node.IsA("vtkMRMLTransformableNode"):
        node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())


def results_of(volume_node) -> list:
    """All nodes in the volume's scene that an earlier run made from it."""
    scene = volume_node.GetScene()
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    return [node for node in nodes if node.HasNodeReferenceID(VOLUME_ROLE, volume_node.GetID())]


def remove_node(node) -> None:
    """Take a node out of its scene, with its display and storage nodes, which the scene would keep."""
    scene, own = node.GetScene(), [node]
    if node.IsA("vtkMRMLDisplayableNode"):
        own += [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        own += [node.GetNthStorageNode(index) for index in range(node.GetNumberOfStorageNodes())]
    for one in own:
        if one is not None:
            scene.RemoveNode(one)


def place_beside(node, volume_node, folder_name: str | None = None) -> None:
    """Put ``node`` where the volume is in the subject hierarchy (its study, folder or the scene's top).

    Args:
        folder_name: when given, into a folder of that name beside the volume, created when it is not there.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume_node.GetScene())
    invalid = hierarchy.GetInvalidItemID()
    volume_item = hierarchy.GetItemByDataNode(volume_node)
    if volume_item == invalid:
        volume_item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), volume_node)
    parent = hierarchy.GetItemParent(volume_item)
    if folder_name:
        folder = hierarchy.GetItemChildWithName(parent, folder_name)
        parent = folder if folder != invalid else hierarchy.CreateFolderItem(parent, folder_name)
    item = hierarchy.GetItemByDataNode(node)
    if item == invalid:
        hierarchy.CreateItem(parent, node)
    else:
        hierarchy.SetItemParent(item, parent)
