"""The part of Slicer that the module files need and the slicer-core wheel lacks, over PySide6.

``install()`` puts the modules qt, ctk, slicer.ScriptedLoadableModule, slicer.parameterNodeWrapper and slicer.i18n in
place, ``Host`` loads a module as the application does. How Qt looks from Python is told in ``pythonqt.py``.

With the environment variable SLICER_SOURCES (a checkout of Slicer, of which Base/Python is enough) Slicer's own
parameterNodeWrapper, ScriptedLoadableModule, i18n and util are used instead of the small ones here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
import unittest
from pathlib import Path

import parameter_stand_in
import slicer
import slicer.util
from PySide6 import QtCore, QtWidgets
from pythonqt import FILE_ANSWERS, OPENED_URLS, SLOT_ERRORS, Wrapped, qt_module, wrap, wrapped_class
from slicer_widgets import CUSTOM_WIDGETS, QUiLoader, qMRMLPlotView

SOURCES = os.environ.get("SLICER_SOURCES", "")
ROOT = Path(__file__).resolve().parents[2]


# --- the application --------------------------------------------------------------------------------------------------
class SignalLike:
    """Takes connections by C++ signature and remembers them."""

    def __init__(self):
        self.connected: dict[str, list] = {}

    def connect(self, signature: str, slot) -> None:
        """Remember the slot."""
        self.connected.setdefault(signature, []).append(slot)

    def disconnect(self, signature: str, slot) -> None:
        """Forget the slot. Raises ValueError when it was never connected."""
        self.connected[signature].remove(slot)


class LayoutManager:
    """Layouts and the plot view; the layout is the scene's layout node, as in Slicer."""

    def __init__(self, layoutNode):
        self._node = layoutNode
        self._view = wrap(qMRMLPlotView())

    @property
    def layout(self) -> int:
        """Number of the layout."""
        return self._node.GetViewArrangement()

    def setLayout(self, layout: int) -> None:
        """Choose a layout."""
        self._node.SetViewArrangement(layout)

    @property
    def plotViewCount(self) -> int:
        """One, once a plot was shown: Slicer keeps views that are hidden."""
        return 1

    def plotWidget(self, number: int):
        """The widget around the plot view."""
        return types.SimpleNamespace(plotView=lambda: self._view)


class Application(SignalLike):
    """The members of slicer.app that the modules use."""

    def __init__(self, temporary: str, layoutManager: LayoutManager):
        super().__init__()
        self.temporaryPath = temporary
        self.applicationName = "Slicer"
        self.clipboardText = ""
        self._layoutManager, self._moduleManager = layoutManager, SignalLike()
        self._settings = QtCore.QSettings(str(Path(temporary).parent / "settings.ini"), QtCore.QSettings.IniFormat)

    def processEvents(self) -> None:
        """Let Qt work."""
        QtWidgets.QApplication.processEvents()

    def clipboard(self):
        """The clipboard; what was copied is in ``clipboardText``."""
        return types.SimpleNamespace(setText=lambda text: setattr(self, "clipboardText", text))

    def moduleManager(self) -> SignalLike:
        """The module manager."""
        return self._moduleManager

    def layoutManager(self) -> LayoutManager:
        """The layout manager."""
        return self._layoutManager

    def settings(self):
        """The application's settings."""
        return wrap(self._settings)

    userSettings = settings

    def testingEnabled(self) -> bool:
        """Dialogs must not wait for anybody."""
        return True

    def translate(self, context: str, text: str) -> str:
        """English stays English."""
        return text

    def setOverrideCursor(self, cursor) -> None:
        """Nobody looks."""

    def restoreOverrideCursor(self) -> None:
        """Nobody looks."""


class FakeModule:
    """A module of the application: its panel is given, what it is asked to do is remembered."""

    def __init__(self, panel=None, logic=None, path: str = ""):
        self._panel, self._logic, self.path = panel, logic, path

    def widgetRepresentation(self):
        """The C++ widget around the panel."""
        return self._panel if isinstance(self._panel, Wrapped) else types.SimpleNamespace(self=lambda: self._panel)

    def logic(self):
        """The module's logic."""
        return self._logic


class FakeEditor:
    """What the Segment Editor was opened on."""

    def __init__(self):
        self.segmentationNode = self.sourceVolumeNode = None

    def setSegmentationNode(self, node) -> None:
        """Remember the segmentation."""
        self.segmentationNode = node

    def setSourceVolumeNode(self, node) -> None:
        """Remember the volume."""
        self.sourceVolumeNode = node


class Modules(types.SimpleNamespace):
    """slicer.modules: only what is loaded is there."""


