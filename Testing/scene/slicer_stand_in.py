"""The part of Slicer that the module files need and the slicer-core wheel lacks, over PySide6.

``install()`` puts the modules qt, ctk, slicer.ScriptedLoadableModule, slicer.parameterNodeWrapper and slicer.i18n in
place. Widgets behave as in PythonQt: a Qt property is an attribute (``button.text``, no call), an attribute that Qt
does not know is an error, ``connect("clicked(bool)", slot)`` takes a signature, and a slot gets as many arguments as it
takes.
"""

from __future__ import annotations

import inspect
import sys
import types
import unittest
import xml.etree.ElementTree as ElementTree
from enum import Enum
from pathlib import Path

import slicer
from PySide6 import QtCore, QtUiTools, QtWidgets
from vtkmodules.util.misc import calldata_type
from vtkmodules.util.vtkConstants import VTK_OBJECT
from vtkmodules.vtkCommonCore import vtkCommand

PARAMETER = "SlicerParameterName"


# --- PythonQt ---------------------------------------------------------------------------------------------------------
class Wrapped:
    """A QObject as PythonQt shows it. One subclass for each Qt class, so that ``type(widget)`` can be compared."""

    def __init__(self, *arguments):
        self.__dict__["_q"] = QT_CLASSES[type(self).__name__](*map(unwrap, arguments))

    def __getattr__(self, name: str):
        name = "objectName" if name == "name" else name
        if self._q.metaObject().indexOfProperty(name) >= 0:
            return wrap(self._q.property(name))
        found = getattr(self._q, name)  # AttributeError for what Qt does not know
        if isinstance(found, QtCore.SignalInstance):
            return Signal(self._q, name)
        return (lambda *arguments: wrap(found(*map(unwrap, arguments)))) if callable(found) else found

    def __setattr__(self, name: str, value) -> None:
        if self._q.metaObject().indexOfProperty(name) < 0 and name not in self._q.dynamicPropertyNames():
            raise AttributeError(f"{type(self).__name__} has no property {name}")
        self._q.setProperty(name, value)

    def __eq__(self, other) -> bool:
        return isinstance(other, Wrapped) and self._q is other._q

    def __hash__(self) -> int:
        return id(self._q)

    def connect(self, signature: str, slot) -> None:
        """Connect by C++ signature, as PythonQt's own connect."""
        getattr(self, signature.partition("(")[0]).connect(slot)


class Signal:
    """A signal that gives a Python slot as many arguments as it takes."""

    def __init__(self, owner: QtCore.QObject, name: str):
        self._owner, self._name = owner, name

    def connect(self, slot) -> None:
        """Call ``slot`` when the signal is sent."""
        count = len(inspect.signature(slot).parameters)
        connection = getattr(self._owner, self._name).connect(lambda *arguments: slot(*arguments[:count]))
        CONNECTIONS.setdefault((id(self._owner), self._name, slot), []).append(connection)

    def disconnect(self, slot) -> None:
        """No longer call ``slot``."""
        for connection in CONNECTIONS.pop((id(self._owner), self._name, slot), []):
            QtCore.QObject.disconnect(connection)


CONNECTIONS: dict = {}
WRAPPED_CLASSES: dict[str, type] = {}
QT_CLASSES: dict[str, type] = {}


def wrapped_class(name: str, qt_class: type) -> type:
    """The PythonQt-like class for a Qt class."""
    QT_CLASSES[name] = qt_class
    return WRAPPED_CLASSES.setdefault(name, type(name, (Wrapped,), {}))


def wrap(value):
    """QObjects wrapped, one wrapper for each object; everything else as it is."""
    if isinstance(value, list | tuple):
        return type(value)(wrap(item) for item in value)
    if not isinstance(value, QtCore.QObject):
        return value
    if not hasattr(value, "_wrapped"):
        cls = wrapped_class(type(value).__name__, type(value))
        wrapper = cls.__new__(cls)
        wrapper.__dict__["_q"] = value
        value._wrapped = wrapper
    return value._wrapped


