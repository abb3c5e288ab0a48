"""Fixtures of the scene and widget tests; where Slicer's MRML cannot be loaded, their files are left out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from result_fixture import Case, write_case

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # windows would pop up, and without a display Qt aborts
NEED_MRML = [
    "test_actions.py",
    "test_batch_panel.py",
    "test_crops_and_files.py",
    "test_models_panel.py",
    "test_pictures.py",
    "test_pythonqt.py",
    "test_results.py",
    "test_results_panel.py",
    "test_runs.py",
    "test_scene_file.py",
    "test_score_place.py",
    "test_screenshots.py",
    "test_self_test.py",
    "test_widget.py",
]
NEED_QT = [
    name
    for name in NEED_MRML
    if name.endswith(("actions.py", "batch.py", "panel.py", "pictures.py", "pythonqt.py", "self_test.py", "widget.py"))
]


def why_not(module: str) -> str:
    """Why a module cannot be loaded (not installed, or a system library is missing); empty when it can."""
    try:
        __import__(module)
    except ImportError as error:
        return str(error)
    return ""


NO_MRML, NO_QT = why_not("slicer"), why_not("PySide6.QtUiTools")
collect_ignore = (NEED_MRML if NO_MRML else []) + (NEED_QT if NO_QT else [])  # test_available.py says so aloud

if not (NO_MRML or NO_QT):
    from panel_fixtures import app, host, module, panel, stage, volume  # noqa: F401 - fixtures


@pytest.fixture
def a_case(tmp_path: Path) -> Case:
    """An axial volume and its result folder."""
    return write_case(tmp_path / "case")


@pytest.fixture(autouse=True)
def same_backend_afterwards():
    """Reloading a module in a test imports the backend anew; later tests must not meet two versions of its classes."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "bpr"}
    yield
    if any(sys.modules.get(name) is not module for name, module in before.items()):
        for name in [name for name in sys.modules if name.split(".")[0] == "bpr"]:
            del sys.modules[name]
        sys.modules.update(before)
