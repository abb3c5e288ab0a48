"""The training panel, clicked: project, cases, marks, training, result, with real and stand-in child processes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="Slicer's MRML (slicer-core) cannot be loaded here")
pytest.importorskip("PySide6.QtUiTools", reason="the stand-in of Slicer's panels needs PySide6")

import slicer_stand_in  # noqa: E402
from panel_fixtures import ROOT, wait  # noqa: E402
from pythonqt import FILE_ANSWERS  # noqa: E402
from seed_samples import write_toy_case  # noqa: E402

from bpr.models import names_in_use  # noqa: E402
from bpr.seed.case import Part, State  # noqa: E402
from bpr.seed.marks import Mark  # noqa: E402
from bpr.seed.project import SeedProject  # noqa: E402
from bpr.seed.runs import latest  # noqa: E402
from BPRSegmentationLib.process import ChildProcess, child_environment  # noqa: E402
from BPRSegmentationLib.scene_file import load_volume  # noqa: E402

FAKE = Path(__file__).with_name("fake_training.py")


@pytest.fixture
def project(tmp_path: Path) -> SeedProject:
    """Four cases of a toy scanner, the first three with everything marked."""
    project = SeedProject.create(tmp_path / "project", "bpr_upper_abdomen")
    for seed in range(4):
        marks = [Mark()] if seed < 3 else []
        project.add(*write_toy_case(tmp_path / f"in{seed}", seed), marks, domain="scanner A")
    return project


@pytest.fixture
def panel(app, tmp_path: Path, monkeypatch):
    """The open panel; short errands run as the real ``bpr`` of this Python, answers to questions are yes."""
    monkeypatch.setenv("BPR_MODELS", str(tmp_path / "models"))
    host = slicer_stand_in.Host("BPRTraining")
    host.widget.logic.pythonExecutable = lambda: sys.executable
    host.widget.logic.ensurePackages = lambda: None
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text: True, raising=False)
    yield host.widget
    host.widget.cleanup()


def use_fake(panel, behavior: str) -> None:
    """Let trainings be played by fake_training.py."""
    project = panel._projects.project.folder

    def launch(arguments):
        command = [sys.executable, str(FAKE), behavior, str(project)]
        if arguments[0] == "seed":
            command = [sys.executable, "-c", 'print(\'{"event": "result", "text": "CPU", "device": "cpu"}\')']
        return ChildProcess(command, child_environment(ROOT / "BPRSegmentation"))

    panel.logic.launch = panel._control._launch = launch


def opened(panel, project: SeedProject, behavior: str = "done"):
    """Open the project with the stand-in child and wait until the device is known."""
    panel.logic.launch = panel._control._launch = lambda arguments: ChildProcess(
        [sys.executable, "-c", 'print(\'{"event": "result", "text": "CPU (x86_64)", "device": "cpu"}\')'],
        child_environment(ROOT / "BPRSegmentation"),
    )
    panel._parameterNode.project = str(project.folder)
    wait(lambda: panel._train._deviceName)
    use_fake(panel, behavior)
    return panel.ui


def cell(table, row: int, column: int) -> str:
    return table.item(row, column).text()


def picture(panel, name: str) -> None:
    """Keep a picture of the panel when SEED_PICTURES names a folder."""
    import os

    if os.environ.get("SEED_PICTURES"):
        widget = panel.parent._q
        widget.resize(470, widget.sizeHint().height())
        widget.show()
        slicer.app.processEvents()
        widget.grab().save(str(Path(os.environ["SEED_PICTURES"]) / f"{name}.png"))


def test_an_empty_panel_says_what_to_do(panel) -> None:
    assert not panel.ui.startButton.enabled and "project first" in panel.ui.estimateLabel.text
    assert not panel.ui.addButton.enabled and not panel.ui.editButton.enabled
    assert panel.ui.verdictLabel.text == "Nothing has been trained yet."
    picture(panel, "1_empty")


def test_a_new_project_is_made_and_remembered(panel, tmp_path, stage) -> None:
    FILE_ANSWERS.append(str(tmp_path / "new"))
    panel.ui.bundleComboBox.currentIndex = panel._projects._bundles.index("bpr_pelvis")
    panel.ui.newProjectButton.click()
    assert SeedProject.open(tmp_path / "new").bundle == "bpr_pelvis"
    assert panel.ui.projectLineEdit.text == str(tmp_path / "new")
    stage.scene.Clear(False)
    assert panel._parameterNode.project == str(tmp_path / "new"), "closing the scene leaves the project open"
    FILE_ANSWERS.append(str(tmp_path))
    panel.ui.newProjectButton.click()
    assert "not empty" in panel.ui.projectMessageLabel.text


def test_the_table_shows_cases_and_changes_them(panel, project) -> None:
    ui = opened(panel, project)
    assert ui.casesTable.rowCount == 4 and cell(ui.casesTable, 0, 3) == "accepted"
    assert cell(ui.casesTable, 3, 3) == "new" and cell(ui.casesTable, 0, 5) == "all"
    assert "CPU" in ui.cpuWarningLabel.text and "CPU (x86_64)" in ui.estimateLabel.text
    ui.casesTable.selectRow(0)
    ui.excludeButton.click()
    assert project.case("case001").state is State.EXCLUDED and ui.excludeButton.text == "Take back"
    ui.excludeButton.click()
    assert project.case("case001").state is State.ACCEPTED
    ui.sideButton.click()
    assert project.case("case001").part is Part.VALIDATION and cell(ui.casesTable, 0, 4) == "validation"
    ui.splitButton.click()
    assert [case.part for case in project.cases()[0]].count(Part.VALIDATION) == 1
    picture(panel, "2_project")
    ui.deleteButton.click()
    assert project.case_ids() == ["case002", "case003", "case004"] and ui.casesTable.rowCount == 3


def test_a_damaged_case_is_shown_and_can_be_deleted(panel, project) -> None:
    (project.folder / "cases" / "case002" / "case.json").write_text("{")
    ui = opened(panel, project)
    assert cell(ui.casesTable, 1, 3) == "damaged" and "case002 is damaged" in ui.projectMessageLabel.text
    ui.casesTable.selectRow(1)
    assert ui.deleteButton.enabled and not ui.editButton.enabled
    ui.deleteButton.click()
    assert project.case_ids() == ["case001", "case003", "case004"]


def test_slices_and_organs_are_marked(panel, project, stage) -> None:
    ui = opened(panel, project)
    ui.casesTable.selectRow(3)
    assert "Right: nothing" in ui.marksLabel.text and ui.lastSpinBox.maximum == 29
    ui.firstSpinBox.value, ui.lastSpinBox.value = 12, 4
    ui.markRangeButton.click()
    assert project.case("case004").marks == (Mark(((4, 12),)),) and cell(ui.casesTable, 3, 3) == "accepted"
    ui.organsList.item(panel._marks._organs.index("liver")).setSelected(True)
    ui.markAllButton.click()
    assert project.case("case004").marks[-1] == Mark((), ("liver",))
    picture(panel, "3_marks")
    ui.markSliceButton.click()
    assert "Open the case with Edit" in ui.projectMessageLabel.text
    ui.editButton.click()
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    assert editor.segmentationNode.GetAttribute("BodyPartRegression.seedCase") == "case004"
    assert slicer.util.selectedModules == ["SegmentEditor"]
    view = slicer.vtkMRMLSliceNode()
    view.SetSingletonTag("Red")
    view = stage.scene.AddNode(view)  # the layout may have one already
    view.GetSliceToRAS().SetElement(2, 3, 180)
    panel.enter()
    ui.markSliceButton.click()
    assert project.case("case004").marks[-1] == Mark(((20, 20),), ("liver",)), ui.projectMessageLabel.text
    ui.clearMarksButton.click()
    assert project.case("case004").state is State.NEW


def test_add_and_save_go_through_the_real_backend(panel, project, stage, tmp_path) -> None:
    """Also what the button of Body Part Segmentation does: addSeedCase of the widget."""
    panel._parameterNode.project = str(project.folder)
    volume = load_volume(stage.scene, tmp_path / "in0" / "ct.nrrd", "Doe")
    panel.addSeedCase(volume)
    assert panel.ui.projectMessageLabel.text == "Adding the case..."
    wait(lambda: panel._control.errand is None, 60)
    assert project.case("case005").segmentation == "" and panel.ui.casesTable.rowCount == 5
    panel.ui.casesTable.selectRow(0)
    assert not panel.ui.saveButton.enabled
    panel.ui.editButton.click()
    assert panel.ui.saveButton.enabled
    panel.ui.saveButton.click()
    wait(lambda: panel._control.errand is None, 60)
    assert project.case("case001").state is State.IN_REVIEW, panel.ui.projectMessageLabel.text
    assert list(Path(slicer.app.temporaryPath).iterdir()) == []


def test_a_corrected_case_is_accepted_again_and_the_model_proposes_the_rest(panel, project, stage) -> None:
    ui = opened(panel, project)
    ui.casesTable.selectRow(0)
    assert not ui.acceptButton.enabled
    project.set_state("case001", State.IN_REVIEW)
    panel._projects.refresh()
    ui.acceptButton.click()
    assert project.case("case001").state is State.ACCEPTED
    ui.editButton.click()
    asked = []
    panel._control._launch = lambda arguments: (
        asked.append(arguments)
        or ChildProcess(
            [sys.executable, "-c", 'print(\'{"event": "result", "text": "done", "case": "case001"}\')'],
            child_environment(ROOT / "BPRSegmentation"),
        )
    )
    ui.proposeButton.click()
    wait(lambda: panel._control.errand is None)
    assert asked == [["seed", "propose", str(project.folder), "case001", "--json"]]
    assert stage.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None, "the next Edit reads the new file"


def test_a_case_from_another_module_needs_a_project(panel, stage, tmp_path, project) -> None:
    volume = load_volume(stage.scene, tmp_path / "in0" / "ct.nrrd", "CT")
    panel.exit()
    panel.parent.__dict__["isEntered"] = False
    panel.addSeedCase(volume)  # the person closes the dialog that asks for a folder
    assert "was not added" in panel.ui.projectMessageLabel.text and slicer.util.selectedModules == ["BPRTraining"]
    FILE_ANSWERS.append(str(tmp_path / "new"))
    panel.addSeedCase(volume)
    wait(lambda: panel._control.errand is None, 60)
    assert SeedProject.open(tmp_path / "new").case_ids() == ["case001"], panel.ui.projectMessageLabel.text


def test_training_shows_curves_and_its_result_is_used_and_taken_back(panel, project) -> None:
    ui = opened(panel, project)
    ui.budgetSpinBox.value = 7
    assert project.settings()["budget_min"] == 7 and "7 minutes" in ui.estimateLabel.text
    ui.startButton.click()
    assert not ui.startButton.enabled and ui.pauseButton.enabled
    wait(lambda: panel._control.training is None)
    assert "Done in 1.5 minutes" in ui.messageLabel.text and "No case of another patient" in ui.messageLabel.text
    assert "Dice 0.633 (old model 0.500)" in ui.gapLabel.text and "memorises" not in ui.gapLabel.text
    assert not ui.curvesLabel.pixmap.isNull() and ui.pictureLabel.pixmap.isNull()
    assert "is better" in ui.verdictLabel.text and cell(ui.resultTable, 0, 3) == "+0.120"
    assert cell(ui.resultTable, 2, 0) == "phantom (remembered)"
    ui.useButton.click()
    assert list(names_in_use().values()) == ["bpr_pelvis_seed1"] and "bpr_pelvis_seed1" in [
        m.name for m in panel.logic.models()
    ]
    picture(panel, "5_result")
    ui.rollBackButton.click()
    assert list(names_in_use().values()) == []
    FILE_ANSWERS.append(str(project.folder / "model.zip"))
    ui.exportModelButton.click()
    assert (project.folder / "model.zip").is_file() and "Written" in ui.resultMessageLabel.text


def test_learning_together_with_another_project_is_one_choice(panel, project, tmp_path) -> None:
    other = SeedProject.create(tmp_path / "elsewhere", "bpr_upper_abdomen")
    ui = opened(panel, project)
    assert [ui.togetherComboBox.itemText(k) for k in range(2)] == ["nothing else", "elsewhere"]
    asked, launch = [], panel._control._launch
    panel._control._launch = lambda arguments: asked.append(list(arguments)) or launch(arguments)
    ui.togetherComboBox.currentIndex = 1
    ui.startButton.click()
    (training,) = [arguments for arguments in asked if arguments[0] == "finetune"]
    assert training[training.index("--together") + 1] == str(other.folder)
    assert project.settings()["together"] == str(other.folder), "the next opening offers it again"
    picture(panel, "6_together")


def test_a_project_of_slices_offers_tissues_and_marks_them(panel, tmp_path) -> None:
    project = SeedProject.create(tmp_path / "slices", "bpr_body_composition")
    volume, _ = write_toy_case(tmp_path / "in")
    labels = sitk.ReadImage(str(volume)) > 100
    sitk.WriteImage(sitk.Cast(labels, sitk.sitkUInt8), str(tmp_path / "s.nrrd"))  # label 1
    project.add(volume, tmp_path / "s.nrrd")
    ui = opened(panel, project)
    offered = [ui.organsList.item(row).text() for row in range(ui.organsList.count)]
    assert offered == ["skeletal muscle", "subcutaneous fat", "visceral fat", "intermuscular fat", "vertebra"]
    assert ui.trainOrgansList.count == len(offered) and "bpr_body_composition" in panel._projects._bundles
    ui.casesTable.selectRow(0)
    ui.organsList.item(0).setSelected(True)
    ui.firstSpinBox.value = ui.lastSpinBox.value = 12
    ui.markRangeButton.click()
    assert project.case("case001").marks == (Mark(((12, 12),), ("skeletal_muscle",)),)


def test_a_model_that_forgot_is_used_only_after_a_question(panel, project, monkeypatch) -> None:
    ui = opened(panel, project, "forgot")
    ui.startButton.click()
    wait(lambda: panel._control.training is None)
    assert "forgotten" in ui.verdictLabel.text
    asked = []
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text: asked.append(text) or False)
    ui.useButton.click()
    assert "forgotten" in asked[0] and list(names_in_use().values()) == []


def test_memorising_is_named(panel, project) -> None:
    ui = opened(panel, project, "memorises")
    ui.startButton.click()
    wait(lambda: panel._control.training is None)
    assert "memorises its training cases" in ui.gapLabel.text


def test_pause_resume_and_the_window_stays_live(panel, project) -> None:
    ui = opened(panel, project, "wait")
    ui.startButton.click()
    wait(lambda: ui.progressBar.value == 400)
    assert ui.stageLabel.text == "Training, about 2 min left"
    picture(panel, "4_training")
    ui.casesTable.selectRow(3)
    ui.markAllButton.click()
    assert project.case("case004").state is State.ACCEPTED, "labeling goes on while the model trains"
    ui.pauseButton.click()
    assert not ui.pauseButton.enabled and "Pausing" in ui.stageLabel.text
    wait(lambda: panel._control.training is None)
    assert "Paused" in ui.messageLabel.text and latest(project.folder).resumable
    assert ui.resumeButton.enabled and ui.startButton.enabled


def test_leaving_the_panel_leaves_the_training_and_closing_slicer_ends_it(panel, project, stage) -> None:
    ui = opened(panel, project, "wait")
    ui.startButton.click()
    wait(lambda: ui.progressBar.value == 400)
    panel.exit()
    stage.scene.Clear(False)
    child = panel._control.training._child
    assert child.running
    panel.enter()
    assert ui.pauseButton.enabled
    panel.cleanup()
    assert not child.running


@pytest.mark.parametrize(
    ("behavior", "words"),
    [("error", "The labels do not match the model. Choose another."), ("crash", "ended unexpectedly (exit code 139)")],
)
def test_a_failed_training_says_why(panel, project, behavior: str, words: str) -> None:
    ui = opened(panel, project, behavior)
    ui.startButton.click()
    wait(lambda: panel._control.training is None)
    assert words in ui.messageLabel.text and ui.startButton.enabled
    ui.copyButton.click()
    assert words.split(".")[0] in slicer.app.clipboardText


def test_missing_packages_are_said(panel, project) -> None:
    ui = opened(panel, project)

    def refuse() -> None:
        raise RuntimeError("PyTorch is missing; install the extension PyTorch.")

    panel.logic.ensurePackages = refuse
    ui.startButton.click()
    assert "PyTorch is missing" in ui.messageLabel.text and panel._control.training is None


def test_a_vanished_project_is_said(panel, project) -> None:
    shutil.rmtree(project.folder)
    panel._parameterNode.project = str(project.folder)
    assert "no SEED project" in panel.ui.projectMessageLabel.text and not panel.ui.startButton.enabled


def test_export_and_import_ask_and_run(panel, project, tmp_path) -> None:
    panel._parameterNode.project = str(project.folder)
    FILE_ANSWERS.append(str(tmp_path / "out.zip"))
    panel.ui.exportButton.click()
    wait(lambda: panel._control.errand is None, 60)
    assert (tmp_path / "out.zip").is_file(), panel.ui.projectMessageLabel.text
    FILE_ANSWERS.extend([str(tmp_path / "out.zip"), str(tmp_path / "again")])
    panel.ui.importButton.click()
    wait(lambda: panel._control.errand is None, 60)
    assert panel.ui.projectLineEdit.text == str(tmp_path / "again") and panel.ui.casesTable.rowCount == 4
