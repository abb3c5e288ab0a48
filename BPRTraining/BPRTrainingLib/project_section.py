"""The project's cases as a table, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from bpr.errors import BPRError
from bpr.models import list_bundles
from bpr.seed.case import Part, SeedCase, State
from bpr.seed.marks import slices_text
from bpr.seed.project import SeedProject

STATES = {State.NEW: _("new"), State.IN_REVIEW: _("in review"), State.ACCEPTED: _("accepted"),
          State.EXCLUDED: _("excluded")}  # fmt: skip
SIDES = {Part.UNDECIDED: _("not decided"), Part.TRAINING: _("training"), Part.VALIDATION: _("validation")}


class ProjectSection:
    """Shows a project and changes it; longer work is handed to ``run(kind, arguments)``."""

    def __init__(self, ui, run: Callable, onProject: Callable[[str], None], onSelected: Callable[[], None]):
        """``onProject`` is called with the folder of a project to open, ``onSelected`` when another case is chosen."""
        self._ui, self._run, self._onProject, self._onSelected = ui, run, onProject, onSelected
        self.project: SeedProject | None = None
        self._busy = False
        self._cases: list[SeedCase | None] = []
        self._names: list[str] = []
        self._bundles: list[str] = []
        ui.casesTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.casesTable.verticalHeader().setVisible(False)
        ui.casesTable.connect("itemSelectionChanged()", self.onTable)
        ui.newProjectButton.connect("clicked(bool)", self.onNew)
        ui.openProjectButton.connect("clicked(bool)", self.onOpen)
        ui.acceptButton.connect("clicked(bool)", self.onAccept)
        ui.proposeButton.connect("clicked(bool)", self.onPropose)
        ui.excludeButton.connect("clicked(bool)", self.onExclude)
        ui.deleteButton.connect("clicked(bool)", self.onDelete)
        ui.sideButton.connect("clicked(bool)", self.onSide)
        ui.splitButton.connect("clicked(bool)", self.onSplit)
        ui.suggestButton.connect("clicked(bool)", self.onSuggest)
        ui.importButton.connect("clicked(bool)", self.onImport)
        ui.exportButton.connect("clicked(bool)", self.onExport)
        ui.bundleComboBox.connect("currentIndexChanged(int)", self.onBundle)

    def say(self, text: str) -> None:
        """Show a message below the table."""
        self._ui.projectMessageLabel.text = text

    def open(self, folder: str) -> None:
        """Show the project in a folder, or none when the folder is empty or holds no project."""
        self.project = None
        if folder:
            try:
                self.project = SeedProject.open(Path(folder))
            except (BPRError, OSError) as error:
                self.say(str(error))
        self._ui.projectLineEdit.text = str(self.project.folder) if self.project else ""
        self._fillBundles()
        self.refresh()

    def refresh(self) -> None:
        """Look at the disk again; the chosen case stays chosen."""
        chosen = self.chosenName()
        cases, damaged = self.project.cases() if self.project else ([], [])
        self._names = self.project.case_ids() if self.project else []
        by_name = {case.id: case for case in cases}
        self._cases = [by_name.get(name) for name in self._names]
        table = self._ui.casesTable
        blocked = table.blockSignals(True)
        table.rowCount = len(self._names)
        for row, (name, case) in enumerate(zip(self._names, self._cases, strict=True)):
            texts = _row(case) if case else [name, "", "", _("damaged"), "", "", ""]
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text if case else next((str(e) for e in damaged if name in e.message), ""))
                table.setItem(row, column, item)
        table.blockSignals(blocked)
        if chosen in self._names:
            table.selectRow(self._names.index(chosen))
        self.onTable()
        if damaged:
            self.say("\n".join(map(str, damaged)))

    def _fillBundles(self) -> None:
        bundles = []
        for bundle in list_bundles():
            try:
                if bundle.can_learn:
                    bundles.append(bundle.name)
            except BPRError:
                continue
        now = self.project.bundle if self.project else ""
        self._bundles = bundles if now in bundles or not now else [now, *bundles]
        combo = self._ui.bundleComboBox
        blocked = combo.blockSignals(True)
        combo.clear()
        for name in self._bundles:
            combo.addItem(Path(name).name)
        if now:
            combo.currentIndex = self._bundles.index(now)
        combo.blockSignals(blocked)

    def chosenName(self) -> str:
        """ID of the chosen case, "" when there is none."""
        row = self._ui.casesTable.currentRow()
        return self._names[row] if 0 <= row < len(self._names) else ""

    def chosen(self) -> SeedCase | None:
        """The chosen case; None when there is none or it is damaged."""
        row = self._ui.casesTable.currentRow()
        return self._cases[row] if 0 <= row < len(self._cases) else None

    def onTable(self) -> None:
        """Another case is chosen."""
        self.showButtons(self._busy)
        self._onSelected()

    def showButtons(self, busy: bool) -> None:
        """Buttons follow the chosen case; what starts an errand waits while another one is going on."""
        self._busy = busy
        case, there = self.chosen(), bool(self.chosenName())
        self._ui.deleteButton.enabled = there
        for button in (self._ui.editButton, self._ui.excludeButton, self._ui.sideButton):
            button.enabled = case is not None
        self._ui.acceptButton.enabled = case is not None and bool(case.marks) and case.state is not State.ACCEPTED
        self._ui.proposeButton.enabled = case is not None and not busy
        excluded = case is not None and case.state is State.EXCLUDED
        self._ui.excludeButton.text = _("Take back") if excluded else _("Exclude")
        self._ui.splitButton.enabled = bool(self._names)
        for button in (self._ui.suggestButton, self._ui.exportButton):
            button.enabled = bool(self._names) and not busy
        self._ui.importButton.enabled = not busy

    def onNew(self, checked: bool = False) -> None:
        """Ask for a folder and make a project there."""
        folder = qt.QFileDialog.getExistingDirectory(None, _("Empty folder for the new project"))
        if folder:
            self.create(Path(folder))

    def create(self, folder: Path) -> None:
        """Make a project that starts from the model in the list."""
        index = self._ui.bundleComboBox.currentIndex
        try:
            SeedProject.create(folder, self._bundles[index] if index >= 0 else self._bundles[0])
        except (BPRError, OSError) as error:
            self.say(str(error))
        else:
            self._onProject(str(folder))
            self.say(_("The project is ready. Add cases, then mark what is right in them."))

    def onOpen(self, checked: bool = False) -> None:
        """Ask for the folder of a project."""
        folder = qt.QFileDialog.getExistingDirectory(None, _("Folder of a project"))
        if folder:
            self._onProject(folder)

    def onBundle(self, index: int) -> None:
        """Start from another model."""
        if self.project and index >= 0:
            self.change(lambda: self.project.change(bundle=self._bundles[index]))

    def change(self, action: Callable, done: str = "") -> None:
        """Do something to the project and show it; what goes wrong is said."""
        try:
            action()
            self.say(done)
        except (BPRError, OSError) as error:
            self.say(str(error))
        message = self._ui.projectMessageLabel.text
        self.refresh()
        self.say(message or self._ui.projectMessageLabel.text)

    def onAccept(self, checked: bool = False) -> None:
        """The marks are right, also after a correction."""
        case = self.chosen()
        self.change(lambda: self.project.set_state(case.id, State.ACCEPTED))

    def onPropose(self, checked: bool = False) -> None:
        """Let the latest model fill in the rest of the case."""
        self.say(_("The model looks at the case..."))
        self._run("propose", ["seed", "propose", str(self.project.folder), self.chosenName(), "--json"])

    def onExclude(self, checked: bool = False) -> None:
        """Let the case teach nothing, or again."""
        case = self.chosen()
        back = State.ACCEPTED if case.marks else State.NEW
        state = back if case.state is State.EXCLUDED else State.EXCLUDED
        self.change(lambda: self.project.set_state(case.id, state))

    def onDelete(self, checked: bool = False) -> None:
        """Delete the case, after asking."""
        name = self.chosenName()
        question = _("Delete {case} with its volume and segmentation from the project?")
        if slicer.util.confirmYesNoDisplay(question.format(case=name)):
            self.change(lambda: self.project.remove(name))

    def onSide(self, checked: bool = False) -> None:
        """Move the patient to the other side."""
        case = self.chosen()
        part = Part.TRAINING if case.part is Part.VALIDATION else Part.VALIDATION
        self.change(lambda: self.project.set_part(case.id, part))

    def onSplit(self, checked: bool = False) -> None:
        """Divide all cases anew."""
        self.change(lambda: self.project.split(again=True), _("The patients were divided anew."))

    def onSuggest(self, checked: bool = False) -> None:
        """What to label next."""
        self._run("suggest", ["seed", "suggest", str(self.project.folder), "--json"])

    def onExport(self, checked: bool = False) -> None:
        """Write the project as a zip file."""
        target = qt.QFileDialog.getSaveFileName(None, _("Export the project"), "", _("Project (*.zip)"))
        if target:
            self._run("export", ["seed", "export", str(self.project.folder), target, "--json"])

    def onImport(self, checked: bool = False) -> None:
        """Make a project from a zip file in an empty folder."""
        archive = qt.QFileDialog.getOpenFileName(None, _("Import a project"), "", _("Project (*.zip)"))
        folder = qt.QFileDialog.getExistingDirectory(None, _("Empty folder for the project")) if archive else ""
        if folder:
            self._run("import", ["seed", "import", folder, archive, "--json"])


def _row(case: SeedCase) -> list[str]:
    organs = ", ".join(case.structures)
    return [case.id, case.patient, case.domain, STATES[case.state], SIDES[case.part], slices_text(case.marks), organs]
