"""What the views of a scene show after a run: CT in the back, scores over it, the plot beside."""

from __future__ import annotations

import slicer

OVERLAY_OPACITY = 0.35


def show_overlay(scene, overlay_node, opacity: float = OVERLAY_OPACITY) -> None:
    """Show ``overlay_node`` as the foreground of all slice views of the scene; None takes the foreground away."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        composite = scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
        composite.SetForegroundVolumeID(overlay_node.GetID() if overlay_node else None)
        composite.SetForegroundOpacity(opacity)


def show_volume(scene, volume_node) -> None:
    """Show ``volume_node`` as the background of all slice views of the scene."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode").SetBackgroundVolumeID(volume_node.GetID())


def shown_overlay(scene):
    """Node ID of the foreground of the first slice view, or None."""
    composite = scene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    return composite.GetForegroundVolumeID() if composite is not None else None


def jump_to(scene, ras) -> None:
    """Move all slice views so that they show a point of the world's RAS (mm) in their middle."""
    node = slicer.vtkMRMLSliceNode
    node.JumpAllSlices(scene, *(float(value) for value in ras), node.CenteredJumpSlice)


def show_in_3d(segmentation_node, shown: bool) -> None:
    """Show or hide a segmentation's surfaces, which are computed when they are shown for the first time."""
    if shown:
        segmentation_node.CreateClosedSurfaceRepresentation()
    display = segmentation_node.GetDisplayNode()
    if display is not None:
        display.SetVisibility3D(shown)


def shown_in_3d(segmentation_node) -> bool:
    """Whether the segmentation's surfaces are there and shown."""
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    display = segmentation_node.GetDisplayNode()
    there = segmentation_node.GetSegmentation().ContainsRepresentation(surface)
    return bool(there and display is not None and display.GetVisibility3D())


def add_views(scene, volume_node, plot_chart=None) -> None:
    """Layout, slice views and plot view for a scene that was built without an application.

    They are the nodes that Slicer's own layout logic makes, so that Slicer takes them over when it opens the scene.
    The three slices go through the middle of the volume and show all of it.
    """
    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(scene)
    layout = logic.GetLayoutNode()
    layout.SetViewArrangement(layout.SlicerLayoutFourUpPlotView if plot_chart else layout.SlicerLayoutFourUpView)
    if plot_chart:
        scene.GetFirstNodeByClass("vtkMRMLPlotViewNode").SetPlotChartNodeID(plot_chart.GetID())
    bounds = [0.0] * 6
    volume_node.GetRASBounds(bounds)
    center = [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]
    extent = 1.1 * max(high - low for low, high in zip(bounds[::2], bounds[1::2], strict=True))
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")):
        view = scene.GetNthNodeByClass(index, "vtkMRMLSliceNode")
        view.SetDimensions(400, 400, 1)
        view.SetFieldOfView(extent, extent, 1)
        view.JumpSliceByCentering(*center)
        _add_composite(scene, view.GetLayoutName())


def _add_composite(scene, name: str) -> None:
    if scene.GetSingletonNode(name, "vtkMRMLSliceCompositeNode") is None:
        node = slicer.vtkMRMLSliceCompositeNode()
        node.SetSingletonTag(name)
        node.SetLayoutName(name)
        scene.AddNode(node)
