"""The stand-in is as strict as PythonQt: what Slicer would refuse must be refused here too."""

from __future__ import annotations

import functools

import pytest
from PySide6 import QtWidgets
from pythonqt import SLOT_ERRORS, argument_count, qt_module


@pytest.fixture
def qt():
    QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    SLOT_ERRORS.clear()
    yield qt_module()
    SLOT_ERRORS.clear()


def test_properties_are_attributes_and_never_calls(qt) -> None:
    button = qt.QPushButton("Run")
    assert button.text == "Run" and button.enabled is True
    button.text = "Cancel"
    button.setText("Run")  # a slot
    with pytest.raises(TypeError):
        button.text()


@pytest.mark.parametrize("name, value", [("txt", "x"), ("text", 3), ("text", None), ("enabled", "yes"), ("height", 3)])
def test_wrong_names_and_values_are_refused(qt, name: str, value) -> None:
    with pytest.raises((AttributeError, ValueError)):
        setattr(qt.QPushButton("Run"), name, value)


def test_signatures_must_exist(qt) -> None:
    box = qt.QComboBox()
    box.connect("currentIndexChanged(int)", lambda index: None)
    for signature in ("currentIndexChanged(QString)", "clicked()", "currentIndexChanged"):
        with pytest.raises(ValueError):
            box.connect(signature, lambda: None)


def test_enumerators_belong_to_their_class(qt) -> None:
    assert qt.Qt.Checked and qt.QHeaderView.Stretch is not None
    for owner, name in ((qt.Qt, "CheckState"), (qt.QHeaderView, "ResizeMode")):
        with pytest.raises(AttributeError):
            getattr(owner, name)


def test_keyword_arguments_do_not_exist(qt) -> None:
    with pytest.raises(TypeError):
        qt.QPushButton(text="Run")
    with pytest.raises(TypeError):
        qt.QPushButton("Run").setText(text="x")
    with pytest.raises(TypeError):
        qt.QColor(r=1)


def test_slots_get_as_many_arguments_as_pythonqt_passes() -> None:
    class Slots:
        def none(self):
            pass

        def one(self, checked=False):
            pass

        def many(self, *arguments):
            pass

    assert argument_count(Slots().none) == 0 and argument_count(Slots().one) == 1
    assert argument_count(lambda: None) == 0
    assert argument_count(Slots().many) is None and argument_count(functools.partial(print)) is None


def test_what_a_slot_raises_is_kept(qt, monkeypatch) -> None:
    import sys

    monkeypatch.setattr(sys, "excepthook", lambda *error: None)
    button = qt.QPushButton("Run")
    button.connect("clicked(bool)", lambda checked: 1 / 0)
    button.click()
    assert [type(error) for error in SLOT_ERRORS] == [ZeroDivisionError]


def test_file_dialogs_return_a_string(qt) -> None:
    assert qt.QFileDialog.getOpenFileName(None, "Open", "", "Zip (*.zip)") == ""
    with pytest.raises(ValueError):
        qt.QFileDialog.getExistingDirectory(None, None)
