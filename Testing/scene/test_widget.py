"""The real module files and panels under a stand-in of PythonQt: every button, a real child process, every ending."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path

import pytest
import slicer
import slicer_stand_in
from mrml_helpers import read_scene_file
from panel_fixtures import fake_child, run_to_end, settle, use, wait
from PySide6 import QtGui
from result_fixture import SEGMENTS

from BPRSegmentationLib.scene_file import load_volume


def test_panel_opens_with_the_first_volume_and_run_ready(panel, volume) -> None:
    assert panel._parameterNode.inputVolume is volume
    assert panel.ui.inputSelector.currentNode() is volume
    assert panel.ui.runButton.text == "Run" and panel.ui.runButton.enabled
    assert [panel.ui.deviceComboBox.itemText(row) for row in range(4)] == ["Automatic", "CPU", "CUDA", "Apple MPS"]


def test_disabled_run_says_what_is_missing(panel, stage, volume) -> None:
    for box in (panel.ui.scoresCheckBox, panel.ui.regionsCheckBox, panel.ui.segmentationCheckBox):
        box.checked = False
    assert not panel.ui.runButton.enabled and "at least one" in panel.ui.runButton.toolTip
    assert panel.ui.missingLabel.text == panel.ui.runButton.toolTip
    panel.ui.scoresCheckBox.checked = True
    assert panel.ui.runButton.enabled and panel.ui.missingLabel.text == ""
    stage.scene.RemoveNode(volume)
    settle()
    assert not panel.ui.runButton.enabled and "Choose an input" in panel.ui.missingLabel.text


def test_choices_live_in_the_parameter_node(panel, module) -> None:
    from BPRSegmentationLib.choices import Device, Engine

    panel.ui.deviceComboBox.currentIndex = 2
    panel.ui.engineComboBox.currentIndex = 1
    panel.exit()
    panel.ui.deviceComboBox.currentIndex = 0  # the panel is closed: nobody listens
    again = module.BPRSegmentationLogic().getParameterNode()
    assert (again.device, again.engine) == (Device.CUDA, Engine.OPENVINO)
    panel.enter()
    assert panel.ui.deviceComboBox.currentIndex == 2 and panel.ui.gpuSpinBox.enabled


def test_every_choice_reaches_the_child(panel, volume) -> None:
    from BPRSegmentationLib.choices import request_of

    ui = panel.ui
    ui.deviceComboBox.currentIndex, ui.gpuSpinBox.value, ui.tileComboBox.currentIndex = 2, 1, 2
    ui.stepSpinBox.value, ui.marginSpinBox.value = 4.0, 15.0
    ui.regionsCheckBox.checked = False
    ui.regionsList.item(0).setCheckState(slicer.qt.Qt.Unchecked)
    organ(panel, "liver").setCheckState(0, slicer.qt.Qt.Unchecked)
    request = request_of(panel._parameterNode)
    assert request.device == "cuda:1" and request.tile == 32 and request.step_mm == 4 and request.margin_mm == 15
    assert request.produce == ("scores", "segmentation")
    assert request.regions == ("neck", "thorax", "upper abdomen", "lower abdomen", "pelvis")
    assert "liver" not in request.organs and "spleen" in request.organs
    ui.advancedDefaultsButton.click()
    ui.outputsDefaultsButton.click()
    from BPRSegmentationLib.export import Request

    assert request_of(panel._parameterNode) == Request(), "the defaults are those of the command line"
    assert organ(panel, "liver").checkState(0) == slicer.qt.Qt.Checked


def test_organs_are_grouped_searched_and_ticked_together(panel) -> None:
    tree = panel.ui.organsTree
    groups = {tree.topLevelItem(row).text(0) for row in range(tree.topLevelItemCount)}
    assert {"thorax", "abdomen", "bones", "muscles", "pelvis"} <= groups
    panel.ui.organsFilterEdit.text = "Lung"
    shown = [name for name, item in panel._choices._organs.items() if not item.isHidden()]
    assert shown == ["lung_left", "lung_right"]
    panel.ui.organsNoneButton.click()
    assert panel._parameterNode.leftOutOrgans == ["lung_left", "lung_right"], "only what is shown"
    panel.ui.organsFilterEdit.text = ""
    panel.ui.organsNoneButton.click()
    assert "at least one organ" in panel.ui.missingLabel.text
    panel.ui.organsAllButton.click()
    assert panel.ui.runButton.enabled and panel._parameterNode.leftOutOrgans == []


def organ(panel, identifier: str):
    return panel._choices._organs[identifier]


def test_run_shows_progress_and_brings_the_result_into_the_scene(panel, a_case, stage) -> None:
    use(panel, "good", a_case)
    panel.ui.runButton.click()
    assert panel.ui.runButton.text == "Cancel" and panel.ui.runButton.enabled
    assert panel.ui.progressBar.isVisibleTo(panel.ui.runButton.parent())
    wait(lambda: panel._control.run is None)
    segmentation = panel._parameterNode.outputSegmentation
    assert set(segmentation.GetSegmentation().GetSegmentIDs()) == set(SEGMENTS)
    assert panel.ui.outputSelector.currentNode() is segmentation
    assert "Computed by openvino on cpu." in panel.ui.statusLabel.text
    assert "The scan is short." in panel.ui.statusLabel.text
    assert panel.ui.runButton.text == "Run" and not panel._control._timer.active
    assert "text with ä and no JSON" in panel.ui.detailsText.plainText


def test_first_progress_is_seen_within_a_second_and_a_half(panel, a_case) -> None:
    use(panel, "wait", a_case)
    started = time.monotonic()
    panel.ui.runButton.click()
    assert panel.ui.stageLabel.text == "Starting" and time.monotonic() - started < 0.3
    wait(lambda: panel.ui.progressBar.value == 400)
    assert time.monotonic() - started < 1.5
    assert panel.ui.stageLabel.text == "Reading the volume"
    assert "elapsed, about 1 min 15 s left" in panel.ui.timeLabel.text


def test_cancel_ends_the_run_and_leaves_the_scene(panel, a_case, stage, app) -> None:
    use(panel, "stubborn tree", a_case)
    before = stage.scene.GetNumberOfNodes()
    panel.ui.runButton.click()
    child = panel._control.run._child
    wait(lambda: panel.ui.stageLabel.text == "Reading the volume")
    started = time.monotonic()
    panel.ui.runButton.click()
    assert time.monotonic() - started < 2 and not child.running
    assert panel.ui.statusLabel.text == "Cancelled." and panel.ui.runButton.text == "Run"
    assert stage.scene.GetNumberOfNodes() == before
    assert not list(Path(app.temporaryPath).iterdir())
    use(panel, "good", a_case)
    run_to_end(panel)
    assert panel._parameterNode.outputSegmentation is not None, "the next run works"


def test_error_shows_message_advice_and_details_to_copy(panel, a_case, app) -> None:
    use(panel, "error", a_case)
    run_to_end(panel)
    assert panel.ui.statusLabel.text == "This is not a CT. Choose one."
    assert not panel.ui.detailsCollapsibleButton.collapsed
    panel.ui.copyButton.click()
    assert "This is not a CT." in app.clipboardText and "Traceback: the whole story" in app.clipboardText


@pytest.mark.parametrize("remedy", ["smallerTilesButton", "cpuButton"])
def test_out_of_memory_offers_smaller_tiles_and_the_cpu(panel, a_case, remedy: str) -> None:
    use(panel, "out of memory", a_case)
    run_to_end(panel)
    assert "too little free memory" in panel.ui.statusLabel.text
    button = getattr(panel.ui, remedy)
    assert button.isVisibleTo(panel.ui.runButton.parent())
    use(panel, "good", a_case)
    button.click()
    wait(lambda: panel._control.run is None)
    from BPRSegmentationLib.choices import Device, TileSize

    node = panel._parameterNode
    assert (node.tileSize, node.device) == (
        (TileSize.SMALL, Device.AUTO) if remedy == "smallerTilesButton" else (TileSize.AUTO, Device.CPU)
    )
    assert "structures were segmented" in panel.ui.statusLabel.text and not button.visible


def test_a_missing_package_is_offered_to_be_installed(panel, a_case, monkeypatch) -> None:
    from BPRSegmentationLib import run_control

    use(panel, "no package", a_case)
    run_to_end(panel)
    assert "must be installed" in panel.ui.statusLabel.text
    asked = []
    monkeypatch.setattr(run_control, "ensure_packages", lambda *arguments: asked.append(arguments))
    use(panel, "good", a_case)
    panel.ui.packagesButton.click()
    wait(lambda: panel._control.run is None)
    assert [arguments[3] for arguments in asked] == [True, False], "repaired, then checked again at Run"
    assert "structures were segmented" in panel.ui.statusLabel.text


def test_refused_packages_are_said_and_offered_again(panel, monkeypatch) -> None:
    from BPRSegmentationLib import run_control
    from BPRSegmentationLib.packages import PackagesError

    def refuse(*arguments) -> None:
        raise PackagesError("The packages openvino were not installed.")

    monkeypatch.setattr(run_control, "ensure_packages", refuse)
    panel.ui.runButton.click()
    assert panel.ui.statusLabel.text == "The packages openvino were not installed."
    assert panel.ui.packagesButton.isVisibleTo(panel.ui.runButton.parent()) and panel.ui.runButton.enabled


def test_a_run_that_cannot_start_says_why(panel) -> None:
    panel.logic.pythonExecutable = lambda: "/nowhere/PythonSlicer"
    panel.ui.runButton.click()
    assert "could not be started" in panel.ui.statusLabel.text and "/nowhere" in panel.ui.statusLabel.text
    assert panel._control.run is None and panel.ui.runButton.enabled


def test_closing_the_scene_in_the_middle_ends_the_run(panel, a_case, stage) -> None:
    use(panel, "wait", a_case)
    panel.ui.runButton.click()
    child = panel._control.run._child
    stage.scene.Clear(False)
    assert panel._control.run is None and not child.running
    assert "scene was closed" in panel.ui.statusLabel.text
    assert panel._parameterNode is not None, "the open panel has a new parameter node"
    assert not panel.ui.runButton.enabled


def test_deleting_the_volume_in_the_middle_ends_the_run(panel, a_case, stage, volume) -> None:
    use(panel, "wait", a_case)
    panel.ui.runButton.click()
    stage.scene.RemoveNode(volume)
    wait(lambda: panel._control.run is None)
    assert "removed from the scene" in panel.ui.statusLabel.text


def test_a_run_goes_on_while_another_module_is_open(host, panel, a_case, stage) -> None:
    use(panel, "good", a_case)
    panel.ui.runButton.click()
    host.exit()
    wait(lambda: panel._control.run is None)
    assert stage.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is not None
    host.enter()
    assert panel.ui.runButton.enabled and panel.ui.resultsTable.rowCount > 0


def test_cleanup_in_the_middle_ends_the_run(panel, a_case) -> None:
    use(panel, "wait", a_case)
    panel.ui.runButton.click()
    child, timer = panel._control.run._child, panel._control._timer
    panel.cleanup()
    assert not child.running and not timer.active
    panel.cleanup()  # Slicer calls it again when it quits


def test_reload_in_the_middle_ends_the_run_and_opens_a_new_panel(host, a_case, app) -> None:
    use(host.widget, "wait", a_case)
    host.widget.ui.runButton.click()
    old, child = host.widget, host.widget._control.run._child
    host.reload()
    assert host.widget is not old and not child.running and not list(Path(app.temporaryPath).iterdir())
    assert type(host.widget._control) is not type(old._control) if hasattr(old, "_control") else True
    assert host.widget.ui.runButton.enabled and host.widget.ui.inputSelector.currentNode() is not None


def test_an_error_in_the_module_itself_is_shown_once(panel, a_case, monkeypatch) -> None:
    use(panel, "wait", a_case)
    panel.ui.runButton.click()
    monkeypatch.setattr(panel._control.run, "poll", lambda: 1 / 0)
    wait(lambda: panel._control.run is None)
    assert "report the details" in panel.ui.statusLabel.text
    assert "ZeroDivisionError" in panel.ui.detailsText.plainText


def test_shortcuts_exist_only_while_the_module_is_shown(host, panel, app) -> None:
    def keys() -> set[str]:
        window = slicer.util.mainWindow()._q
        return {shortcut.key().toString() for shortcut in window.findChildren(QtGui.QShortcut)}

    assert keys() == {"Ctrl+Return", "N", "O"}
    host.exit()
    settle()
    assert keys() == set()
    host.enter()
    assert len(keys()) == 3


def test_choices_are_saved_with_the_scene_and_restored(host, panel, a_case, stage, tmp_path) -> None:
    use(panel, "good", a_case)
    panel.ui.stepSpinBox.value, panel.ui.opacitySlider.value = 5.0, 0.8
    organ(panel, "heart").setCheckState(0, slicer.qt.Qt.Unchecked)
    run_to_end(panel)
    assert stage.scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    stage.scene.Clear(False)
    settle()
    assert panel.ui.stepSpinBox.value == 2.5 and panel.ui.resultsTable.rowCount == 0
    (tmp_path / "cache").mkdir()
    opened = read_scene_file(stage, tmp_path / "scene.mrb", tmp_path / "cache")
    assert opened.first("vtkMRMLSegmentationNode") is not None
    settle()
    assert panel.ui.stepSpinBox.value == 5.0 and panel.ui.opacitySlider.value == pytest.approx(0.8)
    assert organ(panel, "heart").checkState(0) == slicer.qt.Qt.Unchecked
    assert panel.ui.inputSelector.currentNode() is not None
    assert panel.ui.resultsTable.rowCount == len(SEGMENTS) + 1, "organs and the region are found again"


def test_logic_runs_from_a_script(module, volume, a_case) -> None:
    logic = module.BPRSegmentationLogic()
    logic.launch = fake_child("good", a_case)
    events = []
    result = logic.process(volume, eventCallback=events.append)
    assert set(result.segment_ids) == set(SEGMENTS)
    assert [event["event"] for event in events][0] == "stage"
    run = logic.process(volume, result.segmentation, organs=["liver"], waitForCompletion=False)
    while run.running:
        run.poll()
    assert run.result.segmentation is result.segmentation
    logic.launch = fake_child("error", a_case)
    with pytest.raises(RuntimeError, match="This is not a CT. Choose one."):
        logic.process(volume)


def test_the_real_backend_runs_in_the_child_and_its_result_arrives(panel, tmp_path, sample_ct, stage) -> None:
    pytest.importorskip("openvino")
    panel._parameterNode.inputVolume = load_volume(stage.scene, sample_ct, "sample")
    panel._parameterNode.produceSegmentation = False
    panel.logic.pythonExecutable = lambda: sys.executable
    panel.ui.runButton.click()
    wait(lambda: panel._control.run is None, limit_s=120)
    assert "Regions:" in panel.ui.statusLabel.text and "thorax" in panel.ui.statusLabel.text, (
        panel.ui.detailsText.plainText
    )
    assert stage.scene.GetFirstNodeByClass("vtkMRMLMarkupsROINode") is not None


def test_samples_are_registered_and_load_without_network(module, app, stage, monkeypatch) -> None:
    sources = []
    logic = type("SampleDataLogic", (), {"registerCustomSampleDataSource": lambda **source: sources.append(source)})
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    parent = types.SimpleNamespace(path=module.__file__)
    module.BPRSegmentation(parent)
    for slot in app.connected["startupCompleted()"]:
        slot()
    assert len(sources) == 2
    for source in sources:
        assert Path(source["thumbnailFileName"]).is_file()
        node = source["customDownloader"](source)
        assert node.GetImageData().GetNumberOfPoints() > 1e5 and node.GetScene() is stage.scene


def test_training_panel_lists_the_models_with_their_cards(app, stage) -> None:
    panel = slicer_stand_in.Host("BPRTraining").widget
    names = [model.name for model in panel.logic.models()]
    assert "bpr_thorax" in names and f"{len(names)} models" in panel.ui.modelsLabel.text
    panel.ui.modelList.setCurrentRow(names.index("bpr_thorax"))
    assert panel._parameterNode.model == "bpr_thorax"
    assert "thorax" in panel.ui.cardText.plainText and "version" in panel.ui.cardText.plainText
    panel.exit()
    panel.enter()
    assert panel.ui.modelList.currentRow == names.index("bpr_thorax")
    stage.scene.Clear(False)
    assert panel._parameterNode is not None
    panel.cleanup()


def test_training_panel_lists_a_damaged_model_with_its_problem(app, tmp_path: Path, monkeypatch) -> None:
    import BPRTraining

    (tmp_path / "models" / "broken" / "configs").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "configs" / "metadata.json").write_text("{")
    monkeypatch.setenv("BPR_MODELS", str(tmp_path / "models"))
    logic = BPRTraining.BPRTrainingLogic()
    broken = next(model for model in logic.models() if model.name == "broken")
    assert broken.problem and logic.cardText(broken) == broken.problem


@pytest.mark.parametrize("name", ["BPRSegmentation", "BPRTraining"])
def test_module_tells_slicer_what_it_is(app, name: str) -> None:
    module = __import__(name)
    parent = types.SimpleNamespace(path=module.__file__)
    getattr(module, name)(parent)
    assert parent.title and parent.categories == ["Segmentation"] and "research" in parent.helpText
    assert parent.dependencies == (["BPRSegmentation"] if name == "BPRTraining" else [])
    for suffix in ("Widget", "Logic", "Test", "ParameterNode"):
        assert hasattr(module, name + suffix)
