"""The table of cases: from the scene, a folder or the DICOM database, run one after another, resumed, opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer

from bpr.errors import BPRError

from .batch import DONE, Batch, Case, cases_of_dicom, cases_of_folder, cases_of_scene, result_folder_of, state_of
from .choices import request_of
from .composition import FILE, load_composition
from .export import request_problem
from .progress import State
from .result_folder import ResultError
from .results import load_result
from .translation import _
from .words import time_text

NAME, STATE, REMARK = range(3)
ROW_HEIGHT = 22  # pixels


class BatchSection:
    """Shows cases and their states, which the batch folder tells; starts and stops a Batch through its callbacks."""

    def __init__(self, ui, onStart: Callable[[list[Case], Path], None], onStop: Callable[[], None], onLoaded):
        """``onLoaded`` is called with the volume node of a result that was brought into the scene."""
        self._ui, self._node = ui, None
        self._onStart, self._onStop, self._onLoaded = onStart, onStop, onLoaded
        self._cases: list[Case] = []
        self._shownFolder = ""
        self._batch: Batch | None = None  # the one that runs
        header = ui.batchTable.horizontalHeader()
        for column in (NAME, STATE):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(REMARK, qt.QHeaderView.Stretch)
        ui.batchTable.verticalHeader().setVisible(False)
        ui.batchTable.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        ui.addSceneButton.connect("clicked(bool)", self.onAddScene)
        ui.addFolderButton.connect("clicked(bool)", self.onAddFolder)
        ui.addDicomButton.connect("clicked(bool)", self.onAddDicom)
        ui.removeCasesButton.connect("clicked(bool)", self.onRemove)
        ui.batchFolderButton.connect("clicked(bool)", self.onChooseFolder)
        ui.runBatchButton.connect("clicked(bool)", self.onRun)
        ui.showCaseButton.connect("clicked(bool)", self.onLoad)
        ui.reportButton.connect("clicked(bool)", self.onReport)
        ui.batchTable.connect("cellDoubleClicked(int,int)", self.onReport)
        self.show()

    def setParameterNode(self, node) -> None:
        """Follow another parameter node, which holds the folder, or none."""
        self._node = node
        self.show()

    def folder(self) -> Path | None:
        """Folder of the batch that runs, else the chosen one, or None."""
        if self._batch is not None:
            return self._batch.folder
        return Path(self._node.batchFolder) if self._node is not None and self._node.batchFolder else None

    def show(self) -> None:
        """Cases, states and what the button can do."""
        table, folder = self._ui.batchTable, self.folder()
        self._shownFolder = str(folder)
        table.rowCount = len(self._cases)
        waits = {DONE: _("done"), "failed": _("failed"), "waiting": _("waiting")}
        for number, case in enumerate(self._cases):
            state, remark = state_of(case, folder)
            for column, text in ((NAME, case.name), (STATE, waits[state]), (REMARK, remark)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(remark or case.path or case.name)
                table.setItem(number, column, item)
        self.showButton()

    def showButton(self) -> None:
        """Run batch, Cancel batch, or a disabled button that says what is missing."""
        if str(self.folder()) != self._shownFolder:
            self.show()
            return
        running = self._batch is not None
        problem = request_problem(request_of(self._node)) if self._node is not None else _("Open the module again.")
        missing = problem or ("" if self._cases else _("Add cases first."))
        missing = missing or ("" if self.folder() else _("Choose a folder for the results."))
        button = self._ui.runBatchButton
        button.text = _("Cancel batch") if running else _("Run batch")
        button.enabled = running or not missing
        button.toolTip = missing or _("Run all cases that have no results yet.")
        for one in (self._ui.addSceneButton, self._ui.addFolderButton, self._ui.addDicomButton,
                    self._ui.removeCasesButton, self._ui.batchFolderButton, self._ui.batchFolderEdit,
                    self._ui.batchCompositionCheckBox):  # fmt: skip
            one.enabled = not running

    def showProgress(self, batch: Batch) -> None:
        """Progress of a running batch; at its end, how it ended."""
        progress, bar = batch.progress, self._ui.batchProgressBar
        fraction = int(1000 * progress.fraction)
        now = batch if batch.running else None
        if bar.value != fraction or now is not self._batch:
            self._batch = now
            self.show()
        bar.value = fraction
        bar.visible = batch.running
        if batch.running:
            self._ui.batchStatusLabel.text = f"{progress.stage}  {time_text(batch.elapsed_s, progress.remaining_s)}"
            return
        done = sum(state_of(case, batch.folder)[0] == DONE for case in batch.cases)
        ended = {
            State.DONE: _("{done} of {count} cases have results."),
            State.CANCELLED: _("Cancelled; {done} of {count} cases have results. Run again to go on."),
            State.FAILED: _("Stopped; {done} of {count} cases have results."),
        }[progress.state].format(done=done, count=len(batch.cases))
        self._ui.batchStatusLabel.text = f"{ended} {progress.error} {progress.advice}".strip()

    def add(self, cases: list[Case]) -> None:
        """Put cases on the list; each only once."""
        known = {(case.path, id(case.volume)) for case in self._cases}
        self._cases += [case for case in cases if (case.path, id(case.volume)) not in known]
        self.show()

    def dropVolumes(self) -> None:
        """The scene is about to close: forget its volumes that were not written out yet."""
        self._cases = [case for case in self._cases if case.path]
        for case in self._cases:
            case.volume = None
        self.show()

    def onAddScene(self, checked: bool = False) -> None:
        """Add all volumes of the scene and all frames of sequences."""
        self.add(cases_of_scene(slicer.mrmlScene))

    def onAddFolder(self, checked: bool = False) -> None:
        """Ask for a folder; add what lies below it."""
        name = qt.QFileDialog.getExistingDirectory(None, _("Add all CT below a folder"))
        if name:
            with slicer.util.WaitCursor():
                self.addFolder(Path(name))

    def addFolder(self, folder: Path) -> None:
        """Add all CT files and series below a folder."""
        try:
            self.add(cases_of_folder(folder))
        except BPRError as error:
            self._ui.batchStatusLabel.text = str(error)

    def onAddDicom(self, checked: bool = False) -> None:
        """Add all CT series of the DICOM database."""
        database = getattr(slicer, "dicomDatabase", None)
        cases = cases_of_dicom(database) if database is not None and database.isOpen else []
        if not cases:
            self._ui.batchStatusLabel.text = _("The DICOM database is not open, or holds no CT.")
        self.add(cases)

    def onRemove(self, checked: bool = False) -> None:
        """Take the chosen cases off the list."""
        chosen = {item.row() for item in self._ui.batchTable.selectedItems()}
        self._cases = [case for number, case in enumerate(self._cases) if number not in chosen]
        self.show()

    def onChooseFolder(self, checked: bool = False) -> None:
        """Ask where the results go."""
        name = qt.QFileDialog.getExistingDirectory(None, _("Folder for the results"))
        if name and self._node is not None:
            self._node.batchFolder = name

    def onRun(self, checked: bool = False) -> None:
        """Start, or stop what runs."""
        if self._batch is not None:
            self._onStop()
        elif self._cases and self.folder():
            self._onStart(self._cases, self.folder())

    def _finished(self) -> Case | None:
        """The chosen case, if it has results; says so if not."""
        number, folder = self._ui.batchTable.currentRow(), self.folder()
        case = self._cases[number] if 0 <= number < len(self._cases) else None
        if case is None or folder is None or state_of(case, folder)[0] != DONE:
            self._ui.batchStatusLabel.text = _("Choose a case that is done.")
            return None
        return case

    def onReport(self, number: int = 0, column: int = 0) -> None:
        """Open the report in the browser."""
        case = self._finished()
        if case is not None:
            report = result_folder_of(case, self.folder()) / "report.html"
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(report)))

    def onLoad(self, checked: bool = False) -> None:
        """Bring a case's volume, unless it is there, and its result into the scene."""
        case = self._finished()
        if case is None:
            return
        try:
            volume = case.volume if case.volume is not None and case.volume.GetScene() is slicer.mrmlScene else None
            if volume is None:
                if Path(case.path).is_dir() or not case.path.lower().endswith(
                    (".nrrd", ".nii", ".nii.gz", ".mha", ".mhd")
                ):
                    self._ui.batchStatusLabel.text = _("Load the DICOM series in the DICOM module, then run it here.")
                    return
                volume = slicer.util.loadVolume(case.path, properties={"name": case.name})
            results = result_folder_of(case, self.folder())
            load_result(slicer.mrmlScene, results, volume)
            if (results / FILE).is_file():
                load_composition(slicer.mrmlScene, results, volume)
        except (ResultError, RuntimeError) as error:
            self._ui.batchStatusLabel.text = str(error)
            return
        self._onLoaded(volume)
