"""Pictures of the panel: the real .ui and the real code, under the stand-in of PythonQt, in each of its states."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import slicer
import slicer_stand_in
from panel_fixtures import ROOT, fake_child, settle
from PySide6 import QtCore, QtGui, QtWidgets

from BPRSegmentationLib.result_folder import ResultError
from BPRSegmentationLib.scene_file import load_volume, new_stage

WIDTH = 460


class Panel:
    """The opened panel on a CT, with a child that brings ``folder`` as its result."""

    def __init__(self, folder: Path, ct: Path, name: str = "CT"):
        self._scratch = tempfile.TemporaryDirectory()
        self.stage = new_stage()
        sys.path[:0] = [str(ROOT / "BPRSegmentation")]
        (Path(self._scratch.name) / "temporary").mkdir()
        temporary = str(Path(self._scratch.name) / "temporary")
        slicer_stand_in.install(self.stage.scene, temporary, self.stage.application_logic)
        self.volume = load_volume(self.stage.scene, ct, name)
        self.widget = slicer_stand_in.Host("BPRSegmentation").widget
        from BPRSegmentationLib import run_control

        run_control.ensure_packages = lambda *arguments, **settings: None
        self.ui, self._folder = self.widget.ui, folder
        self._window = self.widget.parent._q
        self._window.show()

    def run(self, behavior: str, until: Callable[[], bool]) -> None:
        """Click Run with the stand-in child and wait."""
        self.widget.logic.launch = fake_child(behavior, SimpleNamespace(folder=self._folder))
        self.ui.runButton.click()
        end = time.monotonic() + 60
        while not until() and time.monotonic() < end:
            QtWidgets.QApplication.processEvents()
            time.sleep(0.01)

    def only(self, *sections: str) -> None:
        """Open these collapsible sections and close the others."""
        for name in ("inputs", "outputs", "what", "advanced", "models", "results", "composition", "batch", "details"):
            getattr(self.ui, f"{name}CollapsibleButton").collapsed = name not in sections

    def save(self, path: Path) -> Path:
        """The panel as high as its content."""
        settle()
        self._window.resize(WIDTH, 10)
        settle()
        self._window.resize(WIDTH, self._window.sizeHint().height())
        settle()
        self._window.grab().save(str(path))
        return path

    def close(self) -> None:
        """End everything."""
        self.widget.cleanup()
        self._window.hide()
        self._scratch.cleanup()


def draw_panels(folder: Path, ct: Path, out: Path) -> list[Path]:
    """One picture for each state; returns their paths. Raises ResultError when the result cannot be loaded."""
    panel = Panel(folder, ct)
    try:
        drawn = list(_draw_states(panel, folder, out))
    finally:
        panel.close()
    return [*drawn, *draw_composition(folder, out)]


def _draw_states(panel: Panel, folder: Path, out: Path):
    ui, control = panel.ui, panel.widget._control
    panel.only("inputs", "outputs")
    yield panel.save(out / "panel_ready.png")
    panel.only("outputs", "what", "advanced")
    yield panel.save(out / "panel_choices.png")
    panel.only("models")
    ui.modelsTable.setCurrentCell(min(4, ui.modelsTable.rowCount - 1), 1)
    text = ui.modelCardText.plainText.replace(str(ROOT), "/opt/Slicer/BodyPartRegression")
    ui.modelCardText.plainText = text  # not where this machine keeps it
    yield panel.save(out / "panel_models.png")
    panel.only("inputs", "outputs")
    panel.run("wait", lambda: ui.progressBar.value > 0)
    yield panel.save(out / "panel_running.png")
    ui.runButton.click()
    panel.run("out of memory", lambda: control.run is None)
    panel.only("inputs", "details")
    yield panel.save(out / "panel_error.png")
    panel.run("result only", lambda: control.run is None)
    if panel.widget._results._result is None:
        raise ResultError(f"The result cannot be shown: {ui.statusLabel.text}")
    panel.only("inputs", "results")
    ui.resultsTable.setCurrentCell(0, 1)
    yield panel.save(out / "panel_results.png")
    yield from _draw_batch(panel, out)


def _draw_batch(panel: Panel, out: Path):
    panel.only("batch")
    for name, done in (("CT of Monday.nrrd", True), ("CT of Tuesday.nrrd", True), ("MR by mistake.nrrd", False)):
        _pretend(panel, Path(name), done)
    panel.widget._parameterNode.batchFolder = str(_batch_folder(panel))
    panel.widget._control._batchSection.show()
    ui = panel.ui
    ui.batchFolderEdit.blockSignals(True)
    ui.batchFolderEdit.text = "/data/batch of june"
    yield panel.save(out / "panel_batch.png")


def draw_composition(folder: Path, out: Path) -> list[Path]:
    """A real measurement on the phantom, alone in its scene: the section, and its slice in Slicer's own view."""
    import SimpleITK as sitk

    from bpr.phantom import make_phantom

    with tempfile.TemporaryDirectory() as scratch:
        ct = Path(scratch) / "phantom.nrrd"
        sitk.WriteImage(make_phantom(spacing_mm=(3.0, 3.0, 5.0), seed=0).image, str(ct))
        panel = Panel(folder, ct, "Phantom")
        try:
            return list(_draw_measurement(panel, out))
        finally:
            panel.close()


