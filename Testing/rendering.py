"""Slicer's views drawn into PNG files without a window, by the logic and displayable managers that Slicer uses."""

from __future__ import annotations

from pathlib import Path

import slicer
from vtkmodules.vtkChartsCore import vtkChart, vtkChartLegend, vtkChartXY
from vtkmodules.vtkCommonCore import vtkCollection
from vtkmodules.vtkIOImage import vtkPNGWriter
from vtkmodules.vtkRenderingCore import (
    vtkActor2D,
    vtkImageMapper,
    vtkRenderer,
    vtkRenderWindow,
    vtkRenderWindowInteractor,
    vtkWindowToImageFilter,
)
from vtkmodules.vtkViewsContext2D import vtkContextView

from BPRSegmentationLib.scene_file import Stage

SIZE = (900, 680)
SLICE_MANAGERS = (
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
SPACE_MANAGERS = ("vtkMRMLSegmentationsDisplayableManager3D", "vtkMRMLMarkupsDisplayableManager")


class View:
    """A renderer in a window that is never shown."""

    def __init__(self, size: tuple[int, int]):
        self._renderer, self._window = vtkRenderer(), vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetShowWindow(False)
        self._window.SetMultiSamples(8)
        self._window.SetSize(*size)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.Initialize()

    def _attach(self, factory, managers: tuple[str, ...], stage: Stage, node):
        factory.SetMRMLApplicationLogic(stage.application_logic)
        for manager in managers:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        group = slicer.vtkMRMLDisplayableManagerGroup()
        group.SetRenderer(self._renderer)
        group.Initialize(factory, self._renderer)
        group.SetMRMLDisplayableNode(node)
        return group


class SliceView(View):
    """One of the scene's slice views."""

    def __init__(self, stage: Stage, name: str, size: tuple[int, int] = SIZE):
        """``name`` is "Red" (axial), "Yellow" (sagittal) or "Green" (coronal); the scene must have that view."""
        super().__init__(size)
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self.node = stage.scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(stage.application_logic)
        self.logic.SetMRMLScene(stage.scene)
        self.logic.SetSliceNode(self.node)
        self.logic.ResizeSliceNode(*size)
        self._logics = vtkCollection()  # the color legend looks here for what the view shows
        self._logics.AddItem(self.logic)
        stage.application_logic.SetSliceLogics(self._logics)
        self._mapper = vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtkActor2D()
        actor.SetMapper(self._mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(actor)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        self._group = self._attach(factory, SLICE_MANAGERS, stage, self.node)

    def save(self, path: Path) -> None:
        """Draw the whole slice at the view's offset and write it as PNG."""
        offset = self.logic.GetSliceOffset()
        self.logic.FitSliceToBackground()
        self.logic.SetSliceOffset(offset)
        self.logic.UpdatePipeline()
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())
        write_png(self._window, path)


class SpaceView(View):
    """A 3D view of the scene, from the front."""

    def __init__(self, stage: Stage, size: tuple[int, int] = SIZE):
        super().__init__(size)
        self._renderer.SetBackground(0.757, 0.765, 0.910)  # the colors of Slicer's 3D view
        self._renderer.SetBackground2(0.455, 0.471, 0.745)
        self._renderer.SetGradientBackground(True)
        node = stage.scene.AddNewNodeByClass("vtkMRMLViewNode")
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        self._group = self._attach(factory, SPACE_MANAGERS, stage, node)

    def save(self, path: Path, azimuth: float = 25, zoom: float = 1.25) -> None:
        """Draw everything that is shown in 3D and write it as PNG."""
        camera = self._renderer.GetActiveCamera()
        camera.SetPosition(0, 1, 0)
        camera.SetFocalPoint(0, 0, 0)
        camera.SetViewUp(0, 0, 1)
        self._renderer.ResetCamera()
        camera.Azimuth(azimuth)
        camera.Zoom(zoom)
        self._renderer.ResetCameraClippingRange()
        write_png(self._window, path)


class PlotView:
    """A plot chart node's series, drawn by the chart that Slicer's plot view uses."""

    def __init__(self, chart_node, size: tuple[int, int] = SIZE):
        self._view, self._chart = vtkContextView(), vtkChartXY()
        self._view.GetRenderWindow().SetOffScreenRendering(True)
        self._view.GetRenderWindow().SetMultiSamples(8)
        self._view.GetRenderWindow().SetSize(*size)
        self._view.GetRenderer().SetBackground(1, 1, 1)
        self._view.GetScene().AddItem(self._chart)
        self._chart.SetShowLegend(True)
        self._chart.GetLegend().SetVerticalAlignment(vtkChartLegend.BOTTOM)
        self._chart.SetTitle(chart_node.GetTitle())
        self._chart.GetTitleProperties().SetFontSize(18)
        for axis, title in ((0, chart_node.GetYAxisTitle()), (1, chart_node.GetXAxisTitle())):
            self._chart.GetAxis(axis).SetTitle(title)
            self._chart.GetAxis(axis).GetTitleProperties().SetFontSize(14)
            self._chart.GetAxis(axis).GetLabelProperties().SetFontSize(12)
        for index in range(chart_node.GetNumberOfPlotSeriesNodes()):
            self._add(chart_node.GetNthPlotSeriesNode(index))

    def _add(self, series) -> None:
        lined = series.GetLineStyle() != series.LineStyleNone
        plot = self._chart.AddPlot(vtkChart.LINE if lined else vtkChart.POINTS)
        table = series.GetTableNode().GetTable()
        plot.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
        plot.SetColor(*(round(255 * channel) for channel in series.GetColor()), 255)
        plot.SetLabel(series.GetName())
        plot.SetWidth(series.GetLineWidth())
        plot.SetMarkerStyle(series.GetMarkerStyle())
        plot.SetMarkerSize(series.GetMarkerSize())
        plot.GetPen().SetLineType(series.GetLineStyle() if lined else 0)

    def save(self, path: Path) -> None:
        """Draw and write as PNG."""
        write_png(self._view.GetRenderWindow(), path)


def write_png(window, path: Path) -> None:
    """Render a window into a PNG file."""
    window.Render()
    picture = vtkWindowToImageFilter()
    picture.SetInput(window)
    picture.ReadFrontBufferOff()
    writer = vtkPNGWriter()
    writer.SetInputConnection(picture.GetOutputPort())
    writer.SetFileName(str(path))
    writer.Write()