def unwrap(value):
    """The QObject of a wrapper; everything else as it is."""
    return value._q if isinstance(value, Wrapped) else value


# --- widgets of CTK and Slicer ----------------------------------------------------------------------------------------
class ctkCollapsibleButton(QtWidgets.QGroupBox):
    """A titled box that can be collapsed."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = False

    text = QtCore.Property(str, lambda self: self.title(), lambda self, value: self.setTitle(value))
    collapsed = QtCore.Property(
        bool, lambda self: self._collapsed, lambda self, value: setattr(self, "_collapsed", value)
    )


class qMRMLWidget(QtWidgets.QWidget):
    """Hands its scene on to the MRML widgets that the .ui file connects with it."""

    def setMRMLScene(self, scene) -> None:
        """Set the scene of this widget and of its selectors."""
        for child in self.findChildren(qMRMLNodeComboBox):
            child.setMRMLScene(scene)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """A node selector: it forgets a node that leaves the scene."""

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None

    def setMRMLScene(self, scene) -> None:
        """Follow the nodes of ``scene``."""
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
        if node is not self._node:
            self._node = node
            self.currentNodeChanged.emit(node)


CUSTOM_WIDGETS = (ctkCollapsibleButton, qMRMLWidget, qMRMLNodeComboBox)


class QUiLoader:
    """Loads a .ui file; properties that only the real widgets have become dynamic ones, connections are left out."""

    def load(self, file) -> Wrapped:
        """The top widget of an open QFile."""
        loader = QtUiTools.QUiLoader()
        for widget in CUSTOM_WIDGETS:
            loader.registerCustomWidget(widget)
        root = ElementTree.fromstring(bytes(unwrap(file).readAll()).decode("utf-8"))
        for connections in root.findall("connections"):
            root.remove(connections)  # they carry MRML types that PySide cannot know; setMRMLScene does their work
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        return wrap(loader.load(buffer))


# --- the application --------------------------------------------------------------------------------------------------
class ModuleManager:
    """Accepts the connection that the module widget makes."""

    def connect(self, signature: str, slot) -> None:
        """No module is ever unloaded here."""


class Application:
    """The members of slicer.app that the modules use."""

    def __init__(self, temporary: str):
        self.temporaryPath = temporary
        self.clipboardText = ""

    def processEvents(self) -> None:
        """Let Qt work."""
        QtWidgets.QApplication.processEvents()

    def clipboard(self):
        """The clipboard; what was copied is in ``clipboardText``."""
        return types.SimpleNamespace(setText=lambda text: setattr(self, "clipboardText", text))

    def moduleManager(self) -> ModuleManager:
        """The module manager."""
        return ModuleManager()


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
        return str(Path(sys.modules[self.moduleName].__file__).parent / "Resources" / name)

    def setup(self) -> None:
        """Called by the panel's own setup."""

    def onReload(self) -> None:
        """Called by the panel's own onReload."""


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


# --- parameterNodeWrapper ---------------------------------------------------------------------------------------------
def parameterNodeWrapper(cls: type) -> type:
    """The class as a typed view of a vtkMRMLScriptedModuleNode: bool, str, Enum and node parameters."""
    types_of = dict(cls.__annotations__)
    defaults = {name: getattr(cls, name, None) for name in types_of}

    def read(self, name: str):
        kind, node = types_of[name], self.parameterNode
        if issubclass(kind, slicer.vtkMRMLNode):
            return node.GetNodeReference(name)
        text = node.GetParameter(name)
        if issubclass(kind, Enum):
            return kind[text] if text else defaults[name]
        return {"true": True, "false": False, "": defaults[name]}.get(text, text)

    def write(self, name: str, value) -> None:
        kind, node = types_of[name], self.parameterNode
        if issubclass(kind, slicer.vtkMRMLNode):
            node.SetNodeReferenceID(name, value.GetID() if value else None)
        else:
            text = value.name if issubclass(kind, Enum) else value
            node.SetParameter(name, str(text).lower() if kind is bool else text)

    def init(self, parameterNode) -> None:
        self.parameterNode = parameterNode
        self._guis = {}

    def typed(name: str) -> property:
        return property(lambda self: read(self, name), lambda self, value: write(self, name, value))

    members = {name: typed(name) for name in types_of}
    members |= {"__init__": init, "types_of": types_of, "connectGui": connect_gui, "disconnectGui": disconnect_gui}
    members["AddObserver"] = lambda self, *arguments: self.parameterNode.AddObserver(*arguments)
    members["RemoveObserver"] = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    return type(cls.__name__, (), members)


