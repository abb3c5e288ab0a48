import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from BPRSegmentationLib.choices import Device, Engine
from BPRSegmentationLib.export import PRODUCTS, Request, RequestError, what_is_missing
from BPRSegmentationLib.packages import ensure_packages
from BPRSegmentationLib.process import ChildProcess, child_environment
from BPRSegmentationLib.results import LoadedResult
from BPRSegmentationLib.run import Run, State, job_command
from BPRSegmentationLib.views import show_overlay, show_volume
from BPRSegmentationLib.words import found_text, remaining_text

POLL_MS = 100


class BPRSegmentation(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Body Part Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["BodyPartRegression contributors"]
        self.parent.helpText = _(
            "Finds out which part of the body a CT shows (a score for every slice), cuts it into body regions and "
            "segments organs, bones and muscles with one network for each region. For research only."
        )
        self.parent.acknowledgementText = _(
            "The score follows the published body part regression: 0 at the pelvis start, 100 at the eyes end. "
            "The networks were trained on public CT collections; the model cards name them."
        )


@parameterNodeWrapper
class BPRSegmentationParameterNode:
    """
    The choices of a person, saved with the scene.

    inputVolume - the CT.
    outputSegmentation - the segmentation to update; none makes a new one.
    produceScores, produceRegions, produceSegmentation - what to produce.
    device, engine - where and with what the networks run.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    produceScores: bool = True
    produceRegions: bool = True
    produceSegmentation: bool = True
    device: Device = Device.AUTO
    engine: Engine = Engine.AUTO


class BPRSegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: it shows the parameter node and a run, and computes nothing."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._run: Run | None = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._timer = None
        self._shownLogLines = -1

    def setup(self) -> None:
        """Called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/BPRSegmentation.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = BPRSegmentationLogic()
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.onTimer)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.runButton.connect("clicked(bool)", self.onRunButton)
        self.ui.copyButton.connect("clicked(bool)", self.onCopyButton)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes and when the module is reloaded."""
        if self._timer:
            self._timer.stop()
        self.stopRun()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the module is opened."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time another module is opened. A run goes on."""
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Reload the packages together with the module file."""
        for name in [name for name in sys.modules if name.partition(".")[0] in ("BPRSegmentationLib", "bpr")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event) -> None:
        """The volume is about to go, so the run goes with it."""
        self.stopRun(_("The scene was closed, so the run was stopped."))
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """A closed scene has lost the parameter node: make a new one if the module is shown."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Observe the scene's parameter node; take the first volume when none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            volumeNode = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            if volumeNode:
                self._parameterNode.inputVolume = volumeNode

    def setParameterNode(self, parameterNode) -> None:
        """Show and observe another parameter node, or none."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateButton)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateButton)
        self.updateButton()

    def updateButton(self, caller=None, event=None) -> None:
        """Run, Cancel, or a disabled Run that says what is missing."""
        button = self.ui.runButton
        if self._run:
            button.text = _("Cancel")
            button.toolTip = _("Stop the run; the scene stays as it is.")
            button.enabled = True
            return
        missing = _("Open the module again.")
        if self._parameterNode:
            missing = what_is_missing(self._parameterNode.inputVolume, self.produce())
        button.text = _("Run")
        button.toolTip = missing or _("Compute what is ticked above.")
        button.enabled = not missing

    def produce(self) -> tuple[str, ...]:
        """The ticked products, in the words of the protocol."""
        node = self._parameterNode
        ticked = (node.produceScores, node.produceRegions, node.produceSegmentation)
        return tuple(product for product, wanted in zip(PRODUCTS, ticked, strict=True) if wanted)

    def onRunButton(self, checked: bool = False) -> None:
        """Start a run, or stop the one that is going on."""
        if self._run:
            self.stopRun()
            return
        node = self._parameterNode
        try:
            ensure_packages(Path(self.resourcePath("requirements.txt")), self.moduleName)
            request = Request(produce=self.produce(), device=node.device.value, engine=node.engine.value)
            self._run = self.logic.startRun(node.inputVolume, node.outputSegmentation, request)
        except Exception as error:  # also what pip or the system says no to
            self.showFailure(_("The run could not be started: {error}").format(error=error), traceback.format_exc())
            return
        self._shownLogLines = -1
        self.ui.progressBar.visible = True
        self.showProgress()
        self.updateButton()
        self._timer.start()

    def stopRun(self, reason: str = "") -> None:
        """Cancel the run, if there is one."""
        if self._run:
            self._run.cancel(reason)
            self.finishRun()

    def onTimer(self) -> None:
        """Take in what the child process said; an error here must not come back ten times a second."""
        try:
            self._run.poll()
            self.showProgress()
            if not self._run.running:
                self.finishRun()
        except Exception:
            details = traceback.format_exc()
            logging.error(details)
            self.stopRun()
            self.showFailure(_("Something went wrong in the module; please report the details."), details)

    def showProgress(self) -> None:
        """Stage, fraction and remaining time of the run."""
        progress = self._run.progress
        self.ui.progressBar.value = int(1000 * progress.fraction)
        remaining = remaining_text(progress.remaining_s, _)
        self.ui.statusLabel.text = f"{progress.stage}, {remaining}" if remaining else progress.stage
        if len(progress.log) != self._shownLogLines:
            self._shownLogLines = len(progress.log)
            self.ui.detailsText.plainText = "\n".join(progress.log)

    def finishRun(self) -> None:
        """Say how the run ended; show its result."""
        run, self._run = self._run, None
        self._timer.stop()
        progress, log = run.progress, "\n".join(run.progress.log)
        if progress.state is State.DONE:
            self.showEnd(found_text(run.result.summary, progress.warnings, _), log)
            self.showResult(run.result)
        elif progress.state is State.CANCELLED:
            self.showEnd(progress.error or _("Cancelled."), log)
        else:
            self.showFailure(f"{progress.error} {progress.advice}".strip(), log)

    def showEnd(self, text: str, details: str) -> None:
        """The panel without a run: a message, and details to copy."""
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = text
        self.ui.detailsText.plainText = details
        self.updateButton()

    def showFailure(self, text: str, details: str) -> None:
        """The panel after a failed run, with the details open."""
        self.showEnd(text, details)
        self.ui.detailsCollapsibleButton.collapsed = False

    def showResult(self, result: LoadedResult) -> None:
        """Bring the result before the eyes: the slices colored, the segmentation chosen for the next run."""
        show_volume(slicer.mrmlScene, result.volume)
        if result.overlay:
            show_overlay(slicer.mrmlScene, result.overlay)
        if result.segmentation and self._parameterNode:
            self._parameterNode.outputSegmentation = result.segmentation

    def onCopyButton(self, checked: bool = False) -> None:
        """Message and details to the clipboard."""
        text = f"{self.ui.statusLabel.text}\n\n{self.ui.detailsText.plainText}"
        slicer.app.clipboard().setText(text)


class BPRSegmentationLogic(ScriptedLoadableModuleLogic):
    """The main job on a volume of the scene, with or without a panel."""

    def getParameterNode(self):
        """The parameters, saved with the scene."""
        return BPRSegmentationParameterNode(super().getParameterNode())

    def startRun(self, volumeNode, segmentationNode=None, request: Request | None = None) -> Run:
        """Start the main job in a child process. Call ``poll()`` of what is returned until it is no longer running.

        Raises:
            RequestError: when something is missing. OSError: when the child process cannot be started.
        """
        return Run(
            slicer.mrmlScene,
            volumeNode,
            request or Request(),
            self.launch,
            segmentation_node=segmentationNode,
            temporary=slicer.app.temporaryPath,
        )

    def process(
        self,
        volumeNode,
        segmentationNode=None,
        produce: tuple[str, ...] = PRODUCTS,
        regions: tuple[str, ...] | None = None,
        organs: tuple[str, ...] | None = None,
        device: str = "auto",
        engine: str = "auto",
        waitForCompletion: bool = True,
        eventCallback: Callable[[dict], None] | None = None,
    ) -> LoadedResult | Run:
        """Run the main job on ``volumeNode`` from a script.

        :param segmentationNode: segmentation to update; None makes a new one.
        :param produce: any of "scores", "regions", "segmentation".
        :param regions: names of the regions to work on; None takes all that the scan holds.
        :param organs: IDs of the label table to segment; None takes all.
        :param waitForCompletion: when False, the started run is returned and the caller polls it.
        :param eventCallback: called with each event of the child process (see ``bpr.job``) while this waits.
        :return: the loaded nodes.
        :raises RuntimeError: with the child's message and advice, when the run fails.
        """
        request = Request(produce=produce, regions=regions, organs=organs, device=device, engine=engine)
        run = self.startRun(volumeNode, segmentationNode, request)
        if not waitForCompletion:
            return run
        try:
            while run.running:
                for event in run.poll():
                    if eventCallback:
                        eventCallback(event)
                slicer.app.processEvents()
                time.sleep(POLL_MS / 1000)
        finally:
            run.cancel()  # nothing to do unless the loop was left by an exception
        if run.progress.state is not State.DONE:
            raise RuntimeError(f"{run.progress.error} {run.progress.advice}".strip())
        return run.result

    def launch(self, job: Path) -> ChildProcess:
        """Start the child process for a job file."""
        environment = child_environment(Path(__file__).resolve().parent)
        return ChildProcess(job_command(self.pythonExecutable(), job), environment, folder=job.parent)

    def pythonExecutable(self) -> str:
        """Slicer's Python as a program of its own. Raises OSError when it cannot be found."""
        beside = os.path.dirname(sys.executable)
        found = shutil.which("PythonSlicer") or shutil.which("PythonSlicer", path=beside)
        if not found:
            raise OSError(_("PythonSlicer was not found; Slicer's installation is incomplete."))
        return found


