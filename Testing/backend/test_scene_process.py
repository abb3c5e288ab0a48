"""The process that builds the scene: it starts early, and nothing of it is left when a run ends early."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import SimpleITK as sitk

from bpr.compute.device import installed
from bpr.results import scene
from bpr.results.scene import SceneProcess

IMAGE = sitk.Image(4, 4, 4, sitk.sitkInt16)


def test_without_slicer_core_the_notice_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scene, "installed", lambda package: False)
    with SceneProcess() as process:
        process.show(IMAGE)
        process.write(tmp_path)
        notice = process.finish()
    assert notice.code == "scene_skipped" and "slicer-core is not installed" in notice.message


@pytest.mark.skipif(not (installed("slicer") and installed("vtk")), reason="slicer-core is not installed")
def test_a_cancelled_run_leaves_neither_process_nor_files():
    with pytest.raises(KeyboardInterrupt), SceneProcess() as process:
        process.show(IMAGE)
        child, scratch = process._process.pid, Path(process._scratch.name)
        assert psutil.pid_exists(child) and (scratch / "volume.nrrd").is_file()
        raise KeyboardInterrupt
    assert not psutil.pid_exists(child) and not scratch.exists()


@pytest.mark.skipif(not (installed("slicer") and installed("vtk")), reason="slicer-core is not installed")
def test_a_scene_that_cannot_be_built_is_a_notice_with_the_reason(tmp_path: Path):
    with SceneProcess() as process:
        process.show(IMAGE)
        process.write(tmp_path / "nowhere")
        notice = process.finish()
    assert notice.code == "scene_skipped" and "nowhere is missing" in notice.message
