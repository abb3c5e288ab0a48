"""Scores as nodes: an overlay that colors the slices, its color table, a table and a plot."""

from __future__ import annotations

import numpy as np
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonCore import VTK_FLOAT, vtkDoubleArray, vtkIntArray, vtkStringArray
from vtkmodules.vtkCommonDataModel import vtkImageData

from bpr.scoring.scale import COLORED_SCORES

from .placement import array_to_matrix, ijk_to_ras
from .result_folder import Landmark, ResultError, Scores

# Eleven equally spaced colors of viridis, which is perceptually uniform and readable with color blindness.
VIRIDIS = np.array(
    [
        [0.267, 0.005, 0.329],
        [0.283, 0.141, 0.458],
        [0.254, 0.265, 0.530],
        [0.207, 0.372, 0.553],
        [0.164, 0.471, 0.558],
        [0.128, 0.567, 0.551],
        [0.135, 0.659, 0.518],
        [0.267, 0.749, 0.441],
        [0.478, 0.821, 0.318],
        [0.741, 0.873, 0.150],
        [0.993, 0.906, 0.144],
    ]
)
Z_COLUMN, RAW_COLUMN, CLEANED_COLUMN = "z (mm)", "raw score", "score"
LANDMARK_COLUMN = "landmark"


def score_color(score: float) -> tuple[float, float, float]:
    """RGB color (0..1) of a score, the same on slices, region boxes and in the color legend."""
    position = (np.clip(score, *COLORED_SCORES) - COLORED_SCORES[0]) / (COLORED_SCORES[1] - COLORED_SCORES[0])
    at = np.linspace(0, 1, len(VIRIDIS))
    return tuple(float(np.interp(position, at, VIRIDIS[:, channel])) for channel in range(3))


def slice_heights(geometry: np.ndarray, size: np.ndarray, axis: int) -> np.ndarray:
    """(n,) RAS superior coordinate in mm of each slice's center along index ``axis``; geometry (4, 4) is IJK to RAS."""
    index = np.tile((size - 1) / 2, (size[axis], 1))
    index[:, axis] = np.arange(size[axis])
    return index @ geometry[2, :3] + geometry[2, 3]


def slice_values(scores: Scores, heights: np.ndarray) -> np.ndarray:
    """(n,) cleaned score of slices at these RAS heights (mm); between scored slices linear.

    By height and not by index: Slicer's image reader turns left-handed images round, so that their slices count from
    the other end.

    Raises:
        ResultError: when slices were scored that the volume does not have.
    """
    margin = np.abs(np.diff(heights)).mean() if len(heights) > 1 else 1.0
    if scores.z_mm.min() < heights.min() - margin or scores.z_mm.max() > heights.max() + margin:
        raise ResultError("The scores do not belong to this volume: slices were scored outside of it.")
    order = np.argsort(scores.z_mm)
    return np.interp(heights, scores.z_mm[order], scores.cleaned[order])


def add_color_node(scene):
    """The color table "Body part score": 256 colors over COLORED_SCORES."""
    node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", scene.GenerateUniqueName("Body part score"))
    node.SetTypeToUser()
    node.SetNumberOfColors(256)
    for index, score in enumerate(np.linspace(*COLORED_SCORES, 256)):
        node.SetColor(index, f"{score:.1f}", *score_color(score), 1.0)
    node.GetLookupTable().SetTableRange(0, 255)
    node.SetHideFromEditors(False)
    return node


def add_overlay(scene, volume_node, scores: Scores, color_node):
    """A volume of 2 x 2 x N voxels that covers ``volume_node`` and has one value per slice.

    It has the volume's directions and slice positions; in the plane of the slices its two voxels a side are stretched
    over the whole extent. So it colors all slice views at the cost of a few kilobytes.
    """
    size = np.array(volume_node.GetImageData().GetDimensions())
    shape = np.where(np.arange(3) == scores.axis, size, 2)
    geometry = ijk_to_ras(volume_node)
    values = slice_values(scores, slice_heights(geometry, size, scores.axis)).astype(np.float32)
    for axis in range(3):
        if axis != scores.axis:
            # Two voxels over n: the first one's center is a quarter of the extent behind the volume's edge.
            geometry[:3, 3] += geometry[:3, axis] * (size[axis] / 4 - 0.5)
            geometry[:3, axis] *= size[axis] / 2
    along = [1, 1, 1]
    along[2 - scores.axis] = len(values)  # numpy order is k, j, i
    array = np.ascontiguousarray(np.broadcast_to(values.reshape(along), shape[::-1]))
    image = vtkImageData()
    image.SetDimensions(*(int(n) for n in shape))
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True, array_type=VTK_FLOAT))
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{volume_node.GetName()} score")
    node.SetIJKToRASMatrix(array_to_matrix(geometry))
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*COLORED_SCORES)
    display.SetAndObserveColorNodeID(color_node.GetID())
    return node


