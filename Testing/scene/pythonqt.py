"""Qt as PythonQt shows it to Slicer's modules, over PySide6, and stricter than PythonQt where that finds mistakes.

- A Qt property is an attribute (``button.text``), never a call; one that Qt does not know is an error, and so is a
  value of the wrong type.
- Signals are connected by C++ signature, ``connect("clicked(bool)", slot)``, which Qt must know, or as
  ``button.clicked.connect(slot)``. A function or method gets as many arguments as it takes, another callable all.
- Enumerators are members of their class (``qt.Qt.Checked``), not of an enum; keyword arguments do not exist.
- The static functions of QFileDialog return a string.
- What a slot raises is kept in ``SLOT_ERRORS``: PythonQt prints it and goes on, and so would hide it from a test.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import inspect
import sys
import types

from PySide6 import QtCore, QtGui, QtWidgets

if sys.version_info < (3, 12):
    # PySide6's wheel is built for immortal constants, which came with Python 3.12, and takes a reference to None, True
    # or False away at many calls; without this the interpreter would end after some ten thousand of them.
    for _constant in (None, True, False):
        ctypes.c_ssize_t.from_address(id(_constant)).value += 1 << 40

SLOT_ERRORS: list[BaseException] = []
FILE_ANSWERS: list[str] = []  # what the person answers to the next file dialogs; "" is Cancel
OPENED_URLS: list[str] = []
WRAPPED_CLASSES: dict[str, type] = {}
QT_CLASSES: dict[str, type] = {}
CPP_SIGNALS: dict[str, str] = {}  # C++ signatures of signals that the stand-ins of Slicer's widgets send
CONNECTIONS: dict = {}


class Wrapped:
    """A QObject as PythonQt shows it. One subclass for each Qt class, so that ``type(widget)`` can be compared."""

    def __init__(self, *arguments):
        self.__dict__["_q"] = QT_CLASSES[type(self).__name__](*map(unwrap, arguments))
        self._q._wrapped = self

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        name = "objectName" if name == "name" else name
        if self._q.metaObject().indexOfProperty(name) >= 0:
            return wrap(self._q.property(name))
        found = getattr(self._q, name)  # AttributeError for what Qt does not know
        if isinstance(found, QtCore.SignalInstance):
            return Signal(self._q, name)
        return (lambda *arguments: wrap(found(*map(unwrap, arguments)))) if callable(found) else found

    def __setattr__(self, name: str, value) -> None:
        name = "objectName" if name == "name" else name
        index = self._q.metaObject().indexOfProperty(name)
        if index < 0 and name not in self._q.dynamicPropertyNames():
            raise AttributeError(f"{type(self).__name__} has no property {name}; new attributes are not allowed")
        if index >= 0 and not self._q.metaObject().property(index).isWritable():
            raise AttributeError(f"{name} of {type(self).__name__} is read-only")
        value = unwrap(value)
        if index >= 0 and _wrong_type(self._q.metaObject().property(index), value):
            raise ValueError(f"{type(self).__name__}.{name} does not take {value!r}")
        self._q.setProperty(name, value)

    def __eq__(self, other) -> bool:
        return isinstance(other, Wrapped) and self._q is other._q

    def __hash__(self) -> int:
        return id(self._q)

    def connect(self, signature: str, slot) -> bool:
        """Connect by C++ signature, as PythonQt's own connect."""
        Signal(self._q, _signal_name(self._q, signature)).connect(slot)
        return True

    def disconnect(self, signature: str, slot) -> bool:
        """Undo ``connect``."""
        Signal(self._q, _signal_name(self._q, signature)).disconnect(slot)
        return True


def _wrong_type(prop: QtCore.QMetaProperty, value) -> bool:
    kind = prop.typeName()
    if kind == "QString":
        return not isinstance(value, str)
    if kind == "bool":
        return not isinstance(value, bool | int)
    return kind in ("int", "double") and not isinstance(value, int | float)


def _signal_name(owner: QtCore.QObject, signature: str) -> str:
    name = signature.partition("(")[0]
    normalized = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    if owner.metaObject().indexOfSignal(normalized) < 0 and CPP_SIGNALS.get(name) != normalized:
        raise ValueError(f"{owner.metaObject().className()} has no signal {signature}")
    return name


