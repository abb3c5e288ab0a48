"""Fixtures of the scene and widget tests; where Slicer's MRML cannot be loaded, their files are left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from result_fixture import Case, write_case

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # windows would pop up, and without a display Qt aborts
NEED_MRML = ["test_results.py", "test_scene_file.py", "test_runs.py", "test_widget.py", "test_screenshots.py"]
NEED_QT = ["test_widget.py"]


def why_not(module: str) -> str:
    """Why a module cannot be loaded (not installed, or a system library is missing); empty when it can."""
    try:
        __import__(module)
    except ImportError as error:
        return str(error)
    return ""


NO_MRML, NO_QT = why_not("slicer"), why_not("PySide6.QtUiTools")
collect_ignore = (NEED_MRML if NO_MRML else []) + (NEED_QT if NO_QT else [])  # test_available.py says so aloud


@pytest.fixture
def a_case(tmp_path: Path) -> Case:
    """An axial volume and its result folder."""
    return write_case(tmp_path / "case")
