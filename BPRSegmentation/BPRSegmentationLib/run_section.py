"""The Run button and what stands below it: progress, how it ended, what may help."""

from __future__ import annotations

from collections.abc import Callable

import slicer

from .progress import Progress
from .translation import _
from .words import Remedy, time_text


class RunSection:
    """Shows where a run is; starts and stops nothing itself."""

    def __init__(self, ui, onRemedy: Callable[[Remedy], None]):
        """``onRemedy`` is called when one of the offered remedies is clicked."""
        self._ui = ui
        self._shownLines = 0
        self._buttons = {
            Remedy.SMALLER_TILES: ui.smallerTilesButton,
            Remedy.CPU: ui.cpuButton,
            Remedy.PACKAGES: ui.packagesButton,
        }
        ui.smallerTilesButton.connect("clicked(bool)", lambda checked: onRemedy(Remedy.SMALLER_TILES))
        ui.cpuButton.connect("clicked(bool)", lambda checked: onRemedy(Remedy.CPU))
        ui.packagesButton.connect("clicked(bool)", lambda checked: onRemedy(Remedy.PACKAGES))
        ui.copyButton.connect("clicked(bool)", self.onCopy)

    def showButton(self, running: bool, missing: str) -> None:
        """Run, Cancel, or a disabled Run with a sentence that says what is missing."""
        button = self._ui.runButton
        button.text = _("Cancel") if running else _("Run")
        button.toolTip = _("Stop; the scene stays as it is.") if running else missing or _("Compute what is ticked.")
        button.enabled = running or not missing
        self._ui.missingLabel.text = "" if running else missing
        self._ui.missingLabel.visible = bool(missing) and not running

    def showStart(self) -> None:
        """Forget the run before."""
        self._shownLines = 0
        self._ui.detailsText.plainText = ""
        self._ui.progressBar.value = 0
        for widget in (self._ui.progressBar, self._ui.stageLabel, self._ui.timeLabel):
            widget.visible = True
        self._ui.statusLabel.text = ""
        for button in self._buttons.values():
            button.visible = False

    def showProgress(self, progress: Progress, elapsed_s: float) -> None:
        """Stage, fraction, elapsed and remaining time, log."""
        self._ui.progressBar.value = int(1000 * progress.fraction)
        self._ui.stageLabel.text = progress.stage
        self._ui.timeLabel.text = time_text(elapsed_s, progress.remaining_s)
        if len(progress.log) != self._shownLines:
            self._ui.detailsText.appendPlainText("\n".join(progress.log[self._shownLines :]))
            self._shownLines = len(progress.log)

    def showEnd(self, text: str, details: str) -> None:
        """No run any more: a message, and details to copy."""
        for widget in (self._ui.progressBar, self._ui.stageLabel, self._ui.timeLabel):
            widget.visible = False
        self._ui.statusLabel.text = text
        self._ui.detailsText.plainText = details

    def showFailure(self, text: str, details: str, offered: list[Remedy]) -> None:
        """The same after a failure, with the details open and buttons for what may help."""
        self.showEnd(text, details)
        self._ui.detailsCollapsibleButton.collapsed = False
        for remedy, button in self._buttons.items():
            button.visible = remedy in offered

    def onCopy(self, checked: bool = False) -> None:
        """Message and details to the clipboard, for a report."""
        slicer.app.clipboard().setText(f"{self._ui.statusLabel.text}\n\n{self._ui.detailsText.plainText}")