# --- base classes of a module -----------------------------------------------------------------------------------------
class ScriptedLoadableModule:
    """Base class of a module."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__


class ScriptedLoadableModuleWidget:
    """Base class of a panel; ``parent`` is a wrapped widget with a layout."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, name: str) -> str:
        """Path of a file in the module's Resources."""
        return os.path.join(os.path.dirname(sys.modules[self.moduleName].__file__), "Resources", name)

    def setup(self) -> None:
        """Called by the panel's own setup."""

    def onReload(self) -> None:
        """Called by the panel's own onReload."""
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """Base class of a logic: one parameter node for each module and scene."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        """The module's vtkMRMLScriptedModuleNode, made when there is none."""
        scene = slicer.mrmlScene
        node = scene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node = scene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Base class of a self test."""

    def delayDisplay(self, message: str) -> None:
        """Nobody looks."""


# --- installation -----------------------------------------------------------------------------------------------------
def install(scene, temporary: str, applicationLogic=None) -> Application:
    """Put the stand-ins in place for ``scene``; returns what the modules see as slicer.app."""
    QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    for remembered in (SLOT_ERRORS, FILE_ANSWERS, OPENED_URLS):
        remembered.clear()
    qt, ctk = qt_module(), types.ModuleType("ctk")
    qt.QUiLoader = QUiLoader
    sys.modules |= {"qt": qt, "ctk": ctk}
    slicer.qt = qt
    for cls in CUSTOM_WIDGETS:
        setattr(ctk if cls.__name__.startswith("ctk") else slicer, cls.__name__, wrapped_class(cls.__name__, cls))
    slicer.mrmlScene = scene
    layout = _layout_node(scene)
    slicer.app = Application(temporary, LayoutManager(layout))
    slicer.modules = Modules(plots=FakeModule(logic=_plots_logic(scene, applicationLogic)))
    slicer.modules.segmenteditor = FakeModule(types.SimpleNamespace(editor=FakeEditor()))
    _install_base_classes(ctk)
    _install_util(scene)
    return slicer.app


def _layout_node(scene):
    node = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if node is None:
        logic = slicer.vtkMRMLLayoutLogic()
        logic.SetMRMLScene(scene)
        node = logic.GetLayoutNode()
        scene._layoutLogic = logic  # lives as long as the scene
    return node


def _plots_logic(scene, applicationLogic):
    logic = slicer.vtkSlicerPlotsLogic()
    logic.SetMRMLApplicationLogic(applicationLogic)
    logic.SetMRMLScene(scene)
    return logic


def _install_base_classes(ctk: types.ModuleType) -> None:
    if SOURCES:
        _install_from_sources(ctk)
        return
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    for cls in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(base, cls.__name__, cls)
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr, i18n.translate = (lambda text: text), (lambda context, text: text)
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper = parameter_stand_in.parameterNodeWrapper
    wrapper.WithinRange = parameter_stand_in.WithinRange
    sys.modules |= {module.__name__: module for module in (base, i18n, wrapper)}


def _install_from_sources(ctk: types.ModuleType) -> None:
    """Slicer's own files, found below SLICER_SOURCES."""
    place = type("AnyWidget", (), {})  # widget classes that are only compared with
    ctk.__getattr__ = lambda name: place
    for name in ("qMRMLSliderWidget", "qMRMLSpinBox", "qMRMLRangeWidget", "qMRMLCheckableNodeComboBox"):
        setattr(slicer, name, type(name, (), {}))
    folder = str(Path(SOURCES) / "Base" / "Python" / "slicer")
    slicer.__path__ = [folder, *(path for path in slicer.__path__ if path != folder)]
    for name in [name for name in sys.modules if name.startswith("slicer.") and "slicer_core" not in name]:
        del sys.modules[name]
    for name in ("util", "i18n", "parameterNodeWrapper", "ScriptedLoadableModule"):
        setattr(slicer, name, importlib.import_module(f"slicer.{name}"))
    assert slicer.util.__file__.startswith(folder), slicer.util.__file__


def _install_util(scene) -> None:
    """The functions of slicer.util that need the application."""
    window = wrap(QtWidgets.QMainWindow())
    slicer.util.mainWindow = lambda: window
    slicer.util.selectedModules = []
    slicer.util.selectModule = lambda name: slicer.util.selectedModules.append(name)
    slicer.util.loadVolume = load_volume
    slicer.util.confirmYesNoDisplay = slicer.util.confirmOkCancelDisplay = lambda text, *more, **settings: True


def load_volume(path: str, properties: dict | None = None):
    """Slicer's volume reader. Raises RuntimeError for a file that cannot be read."""
    scene, properties = slicer.mrmlScene, properties or {}
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", properties.get("name", Path(path).stem))
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        scene.RemoveNode(node)
        raise RuntimeError(f"Failed to load volume from {path}")
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


# --- loading a module -------------------------------------------------------------------------------------------------
def make_parent() -> Wrapped:
    """The widget that Slicer gives a panel: with a layout, and open."""
    widget = QtWidgets.QWidget()
    widget.setLayout(QtWidgets.QVBoxLayout())
    widget.setProperty("isEntered", True)
    parent = wrap(widget)
    parent.__dict__["isEntered"] = True
    return parent


class Host:
    """What qSlicerScriptedLoadableModuleWidget does for a panel: make it, open and leave it, reload it."""

    def __init__(self, name: str):
        """Load the module from its file and open its panel."""
        self.name = name
        self.parent = make_parent()
        self.parent.__dict__["reload"] = self._make
        module = FakeModule(self.parent, path=str(ROOT / name / f"{name}.py"))
        setattr(slicer.modules, name.lower(), module)
        importlib.import_module(name)
        self._make()

    def _make(self) -> None:
        self.widget = getattr(sys.modules[self.name], f"{self.name}Widget")(self.parent)
        setattr(slicer.modules, f"{self.name}Widget", self.widget)
        self.widget.setup()
        self.enter()

    def enter(self) -> None:
        """Open the module."""
        self.parent.__dict__["isEntered"] = True
        self.widget.enter()

    def exit(self) -> None:
        """Open another module."""
        self.parent.__dict__["isEntered"] = False
        self.widget.exit()

    def reload(self) -> None:
        """The Reload button of developer mode."""
        self.widget.onReload()
