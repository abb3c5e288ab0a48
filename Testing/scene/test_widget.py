"""The real module files and panels under a stand-in of PythonQt: every button, a real child process, every ending."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import slicer_stand_in
from PySide6 import QtWidgets
from result_fixture import SEGMENTS

from BPRSegmentationLib.process import ChildProcess, child_environment
from BPRSegmentationLib.scene_file import load_volume, new_stage

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake_child.py")


@pytest.fixture
def stage():
    return new_stage()


@pytest.fixture
def app(stage, tmp_path: Path, monkeypatch):
    """The application's stand-in; both modules can be imported, anew for each test."""
    for name in ("BPRSegmentation", "BPRTraining"):
        monkeypatch.syspath_prepend(str(ROOT / name))
        sys.modules.pop(name, None)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return slicer_stand_in.install(stage.scene, str(temporary))


@pytest.fixture
def volume(stage, a_case):
    return load_volume(stage.scene, a_case.ct, "CT")


@pytest.fixture
def module(app, monkeypatch):
    import BPRSegmentation

    monkeypatch.setattr(BPRSegmentation, "ensure_packages", lambda path, requester: None)
    return BPRSegmentation


@pytest.fixture
def panel(module, volume):
    widget = module.BPRSegmentationWidget(slicer_stand_in.make_parent())
    widget.setup()
    yield widget
    widget.cleanup()


def use(panel, behavior: str, case) -> None:
    """Let the panel start the stand-in child."""
    command = [sys.executable, str(FAKE), behavior]
    panel.logic.launch = lambda job: ChildProcess(
        [*command, str(job), str(case.folder)], child_environment(FAKE.parent)
    )


def wait(condition, limit_s: float = 20) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        QtWidgets.QApplication.processEvents()
        time.sleep(0.005)


def test_panel_opens_with_the_first_volume_and_run_ready(panel, volume) -> None:
    assert panel._parameterNode.inputVolume is volume
    assert panel.ui.inputSelector.currentNode() is volume
    assert panel.ui.runButton.text == "Run" and panel.ui.runButton.enabled
    assert [panel.ui.deviceComboBox._q.itemText(row) for row in range(4)] == ["Automatic", "CPU", "CUDA", "Apple MPS"]


def test_disabled_run_says_what_is_missing(panel, stage, volume) -> None:
    for box in (panel.ui.scoresCheckBox, panel.ui.regionsCheckBox, panel.ui.segmentationCheckBox):
        box.checked = False
    assert not panel.ui.runButton.enabled and "at least one" in panel.ui.runButton.toolTip
    panel.ui.scoresCheckBox.checked = True
    assert panel.ui.runButton.enabled and panel.produce() == ("scores",)
    stage.scene.RemoveNode(volume)
    assert not panel.ui.runButton.enabled and "Choose an input" in panel.ui.runButton.toolTip


def test_choices_live_in_the_parameter_node(panel, module) -> None:
    panel.ui.deviceComboBox.currentIndex = 2
    panel.ui.engineComboBox.currentIndex = 1
    panel.exit()
    panel.ui.deviceComboBox.currentIndex = 0  # the panel is closed: nobody listens
    again = module.BPRSegmentationLogic().getParameterNode()
    assert (again.device, again.engine) == (module.Device.CUDA, module.Engine.OPENVINO)
    panel.enter()
    assert panel.ui.deviceComboBox.currentIndex == 2


def test_run_shows_progress_and_brings_the_result_into_the_scene(panel, a_case, stage) -> None:
    use(panel, "good", a_case)
    panel.ui.runButton.click()
    assert panel.ui.runButton.text == "Cancel" and panel.ui.runButton.enabled
    assert panel.ui.progressBar._q.isVisibleTo(panel.ui.progressBar._q.parent())
    wait(lambda: panel._run is None)
    segmentation = panel._parameterNode.outputSegmentation
    assert set(segmentation.GetSegmentation().GetSegmentIDs()) == set(SEGMENTS)
    assert panel.ui.outputSelector.currentNode() is segmentation
    assert "Computed by openvino on cpu." in panel.ui.statusLabel.text
    assert "The scan is short." in panel.ui.statusLabel.text
    assert panel.ui.runButton.text == "Run" and not panel._timer.active
    assert "text with ä and no JSON" in panel.ui.detailsText.plainText


def test_first_progress_is_seen_within_a_second_and_a_half(panel, a_case) -> None:
    use(panel, "wait", a_case)
    started = time.monotonic()
    panel.ui.runButton.click()
    wait(lambda: panel.ui.progressBar.value == 400)
    assert time.monotonic() - started < 1.5
    assert panel.ui.statusLabel.text == "Reading the volume, about 1 min left"


def test_cancel_ends_the_run_and_leaves_the_scene(panel, a_case, stage, app) -> None:
    use(panel, "stubborn tree", a_case)
    before = stage.scene.GetNumberOfNodes()
    panel.ui.runButton.click()
    child = panel._run._child
    wait(lambda: panel.ui.statusLabel.text == "Reading the volume")
    started = time.monotonic()
    panel.ui.runButton.click()
    assert time.monotonic() - started < 2 and not child.running
    assert panel.ui.statusLabel.text == "Cancelled." and panel.ui.runButton.text == "Run"
    assert stage.scene.GetNumberOfNodes() == before
    assert not list(Path(app.temporaryPath).iterdir())
    use(panel, "good", a_case)
    panel.ui.runButton.click()
    wait(lambda: panel._run is None)
    assert panel._parameterNode.outputSegmentation is not None, "the next run works"


