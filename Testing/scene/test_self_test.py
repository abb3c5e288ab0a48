"""The module's own self-test, as the button "Test" in Slicer's developer mode runs it, with the real child process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import slicer
from mrml_helpers import read_scene_file


def test_the_self_test_passes(module, app, stage, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "cache").mkdir()
    opened = []
    monkeypatch.setattr(slicer.util, "saveScene", lambda path: stage.scene.WriteToMRB(path))
    monkeypatch.setattr(
        slicer.util, "loadScene", lambda path: opened.append(read_scene_file(stage, Path(path), tmp_path / "cache"))
    )
    monkeypatch.setattr(module.BPRSegmentationLogic, "pythonExecutable", lambda self: sys.executable)
    test = module.BPRSegmentationTest()
    steps = []
    monkeypatch.setattr(test, "delayDisplay", lambda message, *more: steps.append(message))
    test.runTest()
    assert steps == ["refused: passed", "cancelled: passed", "failed: passed", "mainJob: passed"]
    assert not list(Path(app.temporaryPath).iterdir())
