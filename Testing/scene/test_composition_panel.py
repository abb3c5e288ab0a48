"""Body composition in Slicer: the child's files as nodes that follow their volume, and the section that shows them."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
from mrml_helpers import open_scene_file
from panel_fixtures import FAKE, ROOT, settle, wait
from result_fixture import Case, make_image

from bpr.body_composition.files import STEM, write_composition
from bpr.body_composition.job import Composition, SliceFound, facts
from bpr.body_composition.level import Level
from bpr.body_composition.measure import measure
from bpr.body_composition.slices import axial_slice
from bpr.body_composition.tissues import TISSUES
from bpr.errors import Notice
from bpr.volume import Volume, slice_heights
from BPRSegmentationLib.batch import Case as Batched
from BPRSegmentationLib.batch import result_folder_of
from BPRSegmentationLib.composition import (
    FILE,
    LevelRequest,
    composition_arguments,
    composition_text,
    find_composition,
    load_composition,
)
from BPRSegmentationLib.placement import ijk_to_ras
from BPRSegmentationLib.process import ChildProcess, child_environment
from BPRSegmentationLib.result_folder import ResultError
from BPRSegmentationLib.scene_file import load_volume

SLICES = (11, 12)  # that were measured


def measured(image, folder: Path, notices=(), index: float | None = 43.2) -> Composition:
    """A result folder of ``bpr body-composition`` on an image: bands of tissue on two slices."""
    heights, found = slice_heights(image), []
    for index_of_slice in SLICES:
        one = axial_slice(image, index_of_slice, float(heights[index_of_slice]))
        labels = np.zeros(one.hu.shape, np.uint8)
        for tissue in TISSUES:
            labels[5:15, 4 * tissue.value - 2 : 4 * tissue.value + 1] = tissue.value
        found.append(SliceFound(one, labels, measure(labels, one.hu, one.pixel_cm2), 0.1))
    z = float(heights[list(SLICES)].mean())
    result = Composition(Level("L3", z, 3.0, "inside"), None, "doubtful" if notices else "measured", found,
                         found[0].tissues, list(notices), (10.0, 20.0), None, index)  # fmt: skip
    return finished(result, image, folder)


def finished(found: Composition, image, folder: Path) -> Composition:
    """Write what the command writes."""
    folder.mkdir(parents=True)
    write_composition(found, Volume(image, "ct", {}, []), folder)
    content = {"volume": {"name": "ct", "size": list(image.GetSize())}, "body_composition": facts(found)}
    (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    return found


@pytest.fixture
def result(tmp_path: Path, a_case) -> Composition:
    return measured(a_case.image, tmp_path / "composition", [Notice("metal", "There is metal on the slice.")])


def use(panel, behavior: str, case: Case, folder: Path) -> list[list[str]]:
    """Let the panel start the stand-in child for a measurement; the arguments it was asked for."""
    asked = []

    def launch(arguments, scratch):
        asked.append(list(arguments))
        command = [sys.executable, str(FAKE), behavior, str(scratch / "job.json"), str(folder)]
        return ChildProcess(command, child_environment(FAKE.parent, temporary=scratch))

    panel.logic.launchCommand = launch
    return asked


def test_the_command_line_takes_what_the_panel_asks(tmp_path) -> None:
    from bpr.cli import build_parser

    request = LevelRequest("L1", "L4", 175.0, ("mine",), "cuda:1", "torch")
    options = build_parser().parse_args(list(composition_arguments(request, tmp_path)))
    assert (options.upper, options.lower, options.height) == ("L1", "L4", 175.0)
    assert (options.bundle, options.device, options.engine, options.json) == (["mine"], "cuda:1", "torch", True)
    assert (options.input, options.out) == (str(tmp_path / "volume.nrrd"), str(tmp_path / "result"))
    alone = build_parser().parse_args(list(composition_arguments(LevelRequest(), tmp_path)))
    assert (alone.level, alone.upper, alone.height) == ("L3", None, None)


def test_the_result_becomes_a_segmentation_at_the_slice_and_a_table(stage, volume, tmp_path, result) -> None:
    turn = stage.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    volume.SetAndObserveTransformNodeID(turn.GetID())
    loaded = load_composition(stage.scene, tmp_path / "composition", volume)
    segmentation = loaded.segmentation.GetSegmentation()
    assert list(segmentation.GetSegmentIDs()) == [tissue.id for tissue in TISSUES]
    assert loaded.segmentation.GetTransformNodeID() == turn.GetID()
    assert loaded.segmentation.GetNodeReferenceID("referenceImageGeometryRef") == volume.GetID()
    assert loaded.segmentation.GetName() == "CT muscle and fat"
    label = slicer.vtkOrientedImageData()
    loaded.segmentation.GetBinaryLabelmapRepresentation("skeletal_muscle", label)
    extent, place = label.GetExtent(), np.array(label.GetOrigin())
    assert extent[5] - extent[4] + 1 <= len(SLICES)
    index = np.linalg.inv(ijk_to_ras(volume)) @ [*place, 1.0]
    assert round(index[2]) + extent[4] == SLICES[0], "at the slice that was measured"
    table = loaded.table
    rows = [[table.GetCellText(row, column) for column in range(3)] for row in range(table.GetNumberOfRows())]
    assert [row[0] for row in rows][:2] == ["skeletal muscle", "subcutaneous fat"] and len(rows) == 5
    assert float(rows[0][1]) == pytest.approx(result.tissues[0].area_cm2, abs=0.01)
    assert float(rows[4][1]) == pytest.approx(43.2) and math.isnan(float(rows[4][2]))


def test_a_second_measurement_replaces_the_first_and_leaves_the_main_result(stage, volume, a_case, tmp_path) -> None:
    from BPRSegmentationLib.results import find_result, load_result

    main = load_result(stage.scene, a_case.folder, volume)
    measured(a_case.image, tmp_path / "one")
    outside = Notice("level_outside", "L3 lies outside.")
    finished(
        Composition(Level("L3", 0.0, 9.0, "outside"), None, "not measured", notices=[outside]),
        a_case.image,
        tmp_path / "two",
    )
    first = load_composition(stage.scene, tmp_path / "one", volume)
    count = stage.scene.GetNumberOfNodes()
    second = load_composition(stage.scene, tmp_path / "one", volume)
    assert first.table.GetScene() is None and stage.scene.GetNumberOfNodes() == count
    assert find_composition(volume).table is second.table
    assert find_result(volume).segmentation is main.segmentation
    load_result(stage.scene, a_case.folder, volume)
    assert find_composition(volume).segmentation is second.segmentation, "a new main run keeps the measurement"
    nothing = load_composition(stage.scene, tmp_path / "two", volume)
    assert nothing.table is None and find_composition(volume) is None
    assert "L3 lies outside." in composition_text(nothing.summary)


def test_a_damaged_result_leaves_the_scene_as_it_was(stage, volume, tmp_path, result) -> None:
    folder, before = tmp_path / "composition", stage.scene.GetNumberOfNodes()
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:300])
    with pytest.raises(ResultError, match="damaged"):
        load_composition(stage.scene, folder, volume)
    (folder / "result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ResultError, match="damaged"):
        load_composition(stage.scene, folder, volume)
    other = load_volume_of_another_size(stage, tmp_path)
    shutil.rmtree(folder)
    measured(make_image(), folder)
    with pytest.raises(ResultError, match="voxels"):
        load_composition(stage.scene, folder, other)
    stage.scene.RemoveNode(other)
    assert stage.scene.GetNumberOfNodes() <= before + 2  # display nodes of the other volume at most


def load_volume_of_another_size(stage, folder: Path):
    import SimpleITK as sitk

    path = folder / "other.nrrd"
    sitk.WriteImage(make_image(size=(10, 10, 10)), str(path))
    return load_volume(stage.scene, path, "other")


def test_measuring_from_the_panel(panel, a_case, volume, tmp_path, result) -> None:
    ui = panel.ui
    asked = use(panel, "result only", a_case, tmp_path / "composition")
    ui.heightSpinBox.value = 172
    ui.levelComboBox.currentIndex = 2
    ui.toLevelComboBox.currentIndex = 4
    assert (panel._parameterNode.compositionLevel.value, panel._parameterNode.compositionTo.value) == ("L2", "L4")
    ui.measureButton.click()
    assert ui.measureButton.text == "Cancel" and ui.runButton.text == "Run"
    wait(lambda: panel._control.measurement is None)
    assert asked[0][5:11] == ["--from", "L2", "--to", "L4", "--height", "172"]
    assert ui.measureButton.text == "Measure muscle and fat" and ui.compositionTable.rowCount == 4
    assert ui.compositionTable.item(0, 0).text() == "skeletal muscle"
    assert ui.compositionTable.item(0, 1).text() == f"{result.tissues[0].area_cm2:.1f}"
    for words in ("L3 lies at", "2 slices", "43.2", "There is metal on the slice."):
        assert words in ui.compositionLabel.text
    red = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    if red is not None:
        assert red.GetSliceToRAS().GetElement(2, 3) == pytest.approx(result.level.z_mm, abs=1)
    ui.showLevelButton.click()
    assert not panel._control._timer.active


def test_a_measurement_can_be_cancelled_fail_and_lose_its_volume(
    panel, a_case, volume, stage, tmp_path, result
) -> None:
    ui = panel.ui
    use(panel, "wait", a_case, tmp_path / "composition")
    ui.measureButton.click()
    wait(lambda: ui.compositionProgressBar.value == 400)
    ui.measureButton.click()
    assert panel._control.measurement is None and ui.compositionLabel.text == "Cancelled."
    use(panel, "error", a_case, tmp_path / "composition")
    ui.measureButton.click()
    wait(lambda: panel._control.measurement is None)
    assert ui.compositionLabel.text == "This is not a CT. Choose one." and ui.measureButton.enabled
    use(panel, "wait", a_case, tmp_path / "composition")
    ui.measureButton.click()
    stage.scene.RemoveNode(volume)
    wait(lambda: panel._control.measurement is None)
    assert "removed from the scene" in ui.compositionLabel.text
    settle()
    assert not ui.measureButton.enabled and "Choose an input" in ui.measureButton.toolTip


def test_a_saved_scene_shows_its_measurement_again(stage, volume, tmp_path, result) -> None:
    load_composition(stage.scene, tmp_path / "composition", volume)
    stage.scene.SetRootDirectory(str(tmp_path))
    assert stage.scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    opened = open_scene_file(tmp_path / "scene.mrb", tmp_path / "cache")
    found = find_composition(opened.first("vtkMRMLScalarVolumeNode"))
    assert found.segmentation is not None and found.summary["level"] == "L3"
    assert "43.2" in composition_text(found.summary)


def test_from_a_script(module, volume, a_case, tmp_path, result) -> None:
    logic = module.BPRSegmentationLogic()
    panel_like = type("Panel", (), {"logic": logic})
    asked = use(panel_like, "result only", a_case, tmp_path / "composition")
    loaded = logic.measureComposition(volume, "L3", heightCm=172)
    assert loaded.table.GetNumberOfRows() == 5 and "--height" in asked[0]
    use(panel_like, "error", a_case, tmp_path / "composition")
    with pytest.raises(RuntimeError, match="not a CT"):
        logic.measureComposition(volume)


def test_the_names_of_files_are_those_of_the_command() -> None:
    assert f"{STEM}.seg.nrrd" == FILE and (ROOT / "BPRSegmentation" / "bpr" / "body_composition").is_dir()


def test_a_case_of_the_batch_brings_its_measurement_along(panel, stage, result, a_case, tmp_path: Path) -> None:
    """As `bpr batch --body-composition` leaves it: one folder with both results."""
    batch = Batched("ct", str(a_case.ct))
    folder = result_folder_of(batch, tmp_path / "batch")
    shutil.copytree(a_case.folder, folder)
    shutil.copyfile(tmp_path / "composition" / FILE, folder / FILE)
    content = json.loads((folder / "result.json").read_text(encoding="utf-8")) | {"body_composition": facts(result)}
    (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    panel.ui.batchFolderEdit.text = str(tmp_path / "batch")
    panel._control._batchSection.add([batch])
    panel.ui.batchTable.setCurrentCell(0, 0)
    panel.ui.showCaseButton.click()
    found = find_composition(panel._parameterNode.inputVolume)
    assert found is not None, panel.ui.batchStatusLabel.text
    assert panel.ui.compositionTable.rowCount == len(TISSUES) and found.summary["level"] == "L3"
