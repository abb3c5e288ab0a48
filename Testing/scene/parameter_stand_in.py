"""A small parameterNodeWrapper, for when Slicer's own is not at hand: the types and widgets that our modules use."""

from __future__ import annotations

import json
import typing
from enum import Enum

import slicer
from pythonqt import Wrapped
from vtkmodules.vtkCommonCore import vtkCommand

PARAMETER = "SlicerParameterName"
SIGNALS = {
    "QCheckBox": "stateChanged",
    "QComboBox": "currentIndexChanged",
    "QSpinBox": "valueChanged",
    "QDoubleSpinBox": "valueChanged",
    "ctkSliderWidget": "valueChanged",
    "QLineEdit": "textChanged",
    "qMRMLNodeComboBox": "currentNodeChanged",
}
VALUES = {"QCheckBox": "checked", "QSpinBox": "value", "QDoubleSpinBox": "value", "ctkSliderWidget": "value",
          "QLineEdit": "text"}  # fmt: skip


class WithinRange:
    """Annotation: lowest and highest value."""

    def __init__(self, minimum: float, maximum: float):
        self.minimum, self.maximum = minimum, maximum


class Kind:
    """The type of one parameter: from and to the text in the node."""

    def __init__(self, hint, default):
        self.range = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, WithinRange)), None)
        self.type = hint.__origin__ if self.range else hint
        self.is_list = typing.get_origin(self.type) is list
        self.is_node = not self.is_list and issubclass(self.type, slicer.vtkMRMLNode)
        self.is_enum = not self.is_list and issubclass(self.type, Enum)
        self.default = default

    def read(self, node, name: str):
        """The value in the node."""
        if self.is_node:
            return node.GetNodeReference(name)
        text = node.GetParameter(name)
        if self.is_enum:
            return self.type[text]
        return json.loads(text)

    def write(self, node, name: str, value) -> None:
        """Put a value into the node. Raises TypeError or ValueError for one that does not belong there."""
        if self.is_node:
            if value is not None and not value.IsA(self.type.__name__):
                raise TypeError(f"{name} takes a {self.type.__name__}")
            node.SetNodeReferenceID(name, value.GetID() if value else None)
            return
        expected = (list, tuple) if self.is_list else (int, float) if self.type is float else self.type
        if not isinstance(value, expected):
            raise TypeError(f"{name} takes a {expected}, not {value!r}")
        if self.range and not self.range.minimum <= value <= self.range.maximum:
            raise ValueError(f"{name} must be within {self.range.minimum} and {self.range.maximum}")
        node.SetParameter(name, value.name if self.is_enum else json.dumps(value))


def parameterNodeWrapper(cls: type) -> type:
    """The class as a typed view of a vtkMRMLScriptedModuleNode."""
    hints = typing.get_type_hints(cls, include_extras=True)
    kinds = {name: Kind(hint, getattr(cls, name, None)) for name, hint in hints.items()}

    def init(self, parameterNode) -> None:
        self.parameterNode = parameterNode
        self._guis = {}
        for name, kind in kinds.items():
            if not kind.is_node and not parameterNode.GetParameter(name):
                kind.write(parameterNode, name, kind.default)

    def typed(name: str) -> property:
        kind = kinds[name]
        return property(
            lambda self: kind.read(self.parameterNode, name),
            lambda self, value: kind.write(self.parameterNode, name, value),
        )

    members = {name: typed(name) for name in kinds}
    members |= {"__init__": init, "_kinds": kinds, "connectGui": connect_gui, "disconnectGui": disconnect_gui}
    members["AddObserver"] = lambda self, *arguments: self.parameterNode.AddObserver(*arguments)
    members["RemoveObserver"] = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    return type(cls.__name__, (), members)


def connect_gui(self, ui) -> int:
    """Tie widgets with the property SlicerParameterName to their parameters; returns a tag."""
    bound = {widget.property(PARAMETER): widget for widget in vars(ui).values() if widget.property(PARAMETER)}
    slots = []
    for name, widget in bound.items():
        kind = self._kinds[name]  # KeyError: the .ui names a parameter that is not there
        if kind.is_enum:
            widget.clear()
            for member in kind.type:
                widget.addItem(member.label())
        if kind.range:
            widget.minimum, widget.maximum = kind.range.minimum, kind.range.maximum
        slots.append((getattr(widget, SIGNALS[type(widget).__name__]), _to_parameter(self, name, widget, kind)))
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


def _to_parameter(self, name: str, widget: Wrapped, kind: Kind):
    def changed() -> None:
        if kind.is_enum:
            setattr(self, name, list(kind.type)[widget.currentIndex])
        elif kind.is_node:
            setattr(self, name, widget.currentNode())
        else:
            setattr(self, name, getattr(widget, VALUES[type(widget).__name__]))

    return changed


def _to_widgets(self, bound: dict[str, Wrapped]) -> None:
    for name, widget in bound.items():
        value, kind = getattr(self, name), self._kinds[name]
        if kind.is_enum:
            widget.currentIndex = list(kind.type).index(value)
        elif kind.is_node:
            widget.setCurrentNode(value)
        elif getattr(widget, VALUES[type(widget).__name__]) != value:
            setattr(widget, VALUES[type(widget).__name__], value)