def _draw_measurement(panel: Panel, out: Path):
    from BPRSegmentationLib.views import show_volume
    from rendering import SliceView

    panel.widget._parameterNode.inputVolume = panel.volume
    panel.widget._parameterNode.bodyHeight = 172.0
    panel.widget.logic.pythonExecutable = lambda: sys.executable
    panel.ui.measureButton.click()
    end = time.monotonic() + 300
    while panel.widget._control.measurement and time.monotonic() < end:
        QtWidgets.QApplication.processEvents()
        time.sleep(0.02)
    if panel.ui.compositionTable.rowCount == 0:
        raise ResultError(f"Nothing was measured: {panel.ui.compositionLabel.text}")
    panel.only("inputs", "composition")
    yield panel.save(out / "panel_composition.png")
    view = SliceView(panel.stage, "Red")
    show_volume(panel.stage.scene, panel.volume)  # after the view: what a view shows is a node that it makes
    view.save(out / "axial_composition.png")
    yield out / "axial_composition.png"


def _batch_folder(panel: Panel) -> Path:
    return Path(panel._scratch.name) / "batch"


def _pretend(panel: Panel, path: Path, done: bool) -> None:
    """A case in the table, with the record that a real one would have left."""
    import json

    from BPRSegmentationLib.batch import Case, result_folder_of

    case, folder = Case(path.name, str(path)), _batch_folder(panel)
    result = result_folder_of(case, folder)
    result.mkdir(parents=True)
    failed = folder / "results" / "failed"
    failed.mkdir(exist_ok=True)
    if done:
        (result / "result.json").write_text("{}")
    else:
        failure = {"message": "This does not look like CT.", "advice": "Choose a CT in Hounsfield units."}
        (failed / f"{result.name}.json").write_text(json.dumps(failure))
    panel.widget._control._batchSection.add([case])


def draw_thumbnails(icons: Path) -> list[Path]:
    """The pictures of the two data sets in the Sample Data module: a coronal slice each, 260 x 280."""
    import numpy as np
    import SimpleITK as sitk

    from bpr.phantom import make_phantom
    from bpr.results.views import small_volume
    from BPRSegmentationLib.samples import PHANTOM, SAMPLE, sample_ct_path

    drawn = []
    for name, image in (
        (SAMPLE, sitk.ReadImage(str(sample_ct_path()))),
        (PHANTOM, make_phantom(spacing_mm=(3.0, 3.0, 3.0)).image),
    ):
        small = small_volume(image)
        gray = small.section("coronal", small.body_center()[1]).gray[::-1]
        pixels = np.ascontiguousarray(255 * gray, np.uint8)
        height, width = pixels.shape
        picture = QtGui.QImage(pixels.data, width, height, width, QtGui.QImage.Format_Grayscale8)
        fitted = picture.scaled(260, 280, QtCore.Qt.KeepAspectRatio, QtCore.Qt.SmoothTransformation)
        canvas = QtGui.QImage(260, 280, QtGui.QImage.Format_RGB32)
        canvas.fill(QtCore.Qt.black)
        painter = QtGui.QPainter(canvas)
        painter.drawImage((260 - fitted.width()) // 2, (280 - fitted.height()) // 2, fitted)
        painter.end()
        canvas.save(str(icons / f"{name}.png"))
        drawn.append(icons / f"{name}.png")
    return drawn


def compose_window(out: Path) -> list[Path]:
    """The panel beside the views, as in Slicer's window; nothing where a view is missing."""
    names = ("axial_segments", "segmentation_3d", "coronal_scores", "score_plot")
    parts = [QtGui.QImage(str(out / f"{name}.png")) for name in names]
    panel = QtGui.QImage(str(out / "panel_results.png"))
    if any(part.isNull() for part in (*parts, panel)):
        return []
    cell = QtCore.QSize(620, 460)
    gap = 4
    canvas = QtGui.QImage(panel.width() + 2 * (cell.width() + gap), 2 * cell.height() + gap, QtGui.QImage.Format_RGB32)
    canvas.fill(QtGui.QColor(60, 60, 60))
    painter = QtGui.QPainter(canvas)
    painter.fillRect(0, 0, panel.width(), canvas.height(), QtGui.QColor(239, 239, 239))
    painter.drawImage(0, 0, panel)
    for number, part in enumerate(parts):
        fitted = part.scaled(cell, QtCore.Qt.KeepAspectRatioByExpanding, QtCore.Qt.SmoothTransformation)
        left = panel.width() + gap + (number % 2) * (cell.width() + gap)
        source = QtCore.QRect(QtCore.QPoint(0, 0), cell)
        source.moveCenter(fitted.rect().center())
        painter.drawImage(QtCore.QPoint(left, (number // 2) * (cell.height() + gap)), fitted, source)
    painter.end()
    canvas.save(str(out / "window.png"))
    assert slicer.app is not None
    return [out / "window.png"]
