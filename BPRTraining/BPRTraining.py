import sys

import slicer
import vtk
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


class BPRTraining(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Body Part Training")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["BPRSegmentation"]  # its folder holds the package bpr
        self.parent.contributors = ["BodyPartRegression contributors"]
        self.parent.helpText = _(
            "Lists the models that Body Part Segmentation uses, with their model cards: what they were trained on, "
            "what they can do and what they cannot. Training from corrected cases runs from the command line "
            "(bpr train). For research only."
        )
        self.parent.acknowledgementText = _("The networks were trained on public CT collections; the cards name them.")


@parameterNodeWrapper
class BPRTrainingParameterNode:
    """
    The choices of a person, saved with the scene.

    model - name of the model whose card is shown.
    """

    model: str = ""


class BPRTrainingWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: the installed models and the card of the chosen one."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._models = []

    def setup(self) -> None:
        """Called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/BPRTraining.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = BPRTrainingLogic()
        self.ui.modelList.connect("currentRowChanged(int)", self.onModelChosen)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.showModels()
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes and when the module is reloaded."""
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the module is opened; models may have been installed meanwhile."""
        self.showModels()
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time another module is opened."""
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Reload the package together with the module file."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "BPRTrainingLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event) -> None:
        """The parameter node is about to go."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """Make a new parameter node if the module is shown."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Observe the scene's parameter node."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode) -> None:
        """Show and observe another parameter node, or none."""
        if self._parameterNode:
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.showChosen)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.showChosen)
            self.showChosen()

    def showModels(self) -> None:
        """Fill the list of models."""
        self._models = self.logic.models()
        modelList = self.ui.modelList
        wasBlocked = modelList.blockSignals(True)
        modelList.clear()
        for model in self._models:
            modelList.addItem(model.name)
        modelList.blockSignals(wasBlocked)
        self.ui.modelsLabel.text = _("{count} models are installed.").format(count=len(self._models))

    def showChosen(self, caller=None, event=None) -> None:
        """Select the parameter node's model (the first one when it is not installed) and show its card."""
        names = [model.name for model in self._models]
        if not names:
            self.ui.cardText.plainText = _("No model is installed. Install the extension again.")
            return
        chosen = self._parameterNode.model
        row = names.index(chosen) if chosen in names else 0
        if self.ui.modelList.currentRow != row:
            self.ui.modelList.currentRow = row
        self.ui.cardText.plainText = self.logic.cardText(self._models[row])

    def onModelChosen(self, row: int) -> None:
        """Keep the choice in the scene."""
        if self._parameterNode and 0 <= row < len(self._models):
            self._parameterNode.model = self._models[row].name


class BPRTrainingLogic(ScriptedLoadableModuleLogic):
    """The models, with or without a panel."""

    def getParameterNode(self):
        """The parameters, saved with the scene."""
        return BPRTrainingParameterNode(super().getParameterNode())

    def models(self) -> list:
        """All installed models, as BPRTrainingLib.models.ModelEntry."""
        # Not at file scope: the folder of BPRSegmentation, which holds bpr, may come later into Python's path.
        from BPRTrainingLib.models import installed_models

        return installed_models()

    def cardText(self, model) -> str:
        """The model card under a line of facts, or what is wrong with the model."""
        if model.problem:
            return model.problem
        text = _("{task}, version {version}, {size} MB")
        facts = text.format(task=model.task, version=model.version, size=f"{model.size_mb:.1f}")
        return f"{facts}\n\n{model.card}"


class BPRTrainingTest(ScriptedLoadableModuleTest):
    """Looks at the installed models inside Slicer."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all tests."""
        self.setUp()
        self.test_ModelsHaveCards()

    def test_ModelsHaveCards(self) -> None:
        """Every shipped model is intact and says what it is."""
        logic = BPRTrainingLogic()
        models = logic.models()
        self.assertTrue(models)
        for model in models:
            self.assertEqual(model.problem, "")
            self.assertIn(model.version, logic.cardText(model))
        self.delayDisplay("Models passed")