class Signal:
    """A signal that gives a Python slot as many arguments as PythonQt would."""

    def __init__(self, owner: QtCore.QObject, name: str):
        self._owner, self._name = owner, name

    def connect(self, slot) -> None:
        """Call ``slot`` when the signal is sent."""
        count = argument_count(slot)

        def call(*arguments) -> None:
            try:
                slot(*(wrap(argument) for argument in arguments[:count]))
            except BaseException as error:  # noqa: BLE001 - PythonQt prints whatever it is
                SLOT_ERRORS.append(error)
                raise

        connection = getattr(self._owner, self._name).connect(_with_arity(call, self._arity()))
        CONNECTIONS.setdefault((id(self._owner), self._name, slot), []).append(connection)

    def _arity(self) -> int:
        """Number of the signal's arguments, those with a default value included."""
        meta = self._owner.metaObject()
        methods = [meta.method(index) for index in range(meta.methodCount())]
        return max(method.parameterCount() for method in methods if method.name().data().decode() == self._name)

    def disconnect(self, slot) -> None:
        """No longer call ``slot``."""
        for connection in CONNECTIONS.pop((id(self._owner), self._name, slot), []):
            QtCore.QObject.disconnect(connection)


def _with_arity(call, count: int):
    """``call`` with a declared number of parameters: PySide leaves out what a slot does not declare."""
    return [call, lambda a: call(a), lambda a, b: call(a, b), lambda a, b, c: call(a, b, c),
            lambda a, b, c, d: call(a, b, c, d)][count]  # fmt: skip


def argument_count(slot) -> int | None:
    """How many arguments PythonQt passes at most: what a function or method declares, everything to other callables."""
    function = slot.__func__ if inspect.ismethod(slot) else slot
    if not isinstance(function, types.FunctionType):
        return None
    if function.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return function.__code__.co_argcount - inspect.ismethod(slot)


def wrapped_class(name: str, qt_class: type) -> type:
    """The PythonQt-like class for a Qt class, with its enumerators and static functions."""
    if name not in WRAPPED_CLASSES:
        QT_CLASSES[name] = qt_class
        WRAPPED_CLASSES[name] = _Meta(name, (Wrapped,), {})
    return WRAPPED_CLASSES[name]


class _Meta(type):
    """Class attributes: enumerators and static functions of the Qt class, but not its enum types."""

    def __getattr__(cls, name: str):
        if name.startswith("__") or cls.__name__ not in QT_CLASSES:
            raise AttributeError(name)
        return _class_member(QT_CLASSES[cls.__name__], name)


def _class_member(qt_class: type, name: str):
    found = getattr(qt_class, name)
    if isinstance(found, type) and issubclass(found, enum.Enum):
        raise AttributeError(f"PythonQt has no {qt_class.__name__}.{name}: name the enumerator in its class")
    if isinstance(found, enum.Enum):
        return found
    if callable(found):
        return lambda *arguments: wrap(found(*map(unwrap, arguments)))
    return found


class _Enumerators:
    """The namespace ``qt.Qt``: enumerators without their enums."""

    def __getattr__(self, name: str):
        return _class_member(QtCore.Qt, name)


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
    """The QObject of a wrapper, the Qt class of a wrapped class; everything else as it is."""
    if isinstance(value, type) and value.__name__ in QT_CLASSES:
        return QT_CLASSES[value.__name__]
    return value._q if isinstance(value, Wrapped) else value


class QFileDialog:
    """File dialogs that a test answers through ``FILE_ANSWERS``; PythonQt's return plain strings."""

    @staticmethod
    def _answer(parent=None, caption: str = "", directory: str = "", filter: str = "") -> str:
        if not all(isinstance(text, str) for text in (caption, directory, filter)):
            raise ValueError("captions, folders and filters are strings")
        return FILE_ANSWERS.pop(0) if FILE_ANSWERS else ""

    getOpenFileName = getSaveFileName = getExistingDirectory = _answer


class QDesktopServices:
    """Nothing is opened; what would be is in ``OPENED_URLS``."""

    @staticmethod
    def openUrl(url: QtCore.QUrl) -> bool:
        """Remember the address."""
        OPENED_URLS.append(url.toString())
        return True


@functools.cache
def _value_class(qt_class: type):
    """A class that is no QObject (colors, items): constructed as it is, with its enumerators and static functions."""

    class Value:
        def __new__(cls, *arguments):
            return qt_class(*map(unwrap, arguments))

    Value.__name__ = qt_class.__name__
    members = {
        "__getattr__": lambda cls, name: _class_member(qt_class, name),
        "__instancecheck__": lambda cls, value: isinstance(value, qt_class),
    }
    meta = type("ValueMeta", (type,), members)
    return meta(qt_class.__name__, (Value,), {})


def qt_module() -> types.ModuleType:
    """The module ``qt``: all of QtCore, QtGui and QtWidgets in one namespace, as in Slicer."""
    module = types.ModuleType("qt")
    module.Qt, module.QFileDialog, module.QDesktopServices = _Enumerators(), QFileDialog, QDesktopServices

    def find(name: str):
        for source in (QtCore, QtGui, QtWidgets):
            found = getattr(source, name, None) if name.startswith("Q") else None
            if isinstance(found, type):
                is_object = issubclass(found, QtCore.QObject)
                return wrapped_class(name, found) if is_object else _value_class(found)
        raise AttributeError(f"module qt has no {name}")

    module.__getattr__ = find
    return module
