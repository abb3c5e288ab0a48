"""Starts, watches and ends run, measurement and batch: the one place that knows whether something is going on."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import qt

from .batch import Batch, Case
from .batch_section import BatchSection
from .choices import Device, TileSize, request_of
from .composition import level_request
from .composition_section import CompositionSection
from .export import Request, what_is_missing
from .packages import PackagesError, ensure_packages
from .progress import State
from .results import LoadedResult
from .run import Run
from .run_section import RunSection
from .translation import _
from .words import Remedy, found_text, remedies

POLL_MS = 100


class RunControl:
    """Asks the logic for runs, polls them by a timer and tells the sections.

    ``run``, ``measurement`` (of muscle and fat) and ``batch`` are None at rest.
    """

    def __init__(self, ui, logic, resources: Path, onResult: Callable[[LoadedResult], None], onBatchResult):
        """``onResult`` is called with the nodes of a finished run, ``onBatchResult`` with the volume of a case.

        ``resources`` is the module's folder with the requirements files.
        """
        self._ui, self._logic, self._resources, self._onResult = ui, logic, resources, onResult
        self._node = None
        self.run: Run | None = None
        self.measurement: Run | None = None
        self.batch: Batch | None = None
        self._compositionSection = CompositionSection(ui, self.onMeasureButton)
        self._runSection = RunSection(ui, self.apply)
        self._batchSection = BatchSection(ui, self.startBatch, self.stopBatch, onBatchResult)
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.onTimer)
        ui.runButton.connect("clicked(bool)", self.onRunButton)

    def setParameterNode(self, node) -> None:
        """Runs are started with the choices of another parameter node, or not at all."""
        self._node = node
        self._batchSection.setParameterNode(node)
        self.updateButton()

    def updateButton(self) -> None:
        """Run, Cancel, or a disabled Run that says what is missing."""
        missing = _("Open the module again.")
        if self._node:
            missing = what_is_missing(self._node.inputVolume, request_of(self._node)) or ""
        self._runSection.showButton(self.run is not None, missing)
        of_volume = what_is_missing(self._node.inputVolume, Request()) or "" if self._node else missing
        self._compositionSection.showButton(self.measurement is not None, of_volume)
        self._batchSection.showButton()

    def onRunButton(self, checked: bool = False) -> None:
        """Start a run, or stop the one that is going on."""
        if self.run:
            self.stopRun()
        elif self._ui.runButton.enabled:
            self.startRun()

    def startRun(self) -> None:
        """Start a run with the present choices; say why when it cannot be started."""
        self._runSection.showStart()
        try:
            request = request_of(self._node)
            self._ensurePackages(request)
            self.run = self._logic.startRun(self._node.inputVolume, self._node.outputSegmentation, request)
        except PackagesError as error:
            self._runSection.showFailure(str(error), traceback.format_exc(), [Remedy.PACKAGES])
        except Exception as error:  # also what the system says no to
            text = _("The run could not be started: {error}").format(error=error)
            self._runSection.showFailure(text, traceback.format_exc(), [])
        else:
            self._runSection.showProgress(self.run.progress, self.run.elapsed_s)
            self._timer.start()
        self.updateButton()

    def _ensurePackages(self, request: Request, repair: bool = False, batch: bool = False) -> None:
        engine = "torch" if request.device.startswith(("cuda", "mps")) else request.engine
        ensure_packages(self._resources, "BPRSegmentation", engine, repair, batch)

    def apply(self, remedy: Remedy) -> None:
        """Change what was in the way, then run again."""
        if self.run or not self._node:
            return
        if remedy is Remedy.SMALLER_TILES:
            small = self._node.tileSize is TileSize.SMALL
            self._node.tileSize = TileSize.SMALLEST if small else TileSize.SMALL
        elif remedy is Remedy.CPU:
            self._node.device = Device.CPU
        else:
            try:
                self._ensurePackages(request_of(self._node), repair=True)
            except PackagesError as error:
                self._runSection.showFailure(str(error), traceback.format_exc(), [Remedy.PACKAGES])
                return
        self.onRunButton()

    def stopRun(self, reason: str = "") -> None:
        """Cancel the run, if there is one."""
        if self.run:
            self.run.cancel(reason)
            self._finishRun()

    def onTimer(self) -> None:
        """Take in what the child processes said; an error here must not come back ten times a second."""
        try:
            if self.run:
                self.run.poll()
                self._runSection.showProgress(self.run.progress, self.run.elapsed_s)
                if not self.run.running:
                    self._finishRun()
            if self.measurement:
                self.measurement.poll()
                self._showMeasurement()
            if self.batch:
                self.batch.poll()
                self._showBatch()
        except Exception:
            details = traceback.format_exc()
            logging.error(details)
            self._timer.stop()
            self.stop()
            text = _("Something went wrong in the module; please report the details.")
            self._runSection.showFailure(text, details, [])
        if not (self.run or self.measurement or self.batch):
            self._timer.stop()

    def _finishRun(self) -> None:
        """Say how the run ended; hand its result on."""
        run, self.run = self.run, None
        progress, log = run.progress, "\n".join(run.progress.log)
        if progress.state is State.DONE:
            text = found_text(run.result.summary, progress.warnings, run.request.produce)
            self._runSection.showEnd(text, log)
            self._onResult(run.result)
        elif progress.state is State.CANCELLED:
            self._runSection.showEnd(progress.error or _("Cancelled."), log)
        else:
            text = f"{progress.error} {progress.advice}".strip()
            offered = remedies(progress, run.request.device, run.request.tile)
            self._runSection.showFailure(text, log, offered)
        self.updateButton()

    def onMeasureButton(self) -> None:
        """Measure muscle and fat with the present choices, or stop the measurement that is going on."""
        if self.measurement:
            self.stopMeasurement()
            return
        try:
            self._ensurePackages(request_of(self._node))
            self.measurement = self._logic.startComposition(self._node.inputVolume, level_request(self._node))
        except Exception as error:  # also what the system says no to
            self._compositionSection.showEnd(str(error))
            return
        self._showMeasurement()
        self._timer.start()

    def stopMeasurement(self, reason: str = "") -> None:
        """Cancel the measurement, if there is one."""
        if self.measurement:
            self.measurement.cancel(reason)
            self._showMeasurement()

    def showVolume(self, volumeNode) -> None:
        """Show the measurement that the scene holds for a volume, unless one is going on."""
        if self.measurement is None:
            self._compositionSection.showVolume(volumeNode)

    def _showMeasurement(self) -> None:
        """Where the measurement is, or how it ended."""
        run = self.measurement
        if run.running:
            self._compositionSection.showProgress(run)
            self.updateButton()
            return
        self.measurement = None
        progress = run.progress
        if progress.state is State.DONE:
            self._compositionSection.showResult(run.result)
        else:
            ended = _("Cancelled.") if progress.state is State.CANCELLED else ""
            self._compositionSection.showEnd(f"{progress.error} {progress.advice}".strip() or ended)
        self.updateButton()

    def startBatch(self, cases: list[Case], folder: Path) -> None:
        """Run all cases that have no results yet, with the present choices."""
        try:
            request = request_of(self._node)
            self._ensurePackages(request, batch=True)
            composition = self._node.batchComposition
            self.batch = Batch(cases, folder, request, self._logic.launchCommand, composition)
        except (PackagesError, OSError) as error:
            self._ui.batchStatusLabel.text = str(error)
            return
        self._showBatch()
        self._timer.start()

    def stopBatch(self, reason: str = "") -> None:
        """Cancel the batch, if there is one; what is done stays done."""
        if self.batch:
            self.batch.cancel(reason)
            self._showBatch()

    def _showBatch(self) -> None:
        batch = self.batch
        if not batch.running:
            self.batch = None
        self._batchSection.showProgress(batch)

    def stop(self, reason: str = "") -> None:
        """End whatever is going on."""
        self.stopRun(reason)
        self.stopMeasurement(reason)
        self.stopBatch(reason)

    def closeScene(self) -> None:
        """The scene is about to go, and with it the volumes that are worked on."""
        self.stop(_("The scene was closed, so the run was stopped."))
        self._batchSection.dropVolumes()

    def close(self) -> None:
        """The panel goes: nothing may be called after this."""
        self._timer.stop()
        self.stop()

    def say(self, text: str) -> None:
        """Show a sentence below the Run button."""
        self._ui.statusLabel.text = text
