import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from BPRSegmentationLib import samples
from BPRSegmentationLib.choices import Device, Engine, TileSize
from BPRSegmentationLib.choices_section import ChoicesSection
from BPRSegmentationLib.composition import (
    LevelRequest,
    LoadedComposition,
    SpanEnd,
    SpineLevel,
    composition_arguments,
    load_composition,
)
from BPRSegmentationLib.export import PRODUCTS, Request, likely_input
from BPRSegmentationLib.models_section import ModelsSection
from BPRSegmentationLib.process import ChildProcess, child_environment
from BPRSegmentationLib.progress import State
from BPRSegmentationLib.results import LoadedResult, find_result
from BPRSegmentationLib.results_section import ResultsSection
from BPRSegmentationLib.run import Run, job_command
from BPRSegmentationLib.run_control import POLL_MS, RunControl
from BPRSegmentationLib.scores_section import ScoresSection
from BPRSegmentationLib.self_test import SelfTest
from BPRSegmentationLib.shortcuts import Shortcuts
from BPRSegmentationLib.views import show_volume

TUTORIAL = "https://github.com/BodyPartRegression/SlicerBodyPartRegression/blob/main/docs/tutorial.md"


class BPRSegmentation(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Body Part Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["BodyPartRegression contributors"]
        self.parent.helpText = (
            _(
                "Finds out which part of the body a CT shows (a score for every slice), cuts it into body regions and "
                "segments organs, bones and muscles with one network for each region. For research only."
            )
            + f'<p><a href="{TUTORIAL}">{_("Tutorial")}</a></p>'
        )
        self.parent.acknowledgementText = _(
            "The score follows the published body part regression: 0 at the pelvis start, 100 at the eyes end. "
            "The networks were trained on public CT collections; the model cards name them."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Add the project's CT and its phantom to the Sample Data module; neither needs the network."""
    samples.register(Path(__file__).resolve().parent / "Resources" / "Icons")


@parameterNodeWrapper
class BPRSegmentationParameterNode:
    """
    The choices of a person, saved with the scene.

    inputVolume - the CT.
    outputSegmentation - the segmentation to update; none makes a new one.
    produceScores, produceRegions, produceSegmentation - what to produce.
    leftOutRegions, leftOutOrgans - names and IDs of what is not wanted.
    models - names of the models that take the place of the default ones.
    device, gpu, engine - where and with what the networks run.
    sliceStep, margin, tileSize - quality: mm between scored slices, mm around regions, voxels that a network sees.
    colorSlices, opacity, showBoxes - how the result is shown.
    compositionLevel, compositionTo - where muscle and fat are measured: at a level, or from it down to another.
    bodyHeight - of the person in cm, for the muscle index; 0 when it is not known.
    batchFolder, batchComposition - where the results of a batch go, and whether it measures muscle and fat at L3 too.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    produceScores: bool = True
    produceRegions: bool = True
    produceSegmentation: bool = True
    leftOutRegions: list[str] = []
    leftOutOrgans: list[str] = []
    models: list[str] = []
    device: Device = Device.AUTO
    gpu: Annotated[int, WithinRange(0, 15)] = 0
    engine: Engine = Engine.AUTO
    sliceStep: Annotated[float, WithinRange(0.5, 8)] = 2.5
    margin: Annotated[float, WithinRange(0, 200)] = 0.0
    tileSize: TileSize = TileSize.AUTO
    colorSlices: bool = True
    opacity: Annotated[float, WithinRange(0, 1)] = 0.35
    showBoxes: bool = True
    compositionLevel: SpineLevel = SpineLevel.L3
    compositionTo: SpanEnd = SpanEnd.NONE
    bodyHeight: Annotated[float, WithinRange(0, 250)] = 0.0
    batchFolder: str = ""
    batchComposition: bool = False


class BPRSegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: it wires sections, parameter node and run control, and computes nothing."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._control = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._shownVolume = None

    def setup(self) -> None:
        """Called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/BPRSegmentation.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = BPRSegmentationLogic()
        self._choices = ChoicesSection(self.ui)
        self._models = ModelsSection(self.ui)
        self._scores = ScoresSection(self.ui)
        resources = Path(self.resourcePath("requirements.txt")).parent
        self._control = RunControl(self.ui, self.logic, resources, self.showResult, self.showVolume)
        self._results = ResultsSection(self.ui, self._control.say)
        self._shortcuts = Shortcuts(
            {
                "Ctrl+Return": self._control.onRunButton,
                "N": self._results.goToNext,
                "O": self._scores.toggleColors,
            }
        )
        self._refreshTimer = qt.QTimer()  # many nodes may be removed at once; the panel looks once
        self._refreshTimer.setSingleShot(True)
        self._refreshTimer.setInterval(0)
        self._refreshTimer.connect("timeout()", self.refresh)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndRestoreEvent, self.onSceneChanged)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes and when the module is reloaded."""
        if self._control is None:
            return
        self._refreshTimer.stop()
        self._control.close()
        self._shortcuts.remove()
        self.setParameterNode(None)
        self._scores.close()
        self.removeObservers()
        self._control = None

    def enter(self) -> None:
        """Called each time the module is opened."""
        self._shortcuts.install()
        self._models.refresh()
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time another module is opened. A run goes on."""
        self._shortcuts.remove()
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Reload the packages together with the module file."""
        for name in [name for name in sys.modules if name.partition(".")[0] in ("BPRSegmentationLib", "bpr")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event) -> None:
        """The volume is about to go, so the run goes with it."""
        self._control.closeScene()
        self.setParameterNode(None)

    def onSceneChanged(self, caller, event) -> None:
        """A closed scene has lost the parameter node, an opened one may have brought another."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onNodeRemoved(self, caller, event) -> None:
        """What was removed may have been part of the result."""
        if self._parameterNode and not slicer.mrmlScene.IsClosing():
            self._refreshTimer.start()

    def initializeParameterNode(self) -> None:
        """Observe the scene's parameter node; take the volume that is shown, else the first, when none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            volumeNode = likely_input(slicer.mrmlScene)
            if volumeNode:
                self._parameterNode.inputVolume = volumeNode

    def setParameterNode(self, parameterNode) -> None:
        """Show and observe another parameter node, or none."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        for part in (self._choices, self._models, self._scores, self._control):
            part.setParameterNode(parameterNode)
        self.refresh()

    def onParametersChanged(self, caller=None, event=None) -> None:
        """A choice was made, by the person or by a script."""
        if self._parameterNode.inputVolume is not self._shownVolume:
            self.refresh()
        self._choices.show()
        self._models.show()
        self._scores.apply()
        self._control.updateButton()

    def refresh(self) -> None:
        """Show the result that the scene holds for the input volume."""
        self._shownVolume = self._parameterNode.inputVolume if self._parameterNode else None
        result = find_result(self._shownVolume)
        self._results.show(result)
        self._scores.show(result)
        self._control.showVolume(self._shownVolume)
        self._control.updateButton()

    def showResult(self, result: LoadedResult) -> None:
        """Choose the segmentation of a finished run for the next one, and show all of it."""
        if result.segmentation and self._parameterNode:
            self._parameterNode.outputSegmentation = result.segmentation
        self.showVolume(result.volume)

    def showVolume(self, volumeNode) -> None:
        """Bring a volume and its result before the eyes: slices colored, plot docked."""
        show_volume(slicer.mrmlScene, volumeNode)
        if self._parameterNode:
            self._parameterNode.inputVolume = volumeNode
            self.refresh()
            self._scores.reveal()


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

    def startComposition(self, volumeNode, request: LevelRequest | None = None) -> Run:
        """Start measuring muscle and fat in a child process. Poll what is returned, as with ``startRun``.

        Its ``result`` is a LoadedComposition in the end.

        Raises:
            RequestError: when something is missing. OSError: when the child process cannot be started.
        """
        asked = request or LevelRequest()

        def launch(job: Path) -> ChildProcess:
            return self.launchCommand(composition_arguments(asked, job.parent), job.parent)

        scene, temporary = slicer.mrmlScene, slicer.app.temporaryPath
        return Run(scene, volumeNode, Request(), launch, temporary=temporary, load=load_composition)

    def measureComposition(self, volumeNode, level: str = "L3", downTo: str = "", heightCm: float | None = None):
        """Measure muscle and fat from a script, as the panel and ``bpr body-composition`` do.

        :param level: T12 to L5: the middle of that vertebra.
        :param downTo: a lower level, to measure all slices between the two; "" measures at ``level`` alone.
        :param heightCm: of the person, for the skeletal muscle index.
        :return: LoadedComposition, with nodes None when the level could not be measured (see its ``summary``).
        :raises RuntimeError: with the child's message and advice, when it fails.
        """
        return self._wait(self.startComposition(volumeNode, LevelRequest(level, downTo, heightCm)))

    def process(
        self,
        volumeNode,
        segmentationNode=None,
        produce: tuple[str, ...] = PRODUCTS,
        regions: Sequence[str] | None = None,
        organs: Sequence[str] | None = None,
        bundles: Sequence[str] = (),
        device: str = "auto",
        engine: str = "auto",
        waitForCompletion: bool = True,
        eventCallback: Callable[[dict], None] | None = None,
    ) -> LoadedResult | Run:
        """Run the main job on ``volumeNode`` from a script: the same code as the panel and as ``bpr run``.

        :param segmentationNode: segmentation to update; None makes a new one.
        :param produce: any of "scores", "regions", "segmentation".
        :param regions: names of the regions to work on; None takes all that the scan holds.
        :param organs: IDs of the label table to segment; None takes all.
        :param bundles: names of models that take the place of the default ones.
        :param device: "auto", "cpu", "cuda", "cuda:1", "mps".
        :param engine: "auto", "openvino", "torch".
        :param waitForCompletion: when False, the started run is returned and the caller polls it.
        :param eventCallback: called with each event of the child process (see ``bpr.job``) while this waits.
        :return: the loaded nodes.
        :raises RuntimeError: with the child's message and advice, when the run fails.
        """
        lists = {"regions": regions, "organs": organs}
        request = Request(
            produce=tuple(produce),
            bundles=tuple(bundles),
            device=device,
            engine=engine,
            **{name: None if value is None else tuple(value) for name, value in lists.items()},
        )
        run = self.startRun(volumeNode, segmentationNode, request)
        if not waitForCompletion:
            return run
        return self._wait(run, eventCallback)

    def _wait(self, run: Run, eventCallback: Callable[[dict], None] | None = None) -> LoadedResult | LoadedComposition:
        """Poll a run to its end while the application stays alive; its result. Raises RuntimeError."""
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
        return self._start(job_command(self.pythonExecutable(), job), job.parent)

    def launchCommand(self, arguments: Sequence[str], folder: Path) -> ChildProcess:
        """Start ``bpr`` with these arguments; its temporary files go into ``folder``."""
        return self._start([self.pythonExecutable(), "-m", "bpr.cli", *arguments], folder)

    def _start(self, command: Sequence[str], folder: Path) -> ChildProcess:
        environment = child_environment(Path(__file__).resolve().parent, temporary=folder)
        return ChildProcess(command, environment, folder=folder)

    def pythonExecutable(self) -> str:
        """Slicer's Python as a program of its own. Raises OSError when it cannot be found."""
        beside = os.path.dirname(sys.executable)
        found = shutil.which("PythonSlicer") or shutil.which("PythonSlicer", path=beside)
        if not found:
            raise OSError(_("PythonSlicer was not found; Slicer's installation is incomplete."))
        return found


class BPRSegmentationTest(ScriptedLoadableModuleTest):
    """Runs the main job, a cancelled one, a failing one and a saved scene inside Slicer, on the project's phantom."""

    def runTest(self) -> None:
        """Run all tests; a failure stops at its place."""
        SelfTest(self, BPRSegmentationLogic()).run()
