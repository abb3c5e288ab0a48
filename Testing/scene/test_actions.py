"""What people do at the wrong moment: cancels at random times, random sequences of actions, a window that stays live.

BPR_CANCELS and BPR_SEQUENCES set how many (30 and 200 before a release; fewer by default), BPR_SEED another seed.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from pathlib import Path

import psutil
import pytest
import slicer
import slicer_stand_in
from mrml_helpers import nodes, volume_array
from panel_fixtures import run_to_end, settle, use, wait
from PySide6 import QtCore, QtWidgets
from pythonqt import SLOT_ERRORS

from BPRSegmentationLib.scene_file import load_volume

CANCELS = int(os.environ.get("BPR_CANCELS", "4"))
SEQUENCES = int(os.environ.get("BPR_SEQUENCES", "12"))
SEED = int(os.environ.get("BPR_SEED", "1"))
BLOCKED_S = 0.1


def scene_state(scene) -> list[tuple]:
    """IDs, XML and voxels of all nodes: equal only for scenes in which nothing has changed."""
    scene.SetSaveToXMLString(1)
    scene.Commit()
    text = scene.GetSceneXMLString()
    scene.SetSaveToXMLString(0)
    voxels = [hashlib.sha256(volume_array(node)).hexdigest() for node in nodes(scene, "vtkMRMLScalarVolumeNode")
              if node.GetImageData()]  # fmt: skip
    return [scene.GetNumberOfNodes(), hashlib.sha256(text.encode()).hexdigest(), *voxels]


def children() -> list[psutil.Process]:
    """Living processes below this one."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


class Gaps:
    """Measures the longest time during which the event loop did not get its turn: by the clock, and worked by us.

    On a machine that others use too the clock tells of them; ``longest`` is then what this thread itself has worked.
    """

    def __init__(self):
        self.longest, self._last = 0.0, self._now()
        self._timer = QtCore.QTimer()
        self._timer.setInterval(5)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def _now(self) -> float:
        busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1)
        return time.thread_time() if busy else time.monotonic()

    def _tick(self) -> None:
        now = self._now()
        if abs(now - self._last) < 60:  # else the clock was changed meanwhile
            self.longest = max(self.longest, now - self._last)
        self._last = now


def test_the_window_stays_live_while_the_child_talks(panel, a_case, monkeypatch) -> None:
    before_loading = []
    use(panel, "chatty", a_case)
    gaps = Gaps()
    panel.ui.runButton.click()
    run = panel._control.run
    loaded = run._load
    monkeypatch.setattr(run, "_load", lambda *args: before_loading.append(gaps.longest) or loaded(*args))
    wait(lambda: panel._control.run is None, limit_s=60)
    assert panel.ui.detailsText.plainText.count("line ") > 4000
    assert before_loading[0] < BLOCKED_S, f"blocked for {before_loading[0]:.3f} s"


def test_cancel_at_random_moments_leaves_nothing(panel, sample_ct, stage, app) -> None:
    pytest.importorskip("openvino")
    panel.logic.pythonExecutable = lambda: sys.executable
    panel._parameterNode.inputVolume = load_volume(stage.scene, sample_ct, "sample")
    settle()
    before = scene_state(stage.scene)
    assert before == scene_state(stage.scene)
    chance = random.Random(SEED)
    for _round in range(CANCELS):
        panel.ui.runButton.click()
        until = time.monotonic() + chance.choice([0.0, 0.3, 1.0, 2.0, 4.0, 8.0]) * chance.random()
        while time.monotonic() < until and panel._control.run:
            QtWidgets.QApplication.processEvents()
            time.sleep(0.002)
        if panel._control.run is None:
            pytest.fail(f"the run was over too soon: {panel.ui.statusLabel.text}")
        started = time.monotonic()
        panel.ui.runButton.click()
        assert time.monotonic() - started < 2
        assert panel._control.run is None and panel.ui.statusLabel.text == "Cancelled."
        assert scene_state(stage.scene) == before
        assert not children() and not list(Path(app.temporaryPath).iterdir())
    panel._parameterNode.produceSegmentation = False
    panel.ui.runButton.click()
    wait(lambda: panel._control.run is None, limit_s=120)
    assert "Regions:" in panel.ui.statusLabel.text, "the next run works"


