"""What the module's self-test does inside Slicer: the real thing on the phantom, in about a minute."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import slicer

from .export import RequestError
from .packages import ensure_packages
from .placement import VOLUME_ROLE
from .progress import State
from .results import find_result
from .samples import load_phantom

CANCEL_S = 2.0


class SelfTest:
    """The steps; ``case`` is the unittest.TestCase that asserts and displays, ``logic`` the module's logic."""

    def __init__(self, case, logic):
        self._case, self._logic = case, logic

    def run(self) -> None:
        """All steps, each from an empty scene. What the child process needs is installed first."""
        resources = Path(__file__).resolve().parents[1] / "Resources"
        ensure_packages(resources, "BPRSegmentation", "auto")
        for step in (self.refused, self.cancelled, self.failed, self.mainJob):
            slicer.mrmlScene.Clear()
            step()
            self._case.delayDisplay(f"{step.__name__}: passed")

    def refused(self) -> None:
        """A volume without voxels is refused in words."""
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        with self._case.assertRaisesRegex(RequestError, "no voxels"):
            self._logic.process(volume)

    def cancelled(self) -> None:
        """A cancelled run ends at once and leaves the scene as it was."""
        volume = load_phantom(spacing_mm=4.0)
        before = self._nodes()
        run = self._logic.process(volume, waitForCompletion=False)
        end = time.monotonic() + 60
        while run.running and run.progress.fraction == 0 and time.monotonic() < end:
            run.poll()
            time.sleep(0.05)
        started = time.monotonic()
        run.cancel()
        self._case.assertLess(time.monotonic() - started, CANCEL_S)
        self._case.assertEqual(run.progress.state, State.CANCELLED)
        self._case.assertEqual(self._nodes(), before)

    def failed(self) -> None:
        """What is no CT is refused by the child, in its words."""
        volume = load_phantom(spacing_mm=6.0)
        array = slicer.util.arrayFromVolume(volume)
        array[:] = 7
        slicer.util.arrayFromVolumeModified(volume)
        with self._case.assertRaisesRegex(RuntimeError, "CT"):
            self._logic.process(volume)

    def mainJob(self) -> None:
        """Scores, regions and segmentation of the phantom come into the scene, which is saved and opened again."""
        volume = load_phantom(spacing_mm=4.0)
        result = self._logic.process(volume)
        self._checkResult(result)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "scene.mrb")
            self._case.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(path)
        segmentation = next(
            node
            for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            if node.GetNodeReference(VOLUME_ROLE) is not None
        )
        self._checkResult(find_result(segmentation.GetNodeReference(VOLUME_ROLE)))

    def _checkResult(self, result) -> None:
        self._case.assertEqual(result.overlay.GetTransformNodeID(), result.volume.GetTransformNodeID())
        self._case.assertGreaterEqual(len(result.regions), 4)
        self._case.assertIn("liver", result.segment_ids)
        self._case.assertTrue(result.summary["segments"])

    def _nodes(self) -> list[str]:
        return [slicer.mrmlScene.GetNthNode(index).GetID() for index in range(slicer.mrmlScene.GetNumberOfNodes())]
