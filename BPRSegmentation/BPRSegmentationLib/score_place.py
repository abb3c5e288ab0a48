"""From a place in the views to the score there, and back: what hovering, the plot's line and a click on it need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vtkmodules.util.numpy_support import vtk_to_numpy

from .placement import PART, follow_volume, ijk_to_ras, matrix_to_array, parent_to_world
from .results import LoadedResult
from .score_nodes import CLEANED_COLUMN, RAW_COLUMN, Z_COLUMN, add_table, slice_heights
from .translation import _

LINE_PART, LINE = "line", "BodyPartRegression.line"


@dataclass(frozen=True)
class ScoredVolume:
    """The score of each slice of a volume in the scene.

    Attributes:
        axis: index axis along which the slices are counted.
        z_mm, scores: (n,) of each slice: RAS superior of its center without the parent transform, and cleaned score.
        regions: (n,) name of the region it belongs to, or "".
    """

    volume: object
    axis: int
    z_mm: np.ndarray
    scores: np.ndarray
    regions: list[str]

    def slice_at(self, ras) -> int | None:
        """Index of the slice at a point of the world's RAS; None above and below the scan."""
        index = round(float(self.ijk(ras)[self.axis]))
        return index if 0 <= index < len(self.scores) else None

    def ijk(self, ras) -> np.ndarray:
        """(3,) continuous voxel index of a point of the world's RAS."""
        return (np.linalg.inv(self.to_world()) @ [*ras, 1.0])[:3]

    def holds(self, ras) -> bool:
        """Whether a point of the world's RAS lies inside of the volume."""
        size = np.array(self.volume.GetImageData().GetDimensions())
        index = self.ijk(ras)
        return bool(((index > -0.5) & (index < size - 0.5)).all())

    def center_of(self, z_mm: float) -> tuple[float, float, float]:
        """The world's RAS of the middle of the slice nearest to a height."""
        index = (np.array(self.volume.GetImageData().GetDimensions()) - 1) / 2
        index[self.axis] = int(np.argmin(np.abs(self.z_mm - z_mm)))
        return tuple(float(v) for v in (self.to_world() @ [*index, 1.0])[:3])

    def to_world(self) -> np.ndarray:
        """(4, 4) from voxel index to the world's RAS, the parent transform included."""
        return parent_to_world(self.volume) @ ijk_to_ras(self.volume)


def scored_volume(result: LoadedResult | None) -> ScoredVolume | None:
    """The scores of a result, from its overlay and its table; None when one of them is gone."""
    if result is None or result.overlay is None or result.volume.GetImageData() is None:
        return None
    image = result.overlay.GetImageData()
    size = np.array(image.GetDimensions())
    axis = int(np.argmax(size))
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(size[::-1])
    place: list = [0, 0, 0]
    place[2 - axis] = slice(None)
    heights = slice_heights(ijk_to_ras(result.volume), np.array(result.volume.GetImageData().GetDimensions()), axis)
    if len(heights) != size[axis]:
        return None  # the volume was replaced by another one
    return ScoredVolume(result.volume, axis, heights, values[tuple(place)], _regions_at(result.score_table, heights))


def _regions_at(table_node, heights: np.ndarray) -> list[str]:
    if table_node is None:
        return [""] * len(heights)
    table = table_node.GetTable()
    z, regions = table.GetColumnByName(Z_COLUMN), table.GetColumnByName("region")
    rows = np.array([z.GetValue(row) for row in range(table.GetNumberOfRows())])
    return [regions.GetValue(int(np.argmin(np.abs(rows - height)))) for height in heights]


def add_line(result: LoadedResult):
    """The plot's vertical line at the current slice: a series of two points, found again when there is one."""
    scene = result.volume.GetScene()
    for index in range(result.plot_chart.GetNumberOfPlotSeriesNodes()):
        series = result.plot_chart.GetNthPlotSeriesNode(index)
        if series is not None and series.GetAttribute(LINE):
            return series
    columns = [result.score_table.GetTable().GetColumnByName(name) for name in (RAW_COLUMN, CLEANED_COLUMN)]
    ends = np.array([f(column.GetRange()[k] for column in columns) for k, f in enumerate((min, max))])
    table = add_table(scene, _("current slice"), {Z_COLUMN: np.zeros(2), CLEANED_COLUMN: ends})
    table.SetHideFromEditors(True)
    table.SetAttribute(PART, LINE_PART)
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", _("current slice"))
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(Z_COLUMN)
    series.SetYColumnName(CLEANED_COLUMN)
    series.SetPlotType(series.PlotTypeScatter)
    series.SetColor(0.85, 0.1, 0.1)
    series.SetMarkerStyle(series.MarkerStyleNone)
    series.SetLineStyle(series.LineStyleDash)
    series.SetLineWidth(2)
    series.SetAttribute(PART, "plot_series")
    series.SetAttribute(LINE, "1")
    for node in (table, series):
        follow_volume(node, result.volume)
    result.plot_chart.AddAndObservePlotSeriesNodeID(series.GetID())
    return series


def move_line(series, z_mm: float) -> None:
    """Put the line at a height (mm)."""
    column = series.GetTableNode().GetTable().GetColumnByName(Z_COLUMN)
    if column.GetValue(0) != z_mm:
        for row in (0, 1):
            column.SetValue(row, z_mm)
        column.Modified()
        series.GetTableNode().GetTable().Modified()
        series.GetTableNode().Modified()


def view_height(scored: ScoredVolume, slice_node) -> float | None:
    """The height (mm) that a slice view shows, if it shows slices along the scored axis; None for other views."""
    view = matrix_to_array(slice_node.GetSliceToRAS())
    along = scored.to_world()[:3, scored.axis]
    if abs(view[:3, 2] @ along) < 0.7 * np.linalg.norm(along) * np.linalg.norm(view[:3, 2]):
        return None
    index = scored.slice_at(view[:3, 3])
    return None if index is None else float(scored.z_mm[index])


def picked_height(scene, series_ids, selections) -> float | None:
    """The height (mm) of the point that was clicked in a plot.

    Args:
        series_ids, selections: vtkStringArray and vtkCollection of vtkIdTypeArray, as qMRMLPlotView's ``dataSelected``
            sends them.
    """
    for index in range(series_ids.GetNumberOfValues()):
        series, points = scene.GetNodeByID(series_ids.GetValue(index)), selections.GetItemAsObject(index)
        if series is None or points is None or series.GetAttribute(LINE):
            continue
        table = series.GetTableNode().GetTable() if series.GetTableNode() else None
        column = table.GetColumnByName(series.GetXColumnName()) if table else None
        if column is not None and points.GetNumberOfValues() and points.GetValue(0) < column.GetNumberOfValues():
            return float(column.GetValue(points.GetValue(0)))
    return None


def region_text(scored: ScoredVolume, ras) -> str:
    """Score and region at a point of the world's RAS, in words; empty outside of the volume."""
    if not scored.holds(ras):
        return ""
    index = scored.slice_at(ras)
    text = _("score {score}").format(score=f"{scored.scores[index]:.1f}")
    return f"{text}, {scored.regions[index]}" if scored.regions[index] else text


def crosshair(scene):
    """The node that follows the mouse through the slice views, or None."""
    return scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")


def slice_nodes(scene) -> list:
    """All slice views' nodes."""
    return [
        scene.GetNthNodeByClass(index, "vtkMRMLSliceNode")
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode"))
    ]