class Person:
    """Somebody who clicks without reading. Every method without underscore is something that people do."""

    def __init__(self, host, case, stage, chance: random.Random):
        self._host, self._case, self._scene, self._chance = host, case, stage.scene, chance
        self._shown = True

    @property
    def _panel(self):
        return self._host.widget

    def _remove_one(self, class_name: str) -> None:
        found = nodes(self._scene, class_name)
        if found:
            self._scene.RemoveNode(self._chance.choice(found))

    def run(self) -> None:
        behavior = self._chance.choice(["good", "good", "good", "wait", "error", "crash", "out of memory", "no result"])
        use(self._panel, behavior, self._case)
        self._panel.ui.runButton.click()

    def cancel(self) -> None:
        if self._panel._control.run:
            self._panel.ui.runButton.click()

    def wait_a_little(self) -> None:
        until = time.monotonic() + self._chance.random() * 0.8
        while time.monotonic() < until:
            QtWidgets.QApplication.processEvents()
            time.sleep(0.005)

    def add_a_volume(self) -> None:
        load_volume(self._scene, self._case.ct, "another CT")

    def select_another_volume(self) -> None:
        found = [*nodes(self._scene, "vtkMRMLScalarVolumeNode"), None]
        self._panel.ui.inputSelector.setCurrentNode(self._chance.choice(found))

    def select_another_segmentation(self) -> None:
        found = [*nodes(self._scene, "vtkMRMLSegmentationNode"), None]
        self._panel.ui.outputSelector.setCurrentNode(self._chance.choice(found))

    def delete_a_volume(self) -> None:
        self._remove_one("vtkMRMLScalarVolumeNode")

    def delete_the_segmentation(self) -> None:
        self._remove_one("vtkMRMLSegmentationNode")

    def delete_a_table_or_a_box(self) -> None:
        self._remove_one(self._chance.choice(["vtkMRMLTableNode", "vtkMRMLMarkupsROINode", "vtkMRMLPlotChartNode",
                                              "vtkMRMLPlotSeriesNode", "vtkMRMLColorTableNode"]))  # fmt: skip

    def close_the_scene(self) -> None:
        self._scene.Clear(False)

    def keep_for_undo(self) -> None:
        self._scene.SetUndoOn()
        self._scene.SaveStateForUndo()

    def undo(self) -> None:
        self._scene.Undo()

    def switch_module(self) -> None:
        self._host.exit() if self._shown else self._host.enter()
        self._shown = not self._shown

    def reload(self) -> None:
        if self._shown:
            self._host.reload()
            self._quiet()

    def _quiet(self) -> None:
        from BPRSegmentationLib import run_control

        run_control.ensure_packages = lambda *arguments, **settings: None

    def click_through_the_table(self) -> None:
        for row in range(self._panel.ui.resultsTable.rowCount):
            self._panel.ui.resultsTable.setCurrentCell(row, 0)
            item = self._panel.ui.resultsTable.item(row, 0)
            item.setCheckState(self._chance.choice([slicer.qt.Qt.Checked, slicer.qt.Qt.Unchecked]))

    def click_the_buttons(self) -> None:
        names = ["show3D", "edit", "crop", "plot", "advancedDefaults", "outputsDefaults", "organsNone", "organsAll"]
        names += ["copy", "smallerTiles", "cpu", "addScene", "removeCases", "showCase"]
        names = [f"{name}Button" for name in names] + ["colorCheckBox", "boxesCheckBox"]
        for name in self._chance.sample(names, 5):
            getattr(self._panel.ui, name).click()

    def move_the_slices_and_the_opacity(self) -> None:
        for node in nodes(self._scene, "vtkMRMLSliceNode"):
            node.SetSliceOffset(self._chance.uniform(-100, 300))
        self._panel.ui.opacitySlider.value = self._chance.random()


def test_random_sequences_of_actions_raise_nothing(host, a_case, stage, app) -> None:
    actions = [name for name in vars(Person) if not name.startswith("_")]
    for number in range(SEQUENCES):
        chance = random.Random(SEED * 1000 + number)
        person, done = Person(host, a_case, stage, chance), []
        for _step in range(chance.randint(4, 14)):
            done.append(chance.choice(actions))
            getattr(person, done[-1])()
            settle()
            assert not SLOT_ERRORS, f"sequence {number}: {done} raised {SLOT_ERRORS}"
        if not person._shown:
            host.enter()
        stage.scene.Clear(False)
        settle()
        assert host.widget._control.run is None and not children(), done
        assert not list(Path(app.temporaryPath).iterdir()), done
        assert not host.widget.ui.runButton.enabled, done
    load_volume(stage.scene, a_case.ct, "CT")
    host.exit()
    host.enter()
    person._quiet()
    host.widget.ui.outputsDefaultsButton.click()
    use(host.widget, "good", a_case)
    run_to_end(host.widget)
    assert "structures were segmented" in host.widget.ui.statusLabel.text, "and it still works"
    assert isinstance(host, slicer_stand_in.Host)
