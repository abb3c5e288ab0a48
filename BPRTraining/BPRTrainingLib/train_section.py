"""Training: choices, what to expect, progress with curves, pause, stop and resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
from slicer.i18n import tr as _

from bpr.seed.case import Part
from bpr.seed.runs import Run, ask, latest
from bpr.seed.taught import find_structure

from .marks_section import chosen_organs, organs_of
from .project_section import ProjectSection
from .task import Task
from .words import estimate_text, gap_text, time_text


class TrainSection:
    """Starts nothing itself: ``run(kind, arguments)`` does."""

    def __init__(self, ui, projects: ProjectSection, run: Callable, device: Callable[[], str]):
        """``device`` gives the chosen device's word."""
        self._ui, self._projects, self._run, self._device = ui, projects, run, device
        self._organs: list[str] = []
        self._others: list[str] = []  # folders of the projects that can be learned together with
        self._old: float | None = None
        self._asked = ""
        self._deviceName = ""
        ui.startButton.connect("clicked(bool)", self.onStart)
        ui.resumeButton.connect("clicked(bool)", self.onResume)
        ui.pauseButton.connect("clicked(bool)", self.onPause)
        ui.stopButton.connect("clicked(bool)", self.onStop)
        ui.budgetSpinBox.connect("valueChanged(int)", self.onBudget)
        ui.progressBar.visible = False

    def open(self) -> None:
        """Another project: its choices and its unfinished training."""
        project = self._projects.project
        settings = project.settings() if project else {}
        self._ui.budgetSpinBox.value = int(settings.get("budget_min", 10))
        self._fillOrgans(settings.get("organs", []))
        self._fillOthers(settings.get("together", ""))
        self._ui.messageLabel.text = self._ui.gapLabel.text = self._ui.stageLabel.text = ""
        self._ui.curvesLabel.setPixmap(qt.QPixmap())
        if project:
            self.showCurves()

    def show(self, training: Task | None) -> None:
        """Buttons and estimate, with or without a training."""
        project = self._projects.project
        self._fillOrgans(None)
        run = latest(project.folder) if project else None
        missing = self.whatIsMissing()
        self._ui.startButton.enabled = training is None and not missing
        self._ui.startButton.toolTip = missing or _("Train on the accepted cases.")
        self._ui.resumeButton.enabled = training is None and run is not None and run.resumable
        for button in (self._ui.pauseButton, self._ui.stopButton):
            button.enabled = training is not None and not self._asked
        self._ui.progressBar.visible = training is not None
        self._ui.estimateLabel.text = missing or self._estimate()
        for label in (self._ui.stageLabel, self._ui.gapLabel, self._ui.messageLabel, self._ui.cpuWarningLabel):
            label.visible = bool(label.text)

    def whatIsMissing(self) -> str:
        """Why a training cannot start, in one sentence; empty when it can."""
        project = self._projects.project
        if project is None:
            return _("Open or make a project first.")
        sides = project.planned_split().values()
        if not sides:
            return _("No case can teach yet: add one and mark what is right in it.")
        if Part.TRAINING not in sides:
            return _("All cases validate; put one on the training side.")
        return ""

    def _estimate(self) -> str:
        sides = list(self._projects.project.planned_split().values())
        text = estimate_text(self._ui.budgetSpinBox.value, len(sides), sides.count(Part.VALIDATION))
        if self._deviceName:
            text += " " + _("It will run on: {device}.").format(device=self._deviceName)
        return text

    def showDevice(self, word: str, name: str) -> None:
        """What the training will run on, and a warning when that is the CPU."""
        self._deviceName = name
        warning = _("Training will run on the CPU. It works, but slowly: keep the budget at 10 minutes or more, and "
                    "let the computer do little else meanwhile. A graphics card is many times faster.")  # fmt: skip
        self._ui.cpuWarningLabel.text = warning if word == "cpu" else ""

    def _fillOrgans(self, chosen: list[str] | None) -> None:
        organs = organs_of(self._projects.project)
        if organs != self._organs:
            self._organs = organs
            self._ui.trainOrgansList.clear()
            for organ in organs:
                self._ui.trainOrgansList.addItem(find_structure(organ).name)
        for row, organ in enumerate(organs if chosen is not None else ()):
            self._ui.trainOrgansList.item(row).setSelected(organ in chosen)

    def _fillOthers(self, chosen: str) -> None:
        project, combo = self._projects.project, self._ui.togetherComboBox
        self._others = ["", *map(str, project.beside())] if project else [""]
        combo.clear()
        combo.addItem(_("nothing else"))
        for folder in self._others[1:]:
            combo.addItem(Path(folder).name)
        combo.currentIndex = self._others.index(chosen) if chosen in self._others else 0

    def onBudget(self, minutes: int) -> None:
        """Keep the budget in the project."""
        if self._projects.project and minutes != self._projects.project.settings().get("budget_min"):
            self._projects.project.change(budget_min=minutes)
        if self._projects.project and not self.whatIsMissing():
            self._ui.estimateLabel.text = self._estimate()

    def onStart(self, checked: bool = False) -> None:
        """Train with the present choices."""
        organs = chosen_organs(self._ui.trainOrgansList, self._organs)
        together = self._others[self._ui.togetherComboBox.currentIndex]
        self._projects.project.change(organs=list(organs), together=together)
        arguments = ["--budget", f"{self._ui.budgetSpinBox.value}m", *(["--together", together] if together else [])]
        self._start(arguments + (["--organs", ",".join(organs)] if organs else []))

    def onResume(self, checked: bool = False) -> None:
        """Go on with the unfinished training."""
        self._start(["--resume", "--budget", f"{self._ui.budgetSpinBox.value}m"])

    def _start(self, arguments: list[str]) -> None:
        self._old, self._asked = None, ""
        self._ui.messageLabel.text = self._ui.gapLabel.text = ""
        self._ui.curvesLabel.setPixmap(qt.QPixmap())
        self._ui.progressBar.value = 0
        folder = str(self._projects.project.folder)
        self._run("train", ["finetune", folder, *arguments, "--device", self._device(), "--json"])

    def _ask(self, request: str, text: str) -> None:
        run = latest(self._projects.project.folder)
        if run is None or run.finished:
            self._ui.stageLabel.text = _("The training has not begun yet; try again in a moment.")
            return
        ask(run, request)
        self._asked = request
        self._ui.stageLabel.text = text
        self._ui.pauseButton.enabled = self._ui.stopButton.enabled = False

    def onPause(self, checked: bool = False) -> None:
        """Keep everything and end."""
        self._ask("pause", _("Pausing after this step..."))

    def onStop(self, checked: bool = False) -> None:
        """End early and keep the best."""
        self._ask("stop", _("Stopping after this step; the best model is kept..."))

    def onEvent(self, task: Task, event: dict) -> None:
        """Progress and measurements of the running training."""
        self._ui.stageLabel.visible = self._ui.gapLabel.visible = True
        if event.get("name") == "device":
            self.showDevice(event["value"], event["text"])
        elif event.get("name") == "dice":
            self._old = event["dice"] if self._old is None else self._old
            self._ui.gapLabel.text = gap_text(event, self._old)
            self.showCurves()
        elif event["event"] in ("progress", "stage"):
            self._ui.progressBar.value = int(1000 * task.fraction)
            if not self._asked:
                parts = [task.stage, time_text(task.remaining_s)]
                self._ui.stageLabel.text = ", ".join(part for part in parts if part)

    def showCurves(self) -> None:
        """The latest curves of the project's last training."""
        run: Run | None = latest(self._projects.project.folder)
        path = run.folder / "curves.png" if run else None
        if path and path.is_file():
            self._ui.curvesLabel.setPixmap(qt.QPixmap(str(path)))

    def onEnd(self, task: Task) -> None:
        """How the training ended."""
        self._asked = ""
        self._ui.stageLabel.text = ""
        if task.error:
            text = f"{task.error} {task.advice}".strip()
        elif task.result is None:
            text = _("The training was ended; Resume goes on from its last checkpoint.")
        elif task.result.get("state") == "paused":
            text = _("Paused. Resume goes on, also after a restart.")
        else:
            text = _("Done in {minutes:.1f} minutes.").format(minutes=task.result["seconds"] / 60)
        others = [warning for warning in task.warnings if "CPU" not in warning]
        self._ui.messageLabel.text = "\n".join([text, *others])
