"""scene.mrb: built by Slicer's own MRML in a process of its own, so that the backend never imports slicer or vtk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import SimpleITK as sitk

from bpr.compute.device import installed
from bpr.errors import Notice
from bpr.results.summary import RunResult

TIMEOUT_S = 300


def write_scene(result: RunResult, folder: Path) -> Notice | None:
    """Write ``scene.mrb`` into the folder; a notice says why when there is none.

    The scene is an extra: a run does not fail for want of slicer-core or of a system library that vtk needs.
    """
    if not (installed("slicer") and installed("vtk")):
        return Notice("scene_skipped", "scene.mrb was not written: the package slicer-core is not installed.")
    with tempfile.TemporaryDirectory() as scratch:
        volume = Path(scratch) / "volume.nrrd"
        sitk.WriteImage(result.volume.image, str(volume))
        target = folder / "scene.mrb"
        path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUTF8": "1"}
        command = [sys.executable, "-m", "BPRSegmentationLib.scene_file", str(folder), str(volume), str(target)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_S)
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] if done.returncode else []
        except subprocess.TimeoutExpired:
            reason = [f"it took longer than {TIMEOUT_S} s"]
        if reason or not target.is_file():
            target.unlink(missing_ok=True)
            return Notice("scene_skipped", f"scene.mrb was not written: {' '.join(reason) or 'unknown reason'}")
    return None
