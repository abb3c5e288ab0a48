"""The scores in the views: colors over the CT, boxes, the plot with its line, and what lies under the mouse."""

from __future__ import annotations

import slicer
import vtk
from slicer.util import VTKObservationMixin

from .plot_dock import PlotDock
from .results import LoadedResult
from .score_place import (
    ScoredVolume,
    add_line,
    crosshair,
    move_line,
    picked_height,
    region_text,
    scored_volume,
    slice_nodes,
    view_height,
)
from .views import jump_to, show_overlay, shown_overlay


class ScoresSection(VTKObservationMixin):
    """Keeps the views in line with a result and with the choices of a parameter node."""

    def __init__(self, ui):
        VTKObservationMixin.__init__(self)
        self._ui, self._node = ui, None
        self._result: LoadedResult | None = None
        self._scored: ScoredVolume | None = None
        self._line = None
        self._applied: tuple = ()
        self._dock = PlotDock(self.onPicked)
        ui.plotButton.connect("clicked(bool)", self.onPlot)

    def setParameterNode(self, node) -> None:
        """Follow the choices of another parameter node, or of none."""
        self._node = node
        self._applied = self._wanted()

    def show(self, result: LoadedResult | None) -> None:
        """Follow another result, or none; the views stay as the person has them."""
        self.removeObservers()
        self._result, self._scored, self._line = result, scored_volume(result), None
        if self._scored and result.plot_chart and result.score_table:
            self._line = add_line(result)
        if self._scored:
            for node in slice_nodes(slicer.mrmlScene):
                self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.onSliceMoved)
                self.onSliceMoved(node)
            cross = crosshair(slicer.mrmlScene)
            if cross is not None:
                self.addObserver(cross, cross.CursorPositionModifiedEvent, self.onMouse)
        self._applied = self._wanted()
        self._ui.hoverLabel.text = ""
        for widget in (self._ui.colorCheckBox, self._ui.opacitySlider):
            widget.enabled = self._scored is not None
        self._ui.boxesCheckBox.enabled = bool(result and result.regions)
        self._ui.plotButton.enabled = self._line is not None
        self._ui.plotButton.checked = self._line is not None and self._dock.shown

    def reveal(self) -> None:
        """Bring a new result before the eyes: colors, boxes and plot as the parameter node has them."""
        self._applied = ()
        self.apply()
        self.showPlot()

    def _wanted(self) -> tuple:
        return (self._node.colorSlices, self._node.opacity, self._node.showBoxes) if self._node is not None else ()

    def apply(self) -> None:
        """Bring colors and boxes in line with the parameter node, if that has changed."""
        wanted = self._wanted()
        if self._result is None or not wanted or wanted == self._applied:
            return
        self._applied = wanted
        overlay = self._result.overlay
        if overlay is not None and self._node.colorSlices:
            show_overlay(slicer.mrmlScene, overlay, self._node.opacity)
        elif overlay is not None and shown_overlay(slicer.mrmlScene) == overlay.GetID():
            show_overlay(slicer.mrmlScene, None)
        for node in self._result.regions:
            if node.GetScene() is not None:
                node.SetDisplayVisibility(self._node.showBoxes)

    def showPlot(self) -> None:
        """Dock the plot beside the slice views."""
        if self._line is not None:
            self._dock.show(self._result.plot_chart)
            self._ui.plotButton.checked = self._dock.shown

    def onPlot(self, checked: bool) -> None:
        """Show the plot, or go back to the layout before."""
        if checked:
            self.showPlot()
        else:
            self._dock.hide()

    def toggleColors(self) -> None:
        """Colors on or off, for the shortcut."""
        if self._node is not None:
            self._node.colorSlices = not self._node.colorSlices

    def onSliceMoved(self, sliceNode, event=None) -> None:
        """Move the plot's line to the slice that a view shows now."""
        if self._line is None or self._line.GetScene() is None or self._scored.volume.GetScene() is None:
            return
        height = view_height(self._scored, sliceNode)
        if height is not None:
            move_line(self._line, height)

    def onMouse(self, cross, event=None) -> None:
        """Say what lies under the mouse."""
        place = [0.0] * 3
        inside = cross.GetCursorPositionRAS(place)
        there = inside and self._scored is not None and self._scored.volume.GetScene() is not None
        self._ui.hoverLabel.text = region_text(self._scored, place) if there else ""

    def onPicked(self, seriesIDs, selections) -> None:
        """A point of the plot was clicked: show its slice."""
        height = picked_height(slicer.mrmlScene, seriesIDs, selections)
        if height is not None and self._scored is not None:
            jump_to(slicer.mrmlScene, self._scored.center_of(height))

    def close(self) -> None:
        """Listen to nothing any more."""
        self.removeObservers()
        self._dock.close()
        self._result = self._scored = self._line = self._node = None
