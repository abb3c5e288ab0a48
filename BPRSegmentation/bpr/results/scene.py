"""scene.mrb: built by Slicer's own MRML in a process of its own, so that the backend never imports slicer or vtk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import SimpleITK as sitk

from bpr.compute.device import installed
from bpr.errors import Notice

TIMEOUT_S = 300


class SceneProcess:
    """The process that builds the scene, a context manager: at its end the process and its scratch files are gone.

    Loading MRML and the volume takes seconds of one core, so it starts before anything is read; ``show`` gives it the
    volume while the networks run, ``write`` says where the finished results lie, ``finish`` waits.

    The scene is an extra: a run does not fail for want of slicer-core, of a system library that vtk needs, or of room
    for the scratch file; ``finish`` says in a notice why there is no scene.
    """

    def __init__(self):
        self._process, self._reason = None, ""
        self._target: Path | None = None

    def __enter__(self) -> SceneProcess:
        self._scratch = tempfile.TemporaryDirectory()
        self._errors = open(Path(self._scratch.name) / "errors.txt", "w+b")
        if not (installed("slicer") and installed("vtk")):
            self._reason = "the package slicer-core is not installed."
            return self
        path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUTF8": "1"}
        command = [sys.executable, "-m", "BPRSegmentationLib.scene_file", "-"]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                         stderr=self._errors)  # fmt: skip
        return self

    def show(self, image: sitk.Image) -> None:
        """The volume of the scene."""
        if self._process is None:
            return
        volume = Path(self._scratch.name) / "volume.nrrd"
        try:
            sitk.WriteImage(image, str(volume))
        except RuntimeError:
            self._reason = "the folder for temporary files may be full."
        self._tell(volume)

    def write(self, folder: Path) -> None:
        """The results in ``folder`` are complete: show them and write ``scene.mrb`` beside them."""
        self._target = folder / "scene.mrb"
        self._tell(folder)
        self._tell(self._target)

    def finish(self) -> Notice | None:
        """Wait for the scene file; a notice says why there is none."""
        if self._process is not None and not self._reason:
            try:
                code = self._process.wait(TIMEOUT_S)
                self._errors.seek(0)
                words = self._errors.read().decode(errors="replace").strip().splitlines()
                self._reason = "".join(words[-1:]) if code else ""
            except subprocess.TimeoutExpired:
                self._reason = f"it took longer than {TIMEOUT_S} s"
        if not self._reason and self._target.is_file():
            return None
        self._target.unlink(missing_ok=True)
        return Notice("scene_skipped", f"scene.mrb was not written: {self._reason or 'unknown reason'}")

    def _tell(self, path: Path) -> None:
        """One line with a path; a process that has ended already says why in ``finish``."""
        if self._process is not None and not self._reason:
            with suppress(OSError):
                self._process.stdin.write((json.dumps(str(path.absolute())) + "\n").encode())
                self._process.stdin.flush()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with suppress(OSError):  # what could not be told to a process that had ended
                self._process.stdin.close()
        self._errors.close()
        self._scratch.cleanup()