class BPRSegmentationTest(ScriptedLoadableModuleTest):
    """Runs the main job, a cancelled one and a refused one inside Slicer, on the project's phantom."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all tests."""
        for test in (self.test_MainJob, self.test_Cancel, self.test_Refused):
            self.setUp()
            test()

    def phantom(self):
        """The phantom as a volume node."""
        import SimpleITK as sitk

        from bpr.phantom import make_phantom

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "phantom.nrrd")
            sitk.WriteImage(make_phantom(spacing_mm=(4.0, 4.0, 4.0)).image, path)
            return slicer.util.loadVolume(path)

    def requireEngine(self) -> None:
        """Skip where no engine is installed: tests must not install packages."""
        if not any(importlib.util.find_spec(name) for name in ("openvino", "torch")):
            self.skipTest("neither openvino nor torch is installed in Slicer's Python")

    def test_MainJob(self) -> None:
        """Scores, regions and segmentation of the phantom come into the scene."""
        self.requireEngine()
        volumeNode = self.phantom()
        result = BPRSegmentationLogic().process(volumeNode)
        self.assertEqual(result.overlay.GetTransformNodeID(), volumeNode.GetTransformNodeID())
        self.assertGreaterEqual(len(result.regions), 4)
        self.assertIn("liver", result.segment_ids)
        self.delayDisplay("Main job passed")

    def test_Cancel(self) -> None:
        """A cancelled run leaves the scene as it was."""
        volumeNode = self.phantom()
        before = slicer.mrmlScene.GetNumberOfNodes()
        run = BPRSegmentationLogic().process(volumeNode, waitForCompletion=False)
        run.cancel()
        self.assertEqual(run.progress.state, State.CANCELLED)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
        self.delayDisplay("Cancel passed")

    def test_Refused(self) -> None:
        """A volume without voxels is refused in words."""
        volumeNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        with self.assertRaisesRegex(RequestError, "no voxels"):
            BPRSegmentationLogic().process(volumeNode)
        self.delayDisplay("Refusal passed")
