"""What came out of the last training, and putting it into use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from bpr.errors import BPRError
from bpr.models import Bundle
from bpr.seed.defaults import in_use, installed_as, roll_back, use_model
from bpr.seed.runs import Run, runs

from .project_section import ProjectSection


class ResultSection:
    """Shows comparison and pictures of the project's last finished training."""

    def __init__(self, ui, projects: ProjectSection, onModels: Callable[[], None]):
        """``onModels`` is called when the installed models have changed."""
        self._ui, self._projects, self._onModels = ui, projects, onModels
        ui.resultTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.resultTable.verticalHeader().setVisible(False)
        ui.useButton.connect("clicked(bool)", self.onUse)
        ui.rollBackButton.connect("clicked(bool)", self.onRollBack)
        ui.exportModelButton.connect("clicked(bool)", self.onExport)

    def run(self) -> Run | None:
        """The last training that came to its end."""
        project = self._projects.project
        finished = [run for run in runs(project.folder) if run.bundle_folder] if project else []
        return finished[-1] if finished else None

    def show(self) -> None:
        """Look at the disk again."""
        run = self.run()
        for button in (self._ui.useButton, self._ui.rollBackButton, self._ui.exportModelButton):
            button.enabled = run is not None
        outcome = run.outcome() if run else None
        self._ui.resultCollapsibleButton.collapsed = outcome is None
        rows = _rows(outcome["comparison"]["groups"]) if outcome else []
        table = self._ui.resultTable
        table.rowCount = len(rows)
        for number, row in enumerate(rows):
            for column, text in enumerate(row):
                table.setItem(number, column, qt.QTableWidgetItem(text))
        self._ui.resultMessageLabel.text = ""
        if outcome is None:
            self._ui.verdictLabel.text = _("Nothing has been trained yet.")
            self._ui.pictureLabel.setPixmap(qt.QPixmap())
            return
        self._ui.verdictLabel.text = "\n".join([f"{outcome['bundle']}: {outcome['reason']}.", *outcome["sentences"]])
        self._ui.pictureLabel.setPixmap(_stacked([run.folder / name for name in outcome["pictures"]]))
        bundle = Bundle(run.bundle_folder)
        now = in_use(bundle.slot)
        self._ui.useButton.enabled = not now or now != installed_as(bundle.folder)
        self._ui.resultMessageLabel.text = _("In use for {slot}: {name}.").format(slot=bundle.slot, name=now)

    def onUse(self, checked: bool = False) -> None:
        """Install the new model and make it the default; when it is worse somewhere, only after asking."""
        run = self.run()
        outcome = run.outcome()
        question = _("{reason}\n\nUse the new model all the same?")
        reason = "\n".join(outcome["sentences"])
        if not outcome["accepted"] and not slicer.util.confirmYesNoDisplay(question.format(reason=reason)):
            return
        self._do(lambda: use_model(run.bundle_folder))

    def onRollBack(self, checked: bool = False) -> None:
        """Go back to the model before."""
        self._do(lambda: roll_back(Bundle(self.run().bundle_folder).slot))

    def onExport(self, checked: bool = False) -> None:
        """Write the model as a zip file."""
        folder = self.run().bundle_folder
        target = qt.QFileDialog.getSaveFileName(None, _("Export the model"), f"{folder.name}.zip", _("Model (*.zip)"))
        if target:
            self._do(lambda: _zip(folder, Path(target)), _("Written: {file}").format(file=target))

    def _do(self, action: Callable, done: str = "") -> None:
        try:
            action()
        except (BPRError, OSError) as error:
            self._ui.resultMessageLabel.text = str(error)
            return
        self._onModels()
        self.show()
        if done:
            self._ui.resultMessageLabel.text = done


def _zip(folder: Path, target: Path) -> None:
    from bpr.models import export_bundle

    export_bundle(str(folder), target)


def _rows(groups: list[dict]) -> list[list[str]]:
    """One row a domain, its organs below it."""
    rows = []
    for group in groups:
        purpose = _("remembered") if group["remembered"] else _("validation")
        name = f"{group['domain']} ({purpose})" if group["domain"] else purpose
        before, after, change = (group[key] for key in ("before", "after", "change"))
        interval = f"{change['low']:+.3f} .. {change['high']:+.3f}"
        rows.append([name, f"{before['mean']:.3f}", f"{after['mean']:.3f}", f"{change['mean']:+.3f}", interval])
        for organ, (old, new) in group["organs"].items():
            difference = new["mean"] - old["mean"]
            rows.append([f"    {organ}", f"{old['mean']:.3f}", f"{new['mean']:.3f}", f"{difference:+.3f}", ""])
    return rows


def _stacked(paths: list[Path]):
    """Several pictures, one below the other."""
    pictures = [qt.QPixmap(str(path)) for path in paths if path.is_file()]
    if not pictures:
        return qt.QPixmap()
    both = qt.QPixmap(max(p.width() for p in pictures), sum(p.height() for p in pictures))
    painter = qt.QPainter(both)
    top = 0
    for picture in pictures:
        painter.drawPixmap(0, top, picture)
        top += picture.height()
    painter.end()
    return both
