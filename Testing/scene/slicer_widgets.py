"""The widgets of CTK and Slicer that the panels use, as plain Qt: what they do and about what they look like."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import slicer
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from pythonqt import CPP_SIGNALS, Wrapped, unwrap, wrap
from vtkmodules.util.misc import calldata_type
from vtkmodules.util.vtkConstants import VTK_OBJECT

HEADER = 26  # pixels


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A titled box that can be collapsed by a click on its title."""

    toggled = QtCore.Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed, self._text = False, ""
        self.setContentsMargins(0, HEADER, 0, 0)

    def _set_text(self, text: str) -> None:
        self._text = text
        self.update()

    def _set_collapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self.setMaximumHeight(HEADER if collapsed else 16777215)
        self.setMinimumHeight(HEADER if collapsed else 0)
        self.update()

    text = QtCore.Property(str, lambda self: self._text, _set_text)
    collapsed = QtCore.Property(bool, lambda self: self._collapsed, _set_collapsed)

    def mousePressEvent(self, event) -> None:
        """Toggle by the title."""
        if event.position().y() < HEADER:
            self._set_collapsed(not self._collapsed)
            self.toggled.emit(not self._collapsed)

    def minimumSizeHint(self) -> QtCore.QSize:
        """Only the title when collapsed."""
        return QtCore.QSize(0, HEADER) if self._collapsed else super().minimumSizeHint()

    def sizeHint(self) -> QtCore.QSize:
        """Only the title when collapsed."""
        return QtCore.QSize(0, HEADER) if self._collapsed else super().sizeHint()

    def paintEvent(self, event) -> None:
        """Title and triangle."""
        painter = QtGui.QPainter(self)
        bar = QtCore.QRect(0, 2, self.width(), HEADER - 6)
        painter.fillRect(bar, self.palette().color(QtGui.QPalette.Midlight))
        font = self.font()
        font.setBold(True)
        painter.setFont(font)
        painter.drawText(bar.adjusted(20, 0, 0, 0), QtCore.Qt.AlignVCenter, self._text)
        option = QtWidgets.QStyleOption()
        option.initFrom(self)
        option.rect = QtCore.QRect(5, bar.top() + 5, 10, 10)
        arrow = QtWidgets.QStyle.PE_IndicatorArrowRight if self._collapsed else QtWidgets.QStyle.PE_IndicatorArrowDown
        self.style().drawPrimitive(arrow, option, painter, self)


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a spin box with the same value."""

    valueChanged = QtCore.Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider, self._spin = QtWidgets.QSlider(QtCore.Qt.Horizontal), QtWidgets.QDoubleSpinBox()
        self._slider.setRange(0, 1000)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin)
        self._slider.sliderMoved.connect(lambda at: self._spin.setValue(self._low() + at / 1000 * self._span()))
        self._spin.valueChanged.connect(self._changed)

    def _low(self) -> float:
        return self._spin.minimum()

    def _span(self) -> float:
        return self._spin.maximum() - self._spin.minimum()

    def _changed(self, value: float) -> None:
        self._slider.setValue(round(1000 * (value - self._low()) / (self._span() or 1)))
        self.valueChanged.emit(value)

    value = QtCore.Property(float, lambda self: self._spin.value(), lambda self, v: self._spin.setValue(v))
    minimum = QtCore.Property(float, lambda self: self._spin.minimum(), lambda self, v: self._spin.setMinimum(v))
    maximum = QtCore.Property(float, lambda self: self._spin.maximum(), lambda self, v: self._spin.setMaximum(v))
    singleStep = QtCore.Property(float, lambda s: s._spin.singleStep(), lambda self, v: self._spin.setSingleStep(v))
    decimals = QtCore.Property(int, lambda self: self._spin.decimals(), lambda self, v: self._spin.setDecimals(v))


class qMRMLWidget(QtWidgets.QWidget):
    """Hands its scene on to the MRML widgets that the .ui file connects with it."""

    def setMRMLScene(self, scene) -> None:
        """Set the scene of this widget and of its selectors."""
        for child in self.findChildren(qMRMLNodeComboBox):
            child.setMRMLScene(scene)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """A node selector: it forgets a node that leaves the scene, and knows none of another class than its types."""

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node, self._scene = None, None
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._box = QtWidgets.QComboBox()
        layout.addWidget(self._box)

    def setMRMLScene(self, scene) -> None:
        """Follow the nodes of ``scene``."""
        self._scene = scene
        self._show()
        scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._forget)

    @calldata_type(VTK_OBJECT)
    def _forget(self, _scene, _event, node) -> None:
        if node is self._node:
            self.setCurrentNode(None)

    def currentNode(self):
        """The chosen node or None."""
        return self._node

    def setCurrentNode(self, node) -> None:
        """Choose a node, or none."""
        types = self.property("nodeTypes") or []
        if node is not None and types and node.GetClassName() not in types:
            node = None
        if node is not self._node:
            self._node = node
            self._show()
            self.currentNodeChanged.emit(node)

    def _show(self) -> None:
        self._box.clear()
        self._box.addItem(self._node.GetName() if self._node else self.property("noneDisplay") or "None")


class qMRMLPlotView(QtWidgets.QWidget):
    """The plot view: it has a chart, and says what was clicked."""

    dataSelected = QtCore.Signal(object, object)

    def __init__(self, parent=None):
        super().__init__(parent)
        from vtkmodules.vtkChartsCore import vtkChartXY

        self._chart = vtkChartXY()

    def chart(self):
        """The vtkChartXY."""
        return self._chart


CPP_SIGNALS |= {
    "currentNodeChanged": "currentNodeChanged(vtkMRMLNode*)",
    "dataSelected": "dataSelected(vtkStringArray*,vtkCollection*)",
    "valueChanged": "valueChanged(double)",
}
CUSTOM_WIDGETS = [ctkCollapsibleButton, ctkSliderWidget, qMRMLWidget, qMRMLNodeComboBox]


class QUiLoader:
    """Loads a .ui file; properties that only the real widgets have become dynamic ones, connections are left out."""

    def load(self, file) -> Wrapped:
        """The top widget of an open QFile. Raises ValueError for a widget class that is not known here."""
        loader = QtUiTools.QUiLoader()
        for widget in CUSTOM_WIDGETS:
            loader.registerCustomWidget(widget)
        root = ElementTree.fromstring(bytes(unwrap(file).readAll()).decode("utf-8"))
        known = {widget.__name__ for widget in CUSTOM_WIDGETS}
        unknown = {custom.findtext("class") for custom in root.iter("customwidget")} - known
        if unknown:
            raise ValueError(f"the stand-in has no {', '.join(sorted(unknown))}; add it to CUSTOM_WIDGETS")
        for connections in root.findall("connections"):
            root.remove(connections)  # they carry MRML types that PySide cannot know; setMRMLScene does their work
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        return wrap(loader.load(buffer))