def test_error_shows_message_advice_and_details_to_copy(panel, a_case, app) -> None:
    use(panel, "error", a_case)
    panel.ui.runButton.click()
    wait(lambda: panel._run is None)
    assert panel.ui.statusLabel.text == "This is not a CT. Choose one."
    assert not panel.ui.detailsCollapsibleButton.collapsed
    panel.ui.copyButton.click()
    assert "This is not a CT." in app.clipboardText and "Traceback: the whole story" in app.clipboardText


def test_a_run_that_cannot_start_says_why(panel) -> None:
    panel.logic.pythonExecutable = lambda: "/nowhere/PythonSlicer"
    panel.ui.runButton.click()
    assert "could not be started" in panel.ui.statusLabel.text and "/nowhere" in panel.ui.statusLabel.text
    assert panel._run is None and panel.ui.runButton.enabled


def test_closing_the_scene_in_the_middle_ends_the_run(panel, a_case, stage) -> None:
    use(panel, "wait", a_case)
    panel.ui.runButton.click()
    child = panel._run._child
    stage.scene.Clear(False)
    assert panel._run is None and not child.running
    assert "scene was closed" in panel.ui.statusLabel.text
    assert panel._parameterNode is not None, "the open panel has a new parameter node"
    assert not panel.ui.runButton.enabled


def test_deleting_the_volume_in_the_middle_ends_the_run(panel, a_case, stage, volume) -> None:
    use(panel, "wait", a_case)
    panel.ui.runButton.click()
    stage.scene.RemoveNode(volume)
    wait(lambda: panel._run is None)
    assert "removed from the scene" in panel.ui.statusLabel.text


def test_a_run_goes_on_while_another_module_is_open(panel, a_case, stage) -> None:
    use(panel, "good", a_case)
    panel.ui.runButton.click()
    panel.exit()
    wait(lambda: panel._run is None)
    assert stage.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is not None
    panel.enter()
    assert panel.ui.runButton.enabled


def test_cleanup_in_the_middle_ends_the_run(module, volume, a_case) -> None:
    widget = module.BPRSegmentationWidget(slicer_stand_in.make_parent())
    widget.setup()
    use(widget, "wait", a_case)
    widget.ui.runButton.click()
    child = widget._run._child
    widget.cleanup()
    assert not child.running and not widget._timer.active


def test_an_error_in_the_module_itself_is_shown_once(panel, a_case, monkeypatch) -> None:
    use(panel, "wait", a_case)
    panel.ui.runButton.click()
    monkeypatch.setattr(panel._run, "poll", lambda: 1 / 0)
    wait(lambda: panel._run is None)
    assert "report the details" in panel.ui.statusLabel.text
    assert "ZeroDivisionError" in panel.ui.detailsText.plainText


def test_logic_runs_from_a_script(module, volume, a_case) -> None:
    logic = module.BPRSegmentationLogic()
    logic.launch = lambda job: ChildProcess(
        [sys.executable, str(FAKE), "good", str(job), str(a_case.folder)], child_environment(FAKE.parent)
    )
    events = []
    result = logic.process(volume, eventCallback=events.append)
    assert set(result.segment_ids) == set(SEGMENTS)
    assert [event["event"] for event in events][0] == "stage"
    logic.launch = lambda job: ChildProcess(
        [sys.executable, str(FAKE), "error", str(job)], child_environment(FAKE.parent)
    )
    with pytest.raises(RuntimeError, match="This is not a CT. Choose one."):
        logic.process(volume)


def test_the_real_backend_runs_in_the_child_and_its_result_arrives(panel, tmp_path, sample_ct, stage) -> None:
    pytest.importorskip("openvino")
    panel._parameterNode.inputVolume = load_volume(stage.scene, sample_ct, "sample")
    panel._parameterNode.produceSegmentation = False
    panel.logic.pythonExecutable = lambda: sys.executable
    panel.ui.runButton.click()
    wait(lambda: panel._run is None, limit_s=120)
    assert "Regions:" in panel.ui.statusLabel.text and "thorax" in panel.ui.statusLabel.text, (
        panel.ui.detailsText.plainText
    )
    assert stage.scene.GetFirstNodeByClass("vtkMRMLMarkupsROINode") is not None


def test_training_panel_lists_the_models_with_their_cards(app, stage) -> None:
    import BPRTraining

    panel = BPRTraining.BPRTrainingWidget(slicer_stand_in.make_parent())
    panel.setup()
    names = [model.name for model in panel.logic.models()]
    assert "bpr_thorax" in names and f"{len(names)} models" in panel.ui.modelsLabel.text
    panel.ui.modelList._q.setCurrentRow(names.index("bpr_thorax"))
    assert panel._parameterNode.model == "bpr_thorax"
    assert "thorax" in panel.ui.cardText.plainText and "version" in panel.ui.cardText.plainText
    panel.exit()
    panel.enter()
    assert panel.ui.modelList._q.currentRow() == names.index("bpr_thorax")
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
    parent = type("Parent", (), {})()
    getattr(module, name)(parent)
    assert parent.title and parent.categories == ["Segmentation"] and "research" in parent.helpText
    assert parent.dependencies == (["BPRSegmentation"] if name == "BPRTraining" else [])
    for suffix in ("Widget", "Logic", "Test", "ParameterNode"):
        assert hasattr(module, name + suffix)
