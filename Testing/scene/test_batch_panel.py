"""The batch: cases from everywhere, one ``bpr batch`` child, states that survive, results in the scene."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import SimpleITK as sitk
import slicer
from panel_fixtures import wait
from pythonqt import FILE_ANSWERS, OPENED_URLS
from result_fixture import make_image

from BPRSegmentationLib.batch import (
    DONE,
    FAILED,
    WAITING,
    Case,
    batch_arguments,
    cases_of_dicom,
    cases_of_folder,
    cases_of_scene,
    result_folder_of,
    state_of,
)
from BPRSegmentationLib.export import Request
from BPRSegmentationLib.placement import array_to_matrix, ijk_to_ras


def add_sequence(stage, volume, count: int = 3):
    """A sequence of copies of a volume with a browser that shows one of them."""
    sequence = stage.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D CT")
    for number in range(count):
        sequence.SetDataNodeAtValue(volume, str(number))
    browser = stage.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.AddProxyNode(volume, sequence, False)
    return sequence


def test_the_scene_gives_volumes_and_frames_but_no_results(stage, volume) -> None:
    stage.scene.RegisterNodeClass(slicer.vtkMRMLSequenceNode())
    stage.scene.RegisterNodeClass(slicer.vtkMRMLSequenceBrowserNode())
    stage.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    overlay = stage.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT score")
    overlay.SetAndObserveImageData(volume.GetImageData())
    overlay.SetAttribute("BodyPartRegression.part", "overlay")
    assert [case.name for case in cases_of_scene(stage.scene)] == ["CT"]
    add_sequence(stage, volume)
    assert [case.name for case in cases_of_scene(stage.scene)] == ["4D CT [0]", "4D CT [1]", "4D CT [2]"]


def test_a_folder_gives_what_the_command_line_finds(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a.nii.gz", "b ä.nrrd"):
        sitk.WriteImage(make_image(), str(tmp_path / "data" / name))
    assert [case.name for case in cases_of_folder(tmp_path / "data")] == ["a.nii.gz", "b ä.nrrd"]


def test_the_dicom_database_gives_ct_series(tmp_path) -> None:
    database = types.SimpleNamespace(
        patients=lambda: ["p"],
        studiesForPatient=lambda patient: ["s"],
        seriesForStudy=lambda study: ["ct", "mr", "empty"],
        filesForSeries=lambda series: [] if series == "empty" else [f"/{series}/1.dcm"],
        fileValue=lambda file, tag: "CT" if file.startswith("/ct") else "MR",
        descriptionForSeries=lambda series: "",
    )
    assert cases_of_dicom(database) == [Case("CT series", "/ct/1.dcm")]


def test_the_command_line_takes_the_panels_choices(tmp_path) -> None:
    from bpr.cli import build_parser

    request = Request(
        ("scores", "segmentation"), ("thorax",), ("liver", "heart"), ("mine",), "cpu", "torch", 4.0, 12.0, 48
    )
    options = build_parser().parse_args(batch_arguments(tmp_path / "cases.csv", tmp_path / "results", request))
    assert (options.regions, options.organs, options.bundle) == (["thorax"], ["liver", "heart"], ["mine"])
    assert (options.device, options.engine, options.step, options.only) == ("cpu", "torch", 4.0, "segmentation")
    assert (options.margin, options.tile) == (12.0, 48)
    plain = build_parser().parse_args(batch_arguments(tmp_path / "cases.csv", tmp_path, Request()))
    assert plain.only is None and plain.regions is None and plain.organs is None and not plain.body_composition
    measured = batch_arguments(tmp_path / "cases.csv", tmp_path, Request(), composition=True)
    assert build_parser().parse_args(measured).body_composition


def test_states_are_told_by_the_folder(tmp_path) -> None:
    case = Case("a", str(tmp_path / "a.nrrd"))
    assert state_of(case, tmp_path) == (WAITING, "") and state_of(Case("no file yet"), tmp_path)[0] == WAITING
    folder = result_folder_of(case, tmp_path)
    failed = tmp_path / "results" / "failed"
    failed.mkdir(parents=True)
    (failed / f"{folder.name}.json").write_text(json.dumps({"message": "No CT.", "advice": "Choose one."}))
    assert state_of(case, tmp_path) == (FAILED, "No CT. Choose one.")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    assert state_of(case, tmp_path) == (DONE, "")


@pytest.fixture
def batch(panel, tmp_path):
    panel.logic.pythonExecutable = lambda: sys.executable
    panel.ui.batchFolderEdit.text = str(tmp_path / "batch ä")
    panel.ui.regionsCheckBox.checked = panel.ui.segmentationCheckBox.checked = False
    return panel


def states(panel) -> list[str]:
    table = panel.ui.batchTable
    return [table.item(row, 1).text() for row in range(table.rowCount)]


def test_button_says_what_is_missing(panel, tmp_path) -> None:
    assert not panel.ui.runBatchButton.enabled and "Add cases" in panel.ui.runBatchButton.toolTip
    panel.ui.addSceneButton.click()
    assert "folder" in panel.ui.runBatchButton.toolTip
    FILE_ANSWERS.append(str(tmp_path / "out"))
    panel.ui.batchFolderButton.click()
    assert panel.ui.batchFolderEdit.text == str(tmp_path / "out") and panel.ui.runBatchButton.enabled
    panel.ui.addSceneButton.click()
    assert panel.ui.batchTable.rowCount == 1, "a case is listed once"
    panel.ui.batchTable.selectRow(0)
    panel.ui.removeCasesButton.click()
    assert panel.ui.batchTable.rowCount == 0
    panel.ui.addDicomButton.click()
    assert "DICOM database" in panel.ui.batchStatusLabel.text


def test_cases_run_resume_and_come_into_the_scene(batch, stage, volume, sample_ct, tmp_path) -> None:
    pytest.importorskip("openvino")
    stage.scene.RemoveNode(volume)
    data = tmp_path / "data"
    data.mkdir()
    sitk.WriteImage(sitk.Shrink(sitk.ReadImage(str(sample_ct)), [2, 2, 1]), str(data / "one.nrrd"))
    sitk.WriteImage(make_image() * 0, str(data / "two.nrrd"))
    node = slicer.util.loadVolume(str(data / "one.nrrd"), properties={"name": "of the scene"})
    shifted = ijk_to_ras(node)
    shifted[0, 3] += 5  # another image than the file: it has results of its own
    node.SetIJKToRASMatrix(array_to_matrix(shifted))
    FILE_ANSWERS.append(str(data))
    batch.ui.addFolderButton.click()
    batch.ui.addSceneButton.click()
    assert states(batch) == ["waiting"] * 3
    batch.ui.batchCompositionCheckBox.checked = True
    batch.ui.runBatchButton.click()
    assert batch.ui.runBatchButton.text == "Cancel batch" and not batch.ui.addSceneButton.enabled
    wait(lambda: batch._control.batch is None, limit_s=150)
    assert states(batch) == ["done", "failed", "done"], batch.ui.batchStatusLabel.text
    assert "2 of 3 cases have results" in batch.ui.batchStatusLabel.text
    folder = Path(batch.ui.batchFolderEdit.text)
    written = {path: path.stat().st_mtime for path in (folder / "results" / "scans").glob("*/result.json")}
    assert len(written) == 2 and (folder / "results" / "table.csv").is_file()
    measured = [json.loads(path.read_text(encoding="utf-8"))["body_composition"] for path in written]
    assert [one["level"] for one in measured] == ["L3", "L3"], "the tick asks for it"
    batch.ui.runBatchButton.click()
    wait(lambda: batch._control.batch is None, limit_s=60)
    assert {path: path.stat().st_mtime for path in written} == written, "what is done is not done again"
    batch.ui.batchTable.setCurrentCell(2, 0)
    batch.ui.showCaseButton.click()
    assert batch._parameterNode.inputVolume is node and batch._scores._scored is not None
    batch.ui.batchTable.setCurrentCell(0, 0)
    batch.ui.showCaseButton.click()
    assert batch._parameterNode.inputVolume.GetName() == "one.nrrd", batch.ui.batchStatusLabel.text
    batch.ui.reportButton.click()
    assert OPENED_URLS[0].endswith("report.html")
    batch.ui.batchTable.setCurrentCell(1, 0)
    batch.ui.reportButton.click()
    assert len(OPENED_URLS) == 1 and "Choose a case that is done" in batch.ui.batchStatusLabel.text


def test_cancel_and_scene_close_end_the_batch(batch, stage) -> None:
    batch.ui.addSceneButton.click()
    batch.ui.runBatchButton.click()
    wait(lambda: batch._control.batch._child is not None)
    child = batch._control.batch._child
    batch.exit()
    batch.enter()
    assert batch.ui.runBatchButton.text == "Cancel batch", "it goes on while another module is open"
    batch.ui.runBatchButton.click()
    assert not child.running and "Cancelled; 0 of 1" in batch.ui.batchStatusLabel.text
    batch.ui.runBatchButton.click()
    stage.scene.Clear(False)
    assert batch._control.batch is None and "scene was closed" in batch.ui.batchStatusLabel.text
    assert batch.ui.batchTable.rowCount == 1, "its file was written, so the case stays"
