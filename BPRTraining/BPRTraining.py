import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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

from BPRTrainingLib.choices import Device

# The rest is imported where it is used: the folder of BPRSegmentation, which holds bpr, may come later into the path.


class BPRTraining(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Body Part Training")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["BPRSegmentation"]  # its folder holds the package bpr
        self.parent.contributors = ["BodyPartRegression contributors"]
        self.parent.helpText = _(
            "From a few corrected cases to a better model: collects cases in a project, trains a model of Body Part "
            "Segmentation on what is marked as right in them, and shows whether the new model is better before it is "
            "used. Lists the models with their cards. For research only."
        )
        self.parent.acknowledgementText = _("The networks were trained on public CT collections; the cards name them.")


@parameterNodeWrapper
class BPRTrainingParameterNode:
    """
    The choices of a person, saved with the scene; a project's own are in its folder.

    project - folder of the open project, or empty.
    volume, segmentation - the next case.
    device - where the training runs.
    model - name of the model whose card is shown.
    """

    volume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    project: str = ""
    device: Device = Device.AUTO
    model: str = ""


class BPRTrainingWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: its sections show a project, a training and its result; this class wires them."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._control = None
        self._shown = None

    def setup(self) -> None:
        """Called when the module is opened for the first time."""
        from BPRTrainingLib.control import Control
        from BPRTrainingLib.marks_section import MarksSection
        from BPRTrainingLib.models_section import ModelsSection
        from BPRTrainingLib.project_section import ProjectSection
        from BPRTrainingLib.result_section import ResultSection
        from BPRTrainingLib.train_section import TrainSection

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/BPRTraining.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = BPRTrainingLogic()
        self._control = Control(self.logic.launch, self.onEvent, self.onEnd, self.showButtons)
        self._marks = self._train = None
        self._projects = ProjectSection(self.ui, self.run, self.openProject, self.onCaseChosen)
        self._marks = MarksSection(self.ui, self._projects)
        self._train = TrainSection(self.ui, self._projects, self.run, lambda: self._parameterNode.device.value)
        self._result = ResultSection(self.ui, self._projects, self.onModelsChanged)
        self._models = ModelsSection(self.ui, self.onModelChosen)
        self.ui.addButton.connect("clicked(bool)", self.onAdd)
        self.ui.editButton.connect("clicked(bool)", self.onEdit)
        self.ui.saveButton.connect("clicked(bool)", self.onSave)
        self.ui.copyButton.connect("clicked(bool)", self.onCopy)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes and when the module is reloaded; a training can be resumed."""
        if self._control:
            self._control.close()
            self._control = None
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the module is opened; models may have been installed meanwhile."""
        self._models.refresh()
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time another module is opened; a training goes on."""
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Reload the package together with the module file."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "BPRTrainingLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event) -> None:
        """The parameter node is about to go. The training does not need the scene and goes on."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """Make a new parameter node if the module is shown; the project stays open."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Observe the scene's parameter node; a scene without a project keeps the one that is open."""
        node = self.logic.getParameterNode()
        if not node.project and self._projects.project:
            node.project = str(self._projects.project.folder)
        self.setParameterNode(node)

    def setParameterNode(self, parameterNode) -> None:
        """Show and observe another parameter node, or none."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameterNode)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameterNode)
            self.onParameterNode()

    def onParameterNode(self, caller=None, event=None) -> None:
        """Follow the parameter node: the project, the model card, the buttons."""
        node = self._parameterNode
        self._models.show(node.model)
        if (node.project, node.device) != self._shown:
            changed, self._shown = self._shown is None or self._shown[0] != node.project, (node.project, node.device)
            if changed:
                self._projects.open(node.project)
                self._train.open()
                self._result.show()
            self.askDevice()
        self.showButtons()

    def showButtons(self) -> None:
        """What can be done now."""
        busy = self._control.errand is not None
        node, project = self._parameterNode, self._projects.project
        self.ui.addButton.enabled = project is not None and node is not None and node.volume is not None and not busy
        self._train.show(self._control.training)
        self.ui.saveButton.enabled = not busy and self._loadedSegmentation() is not None
        self._projects.showButtons(busy)

    def openProject(self, folder: str) -> None:
        """Open the project in a folder; it is remembered in the scene."""
        if self._parameterNode and self._parameterNode.project != folder:
            self._parameterNode.project = folder
        else:
            self._projects.open(folder)
            self._train.open()
            self._result.show()

    def run(self, kind: str, arguments: Sequence[str], temporary: Path | None = None) -> None:
        """Start a command of ``bpr``; say why when it cannot be started."""
        try:
            if kind == "train":
                self.logic.ensurePackages()
            self._control.start(kind, arguments, temporary)
        except Exception as error:  # pip, the system, or a person who says no
            label = self.ui.messageLabel if kind == "train" else self.ui.projectMessageLabel
            label.text = str(error)
            if temporary:
                shutil.rmtree(temporary, ignore_errors=True)

    def askDevice(self) -> None:
        """Find out what a training would run on: torch is asked in a process of its own."""
        if self._projects.project:
            folder, device = str(self._projects.project.folder), self._parameterNode.device.value
            self.run("device", ["seed", "device", folder, "--device", device, "--json"])

    def onEvent(self, task, event: dict) -> None:
        """What a child process said."""
        if task.kind == "train":
            self._train.onEvent(task, event)

    def onEnd(self, task) -> None:
        """How a task ended."""
        if task.kind != "device":
            self.ui.detailsText.plainText = "\n".join(task.log)
        if task.kind == "train":
            self._train.onEnd(task)
            self._projects.refresh()
            self._result.show()
            return
        if task.kind == "device":
            name = task.result["text"] if task.result else f"{task.error} {task.advice}".strip()
            self._train.showDevice(task.result["device"] if task.result else "", name)
            return
        if task.kind == "import" and task.result:
            self.openProject(task.result["project"])
        if task.kind == "propose" and task.result:
            from BPRTrainingLib.case_files import unload_case

            unload_case(slicer.mrmlScene, task.result["case"], self._projects.project.folder)  # its file is new
        self._projects.refresh()
        self._projects.say(task.result["text"] if task.result else f"{task.error} {task.advice}".strip())

    def onCaseChosen(self) -> None:
        """Another case is chosen in the table, or the cases have changed."""
        if self._marks:
            self._marks.show()
            self.ui.saveButton.enabled = self._control.errand is None and self._loadedSegmentation() is not None
        if self._train:
            self._train.show(self._control.training)

    def onAdd(self, checked: bool = False) -> None:
        """Add the chosen volume and segmentation."""
        self.addSeedCase(self._parameterNode.volume, self._parameterNode.segmentation)

    def addSeedCase(self, volumeNode, segmentationNode=None) -> None:
        """Add a volume and its correction to the project, from here or from Body Part Segmentation; does not wait."""
        from BPRTrainingLib.case_commands import add_command
        from BPRTrainingLib.case_files import CaseError

        if not self.parent.isEntered:
            slicer.util.selectModule(self.moduleName)  # where the case can be seen and marked
        if self._parameterNode is None:
            self.initializeParameterNode()
        if self._projects.project is None:
            self._projects.onNew()
        if self._projects.project is None:
            self._projects.say(_("Choose an empty folder for the project first; the case was not added."))
            return
        try:
            patient, domain = self.ui.patientLineEdit.text, self.ui.domainLineEdit.text
            folder = self._projects.project.folder
            arguments, temporary = add_command(volumeNode, segmentationNode, folder, patient, domain)
        except CaseError as error:
            self._projects.say(str(error))
            return
        self._projects.say(_("Adding the case..."))
        self.run("add", arguments, temporary)

    def onEdit(self, checked: bool = False) -> None:
        """Load the chosen case and open the Segment Editor on it."""
        from BPRSegmentationLib.hand_over import edit
        from BPRTrainingLib.case_files import CaseError

        case = self._projects.chosen()
        try:
            volumeNode, segmentationNode = self.logic.openCase(case, self._projects.project.folder)
        except CaseError as error:
            self._projects.say(str(error))
            return
        self.showButtons()
        edit(segmentationNode, volumeNode)

    def _loadedSegmentation(self):
        from BPRTrainingLib.case_files import loaded_segmentation

        case, project = self._projects.chosen(), self._projects.project
        return loaded_segmentation(slicer.mrmlScene, case.id, project.folder) if case else None

    def onSave(self, checked: bool = False) -> None:
        """Store the edited segmentation of the chosen case."""
        from BPRTrainingLib.case_commands import correct_command
        from BPRTrainingLib.case_files import CaseError

        case, project = self._projects.chosen(), self._projects.project
        try:
            arguments, temporary = correct_command(case.id, self._loadedSegmentation(), project.folder)
        except CaseError as error:
            self._projects.say(str(error))
        else:
            self.run("correct", arguments, temporary)

    def onModelChosen(self, name: str) -> None:
        """Keep the choice in the scene."""
        if self._parameterNode:
            self._parameterNode.model = name

    def onModelsChanged(self) -> None:
        """A model was installed or taken out of use."""
        self._models.refresh()
        self._projects.refresh()
        if self._parameterNode:
            self._models.show(self._parameterNode.model)

    def onCopy(self, checked: bool = False) -> None:
        """Messages and details to the clipboard."""
        widgets = (self.ui.projectMessageLabel.text, self.ui.messageLabel.text, self.ui.detailsText.plainText)
        slicer.app.clipboard().setText("\n\n".join(filter(None, widgets)))


class BPRTrainingLogic(ScriptedLoadableModuleLogic):
    """Projects, cases and models, with or without a panel; ``bpr`` computes in a process of its own."""

    def getParameterNode(self):
        """The parameters, saved with the scene."""
        return BPRTrainingParameterNode(super().getParameterNode())

    def models(self) -> list:
        """All installed models, as BPRTrainingLib.models.ModelEntry."""
        from BPRTrainingLib.models import installed_models

        return installed_models()

    def cardText(self, model) -> str:
        """The model card under a line of facts, or what is wrong with the model."""
        from BPRTrainingLib.models_section import card_text

        return card_text(model)

    def addSeedCase(
        self, volumeNode, segmentationNode, project: str | Path, patient: str = "", domain: str = ""
    ) -> str:
        """Add a case to a project and wait for it; returns its name.

        :param project: folder of a project, see ``bpr.seed.project.SeedProject.create``.
        :param patient: pseudonym; empty makes the case a patient of its own.
        :param domain: scanner and protocol; empty takes them from DICOM where they are known.
        :raises CaseError: the nodes cannot be written. RuntimeError: with the backend's sentence, when it refuses.
        """
        from BPRTrainingLib.case_commands import add_command
        from BPRTrainingLib.task import Task

        arguments, temporary = add_command(volumeNode, segmentationNode, Path(project), patient, domain)
        task = Task("add", self.launch, arguments, temporary)
        try:
            while task.running:
                task.poll()
                slicer.app.processEvents()
                time.sleep(0.02)
        finally:
            task.cancel()
        if task.result is None:
            raise RuntimeError(f"{task.error} {task.advice}".strip())
        return task.result["case"]

    def openCase(self, case, project: Path) -> tuple:
        """Load a case of a project; returns its volume and segmentation node. Raises CaseError."""
        from BPRTrainingLib.case_files import load_case

        return load_case(slicer.mrmlScene, case, project)

    def ensurePackages(self) -> None:
        """Install what a training needs, after asking. Raises PackagesError when it is missing afterwards."""
        from BPRSegmentationLib.packages import ensure_packages, install, missing_requirements

        segmentation = Path(slicer.modules.bprsegmentation.path).parent / "Resources"
        ensure_packages(segmentation, self.moduleName, "torch")
        own = Path(__file__).resolve().parent / "Resources" / "requirements.txt"
        install(missing_requirements(own), self.moduleName)

    def launch(self, arguments: Sequence[str]):
        """Start ``bpr`` with these arguments in a process of its own."""
        import bpr
        from BPRSegmentationLib.process import ChildProcess, child_environment

        environment = child_environment(Path(bpr.__file__).resolve().parents[1])
        return ChildProcess([self.pythonExecutable(), "-m", "bpr.cli", *arguments], environment)

    def pythonExecutable(self) -> str:
        """Slicer's Python as a program of its own. Raises OSError when it cannot be found."""
        found = shutil.which("PythonSlicer") or shutil.which("PythonSlicer", path=os.path.dirname(sys.executable))
        if not found:
            raise OSError(_("PythonSlicer was not found; Slicer's installation is incomplete."))
        return found


class BPRTrainingTest(ScriptedLoadableModuleTest):
    """Looks at the installed models and makes a case of a volume inside Slicer."""

    def runTest(self) -> None:
        """Run all tests; a failure stops at its place."""
        from BPRTrainingLib.self_test import SelfTest

        SelfTest(self, BPRTrainingLogic()).run()
