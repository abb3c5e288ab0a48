"""The score plot beside the slice views: shown, put away again, and its clicks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import slicer
from vtkmodules.vtkChartsCore import vtkChart
from vtkmodules.vtkRenderingContext2D import vtkContextMouseEvent

PICKED = "dataSelected(vtkStringArray*,vtkCollection*)"


class PlotDock:
    """Shows a chart in the first plot view; remembers the layout that it replaced."""

    def __init__(self, onPicked: Callable[[object, object], None]):
        """``onPicked`` gets what qMRMLPlotView's ``dataSelected`` sends when a point is clicked."""
        self._onPicked = onPicked
        self._earlierLayout: int | None = None
        self._view = None

    @property
    def shown(self) -> bool:
        """Whether the layout has a plot view."""
        manager = slicer.app.layoutManager()
        return manager is not None and _with_plot(manager.layout) == manager.layout

    def show(self, chart) -> None:
        """Bring a chart before the eyes, in the layout that has a plot and is nearest to the present one."""
        manager = slicer.app.layoutManager()
        if manager is None:  # the application runs without a window
            return
        if not self.shown:
            self._earlierLayout = manager.layout
        slicer.modules.plots.logic().ShowChartInLayout(chart)
        self._listen(manager)

    def hide(self) -> None:
        """Back to the layout that was there before."""
        if self.shown:
            slicer.app.layoutManager().setLayout(self._earlierLayout or slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self._earlierLayout = None

    def close(self) -> None:
        """No longer listen."""
        if self._view is not None:
            with suppress(ValueError):  # the application is quitting and the view is gone already
                self._view.disconnect(PICKED, self._onPicked)
            self._view = None

    def _listen(self, manager) -> None:
        if manager.plotViewCount == 0:
            return
        view = manager.plotWidget(0).plotView()
        if view != self._view:
            self.close()
            view.connect(PICKED, self._onPicked)
            self._view = view
        # A chart's plain left click only notifies; let it select the point, so that ``dataSelected`` is sent.
        view.chart().SetClickActionToButton(vtkChart.SELECT, vtkContextMouseEvent.LEFT_BUTTON)
        view.chart().SetClickActionToButton(vtkChart.NOTIFY, vtkContextMouseEvent.RIGHT_BUTTON)


def _with_plot(layout: int) -> int:
    """The layout that has a plot view and is nearest to a layout, which is itself when it has one."""
    return slicer.modules.plots.logic().GetLayoutWithPlot(layout)
