"""Fixtures and helpers of the tests that click: the application's stand-in, a volume, the opened panel, a child."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import slicer_stand_in
from PySide6 import QtWidgets
from pythonqt import SLOT_ERRORS

from BPRSegmentationLib.process import ChildProcess, child_environment
from BPRSegmentationLib.scene_file import load_volume, new_stage

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake_child.py")
LIBRARIES = ("BPRSegmentation", "BPRSegmentationLib", "BPRTraining", "BPRTrainingLib")


@pytest.fixture
def stage():
    return new_stage()


@pytest.fixture
def app(stage, tmp_path: Path, monkeypatch):
    """The application's stand-in; modules are imported anew for each test, and no slot may raise."""
    for name in ("BPRSegmentation", "BPRTraining"):
        monkeypatch.syspath_prepend(str(ROOT / name))
    forget_modules()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    uncaught = []
    monkeypatch.setattr(
        sys, "excepthook", lambda kind, error, trace: uncaught.append(error)
    )  # VTK's observers end here
    yield slicer_stand_in.install(stage.scene, str(temporary), stage.application_logic)
    errors = [error for error in [*SLOT_ERRORS, *uncaught]]
    assert not errors, f"raised in slots or observers: {errors}"


def forget_modules() -> None:
    """Let the module files be read again: their base classes belong to one installation of the stand-in."""
    for name in [name for name in sys.modules if name.partition(".")[0] in LIBRARIES]:
        del sys.modules[name]


@pytest.fixture
def volume(stage, a_case):
    return load_volume(stage.scene, a_case.ct, "CT")


@pytest.fixture
def module(app, monkeypatch):
    import BPRSegmentation
    from BPRSegmentationLib import run_control

    monkeypatch.setattr(run_control, "ensure_packages", lambda *arguments: None)
    return BPRSegmentation


@pytest.fixture
def host(module, volume):
    """The loaded module with its panel open."""
    host = slicer_stand_in.Host("BPRSegmentation")
    yield host
    host.widget.cleanup()


@pytest.fixture
def panel(host):
    return host.widget


def fake_child(behavior: str, case, *more: str):
    """A launcher of the stand-in child, see fake_child.py."""
    command = [sys.executable, str(FAKE), behavior]
    return lambda job: ChildProcess(
        [*command, str(job), str(case.folder), *more], child_environment(FAKE.parent, temporary=job.parent)
    )


def use(panel, behavior: str, case, *more: str) -> None:
    """Let the panel start the stand-in child."""
    panel.logic.launch = fake_child(behavior, case, *more)


def wait(condition, limit_s: float = 20) -> None:
    """Let the application work until the condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "took too long"
        QtWidgets.QApplication.processEvents()
        time.sleep(0.005)


def settle() -> None:
    """Let everything that is due now happen."""
    for _round in range(3):
        QtWidgets.QApplication.processEvents()


def run_to_end(panel) -> None:
    """Click Run and wait for the end."""
    panel.ui.runButton.click()
    wait(lambda: panel._control.run is None)