def connect_gui(self, ui) -> int:
    """Tie widgets with the property SlicerParameterName to their parameters; returns a tag."""
    bound = {widget.property(PARAMETER): widget for widget in vars(ui).values() if widget.property(PARAMETER)}
    slots = []
    for name, widget in bound.items():
        kind = self.types_of[name]  # KeyError: the .ui names a parameter that is not there
        if issubclass(kind, Enum) and widget.count == 0:
            for member in kind:
                widget.addItem(member.label())
        signal = {"QCheckBox": "stateChanged", "QComboBox": "currentIndexChanged"}.get(type(widget).__name__)
        slots.append((getattr(widget, signal or "currentNodeChanged"), _to_parameter(self, name, widget, kind)))
    _to_widgets(self, bound)
    for signal, slot in slots:
        signal.connect(slot)
    tag = self.parameterNode.AddObserver(vtkCommand.ModifiedEvent, lambda caller, event: _to_widgets(self, bound))
    self._guis[tag] = slots
    return tag


def disconnect_gui(self, tag: int) -> None:
    """Untie the widgets of a tag."""
    self.parameterNode.RemoveObserver(tag)
    for signal, slot in self._guis.pop(tag):
        signal.disconnect(slot)


def _to_parameter(self, name: str, widget: Wrapped, kind: type):
    def changed() -> None:
        if issubclass(kind, Enum):
            setattr(self, name, list(kind)[widget.currentIndex])
        else:
            setattr(self, name, widget.checked if kind is bool else widget.currentNode())

    return changed


def _to_widgets(self, bound: dict[str, Wrapped]) -> None:
    for name, widget in bound.items():
        value = getattr(self, name)
        if isinstance(value, Enum):
            widget.currentIndex = list(type(value)).index(value)
        elif isinstance(value, bool):
            widget.checked = value
        else:
            widget.setCurrentNode(value)


# --- installation -----------------------------------------------------------------------------------------------------
def install(scene, temporary: str) -> Application:
    """Put the stand-ins in place for ``scene``; returns what the modules see as slicer.app."""
    QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    qt, ctk = types.ModuleType("qt"), types.ModuleType("ctk")
    for qt_class in (QtCore.QTimer, QtCore.QFile, QtWidgets.QWidget, QtWidgets.QVBoxLayout):
        setattr(qt, qt_class.__name__, wrapped_class(qt_class.__name__, qt_class))
    qt.QFile.ReadOnly, qt.QUiLoader = QtCore.QIODevice.ReadOnly, QUiLoader
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    for cls in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(base, cls.__name__, cls)
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper = parameterNodeWrapper
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr, i18n.translate = (lambda text: text), (lambda context, text: text)
    for module in (qt, ctk, base, wrapper, i18n):
        sys.modules[module.__name__] = module
    slicer.mrmlScene, slicer.app = scene, Application(temporary)
    return slicer.app


def make_parent() -> Wrapped:
    """The widget that Slicer gives a panel: with a layout, and open."""
    widget = QtWidgets.QWidget()
    widget.setLayout(QtWidgets.QVBoxLayout())
    widget.setProperty("isEntered", True)
    parent = wrap(widget)
    parent.__dict__["isEntered"] = True
    return parent