def add_color_legend(scene, overlay):
    """The color bar of the overlay, shown in the slice views while the overlay is."""
    legend = scene.AddNewNodeByClass("vtkMRMLColorLegendDisplayNode", f"{overlay.GetName()} color legend")
    legend.SetTitleText("score")
    legend.SetLabelFormat("%.0f")
    legend.SetSize(0.07, 0.4)  # shares of the view: narrow, since the letters grow with it
    legend.SetAndObservePrimaryDisplayNode(overlay.GetDisplayNode())
    overlay.AddAndObserveDisplayNodeID(legend.GetID())
    legend.Modified()  # the displayable manager does not notice the new display node by itself
    return legend


def _column(name: str, values) -> vtkDoubleArray | vtkIntArray | vtkStringArray:
    if isinstance(values[0], str):
        column = vtkStringArray()
    elif np.issubdtype(np.asarray(values).dtype, np.integer):
        column = vtkIntArray()
    else:
        column = vtkDoubleArray()
    column.SetName(name)
    for value in values:
        column.InsertNextValue(value if isinstance(value, str) else value.item())
    return column


def add_table(scene, name: str, columns: dict):
    """A table node with one column for each entry; values are (n,) arrays or lists of str."""
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    node.SetUseColumnTitleAsColumnHeader(True)
    for title, values in columns.items():
        node.AddColumn(_column(title, values))
    node.SetLocked(True)
    return node


def add_score_table(scene, volume_name: str, scores: Scores):
    """Table of all scored slices."""
    columns = {
        "slice": scores.slices,
        Z_COLUMN: scores.z_mm,
        RAW_COLUMN: scores.raw,
        CLEANED_COLUMN: scores.cleaned,
        "standard deviation": scores.sd,
        "region": scores.region,
    }
    return add_table(scene, f"{volume_name} score table", columns)


def add_landmark_table(scene, volume_name: str, landmarks: list[Landmark]):
    """Table of the landmarks inside the scan."""
    columns = {
        LANDMARK_COLUMN: [mark.name for mark in landmarks],
        Z_COLUMN: np.array([mark.z_mm for mark in landmarks]),
        CLEANED_COLUMN: np.array([mark.score for mark in landmarks]),
    }
    return add_table(scene, f"{volume_name} landmarks", columns)


def _add_series(scene, name: str, table, y_column: str, color: tuple[float, float, float]):
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(Z_COLUMN)
    series.SetYColumnName(y_column)
    series.SetPlotType(series.PlotTypeScatter)
    series.SetColor(*color)
    series.SetMarkerStyle(series.MarkerStyleNone)
    series.SetLineStyle(series.LineStyleNone)
    return series


def add_plot(scene, volume_name: str, score_table, landmark_table=None) -> tuple[list, object]:
    """Score against position: raw scores as dots, the cleaned curve as a line, landmarks as labeled diamonds.

    Returns:
        The plot series nodes and the plot chart node.
    """
    raw = _add_series(scene, f"{volume_name} raw score", score_table, RAW_COLUMN, (0.6, 0.6, 0.6))
    raw.SetMarkerStyle(raw.MarkerStyleCircle)
    raw.SetMarkerSize(3)
    cleaned = _add_series(scene, f"{volume_name} cleaned score", score_table, CLEANED_COLUMN, score_color(50))
    cleaned.SetLineStyle(cleaned.LineStyleSolid)
    cleaned.SetLineWidth(2)
    series = [raw, cleaned]
    if landmark_table is not None:
        marks = _add_series(scene, f"{volume_name} landmark", landmark_table, CLEANED_COLUMN, (0.84, 0.37, 0.0))
        marks.SetMarkerStyle(marks.MarkerStyleDiamond)
        marks.SetMarkerSize(9)
        marks.SetLabelColumnName(LANDMARK_COLUMN)
        series.append(marks)
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", f"{volume_name} score plot")
    chart.SetTitle("Body part score")
    chart.SetXAxisTitle("position towards the head (mm)")
    chart.SetYAxisTitle("score (0 pelvis start, 100 eyes end)")
    for node in series:
        chart.AddAndObservePlotSeriesNodeID(node.GetID())
    return series, chart
