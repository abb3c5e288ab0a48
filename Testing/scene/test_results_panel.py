"""What can be done with a result in the panel: every button, the table, the colors, the plot, the mouse."""

from __future__ import annotations

import json
import sys
import types

import pydicom
import pytest
import slicer
from mrml_helpers import nodes
from panel_fixtures import run_to_end, settle, use
from pythonqt import FILE_ANSWERS
from result_fixture import SEGMENTS
from test_crops_and_files import dicom_series
from vtkmodules.vtkCommonCore import vtkCollection, vtkIdTypeArray, vtkStringArray

from BPRSegmentationLib.scene_file import load_volume
from BPRSegmentationLib.views import add_views

LABELS = {"liver": 0.1, "kidney_left": 0.6, "spine": 0.2}


@pytest.fixture
def shown(host, panel, a_case, stage, volume):
    """The panel after a run, with slice views and a mouse."""
    summary = json.loads((a_case.folder / "result.json").read_text())
    summary["segments"] = [{"id": i, "name": i, "volume_ml": 10.0, "doubt": d} for i, d in LABELS.items()]
    (a_case.folder / "result.json").write_text(json.dumps(summary))
    add_views(stage.scene, volume)
    stage.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    use(panel, "good", a_case)
    run_to_end(panel)
    return panel


def composites(stage) -> list:
    return nodes(stage.scene, "vtkMRMLSliceCompositeNode")


def heights_shown(stage) -> float:
    red = stage.scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    return red.GetSliceToRAS().GetElement(2, 3)


def test_slices_are_colored_and_plain_again_by_one_click(shown, stage, volume) -> None:
    overlay = shown._results._result.overlay
    assert len(composites(stage)) == 3
    for node in composites(stage):
        assert node.GetBackgroundVolumeID() == volume.GetID() and node.GetForegroundVolumeID() == overlay.GetID()
        assert node.GetForegroundOpacity() == pytest.approx(0.35)
    shown.ui.opacitySlider.value = 0.8
    assert composites(stage)[1].GetForegroundOpacity() == pytest.approx(0.8)
    shown.ui.colorCheckBox.click()
    assert all(node.GetForegroundVolumeID() is None for node in composites(stage))
    shown._scores.toggleColors()
    assert composites(stage)[0].GetForegroundVolumeID() == overlay.GetID()
    assert nodes(stage.scene, "vtkMRMLColorLegendDisplayNode"), "the color bar"


def test_another_foreground_stays_when_the_module_is_opened_again(host, shown, stage, a_case) -> None:
    other = load_volume(stage.scene, a_case.ct, "PET")
    host.exit()
    for node in composites(stage):
        node.SetForegroundVolumeID(other.GetID())
    host.enter()
    assert all(node.GetForegroundVolumeID() == other.GetID() for node in composites(stage))
    shown.ui.opacitySlider.value = 0.5
    assert composites(stage)[0].GetForegroundVolumeID() == shown._results._result.overlay.GetID(), "now it is wanted"


def test_boxes_can_be_hidden(shown) -> None:
    roi = shown._results._result.regions[0]
    shown.ui.boxesCheckBox.click()
    assert not roi.GetDisplayVisibility()
    shown.ui.boxesCheckBox.click()
    assert roi.GetDisplayVisibility()


def test_the_plot_is_docked_and_put_away(shown, app) -> None:
    layouts = slicer.vtkMRMLLayoutNode
    assert app.layoutManager().layout == layouts.SlicerLayoutFourUpPlotView and shown.ui.plotButton.checked
    shown.ui.plotButton.click()
    assert app.layoutManager().layout == layouts.SlicerLayoutFourUpView
    shown.ui.plotButton.click()
    assert app.layoutManager().layout == layouts.SlicerLayoutFourUpPlotView


def test_a_click_on_the_plot_moves_the_slices_and_the_line(shown, stage, app) -> None:
    result = shown._results._result
    names, points, picks = vtkStringArray(), vtkCollection(), vtkIdTypeArray()
    names.InsertNextValue(result.plot_series[0].GetID())
    picks.InsertNextValue(4)
    points.AddItem(picks)
    app.layoutManager().plotWidget(0).plotView()._q.dataSelected.emit(names, points)
    z = result.score_table.GetTable().GetColumnByName("z (mm)").GetValue(4)
    assert heights_shown(stage) == pytest.approx(z, abs=1e-3)
    column = shown._scores._line.GetTableNode().GetTable().GetColumnByName("z (mm)")
    assert column.GetValue(0) == pytest.approx(z)


def test_score_and_region_are_said_under_the_mouse(shown, stage) -> None:
    mouse = stage.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    place = shown._scores._scored.center_of(shown._scores._scored.z_mm[25])
    mouse.SetCursorPositionRAS(place)
    assert shown.ui.hoverLabel.text == "score 50.0, upper abdomen"
    mouse.SetCursorPositionInvalid()
    assert shown.ui.hoverLabel.text == ""


def test_the_table_begins_with_doubts_and_a_click_goes_there(shown, stage) -> None:
    table = shown.ui.resultsTable
    assert [table.item(row, 0).text() for row in range(table.rowCount)] == [
        "left kidney", "spine", "liver", "upper abdomen (region)"]  # fmt: skip
    assert table.item(0, 2).text() == "60 %" and "check first" in table.item(0, 3).text()
    places = []
    for row in range(table.rowCount):
        table.setCurrentCell(row, 1)
        places.append(heights_shown(stage))
    segmentation = shown._results._result.segmentation
    assert places[2] == pytest.approx(segmentation.GetSegmentCenterRAS("liver")[2], abs=1e-3)
    assert shown._results._result.regions[0].GetDisplayNode().GetHandlesInteractive(), "a chosen box can be dragged"
    table.setCurrentCell(0, 1)
    assert not shown._results._result.regions[0].GetDisplayNode().GetHandlesInteractive()


def test_a_tick_is_kept_and_the_next_unchecked_organ_is_found(shown) -> None:
    table, qt = shown.ui.resultsTable, slicer.qt.Qt
    shown._results.goToNext()
    assert table.currentRow() == 0
    table.item(1, 0).setCheckState(qt.Checked)
    shown._results.goToNext()
    assert table.currentRow() == 2, "spine is ticked"
    shown.refresh()
    assert table.item(1, 0).checkState() == qt.Checked and table.item(0, 0).checkState() == qt.Unchecked


def test_surfaces_are_shown_in_3d(shown) -> None:
    segmentation = shown._results._result.segmentation
    shown.ui.show3DButton.click()
    assert segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    assert segmentation.GetDisplayNode().GetVisibility3D()
    shown.ui.show3DButton.click()
    assert not segmentation.GetDisplayNode().GetVisibility3D()


def test_edit_opens_the_segment_editor_on_it(shown, volume) -> None:
    shown.ui.editButton.click()
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    assert slicer.util.selectedModules == ["SegmentEditor"]
    assert editor.segmentationNode is shown._results._result.segmentation and editor.sourceVolumeNode is volume


def test_statistics_are_asked_of_slicers_own_module(shown, stage, volume, monkeypatch) -> None:
    class Logic:
        parameters = stage.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
        shown_table = None

        def getParameterNode(self):
            return self.parameters

        def computeStatistics(self):
            assert self.parameters.GetParameter("ScalarVolume") == volume.GetID()

        def exportToTable(self, table):
            Logic.shown_table = table

        def showTable(self, table):
            assert table is Logic.shown_table

    monkeypatch.setitem(sys.modules, "SegmentStatistics", types.SimpleNamespace(SegmentStatisticsLogic=Logic))
    shown.ui.statisticsButton.click()
    first = Logic.shown_table
    shown.ui.statisticsButton.click()
    assert Logic.shown_table is first, "one table, however often it is asked"


@pytest.mark.parametrize(
    "name, words",
    [("a.nii.gz", "Saved"), ("b.seg.nrrd", "Saved"), ("c.dcm", "not loaded from DICOM"), ("d.txt", "ending")],
)
def test_export_takes_its_format_from_the_name(shown, tmp_path, name: str, words: str) -> None:
    FILE_ANSWERS.append(str(tmp_path / name))
    shown.ui.exportButton.click()
    assert words in shown.ui.statusLabel.text
    assert (tmp_path / name).is_file() == (words == "Saved")


def test_dicom_seg_finds_its_series_in_the_database(shown, volume, a_case, tmp_path, monkeypatch) -> None:
    pytest.importorskip("highdicom")
    files = dicom_series(tmp_path, a_case)
    by_uid = {pydicom.dcmread(file).SOPInstanceUID: file for file in files}
    volume.SetAttribute("DICOM.instanceUIDs", " ".join(by_uid))
    monkeypatch.setattr(slicer, "dicomDatabase", types.SimpleNamespace(fileForInstance=by_uid.get), raising=False)
    FILE_ANSWERS.append(str(tmp_path / "seg.dcm"))
    shown.ui.exportButton.click()
    assert "Saved" in shown.ui.statusLabel.text and pydicom.dcmread(tmp_path / "seg.dcm").Modality == "SEG"


def test_a_cancelled_export_does_nothing(shown) -> None:
    shown.ui.statusLabel.text = "as it was"
    shown.ui.exportButton.click()
    assert shown.ui.statusLabel.text == "as it was"


def test_crop_makes_a_volume_beside_the_ct(shown, stage, volume) -> None:
    shown.ui.cropButton.click()
    assert "CT upper abdomen" in shown.ui.statusLabel.text
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(stage.scene)
    node = next(n for n in nodes(stage.scene, "vtkMRMLScalarVolumeNode") if n.GetName() == "CT upper abdomen")
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
    assert hierarchy.GetItemName(folder) == "CT body parts"
    shown._results._result.regions[0].SetCenter(9999, 0, 0)
    shown.ui.cropButton.click()
    assert "outside of the volume" in shown.ui.statusLabel.text


def test_seed_is_off_with_a_reason_until_the_training_module_is_there(shown, volume) -> None:
    assert not shown.ui.seedButton.enabled and "BPRTraining" in shown.ui.seedButton.toolTip
    taken = []
    panel = types.SimpleNamespace(addSeedCase=lambda *arguments: taken.append(arguments))
    slicer.modules.bprtraining = types.SimpleNamespace(
        widgetRepresentation=lambda: types.SimpleNamespace(self=lambda: panel)
    )
    shown.refresh()
    shown.ui.seedButton.click()
    assert taken == [(volume, shown._results._result.segmentation)]
    assert slicer.util.selectedModules == ["BPRTraining"]
    del panel.addSeedCase
    shown.ui.seedButton.click()
    assert "does not take cases" in shown.ui.statusLabel.text


def test_what_is_deleted_is_no_longer_offered(shown, stage) -> None:
    result = shown._results._result
    stage.scene.RemoveNode(result.segmentation)
    settle()
    assert not shown.ui.editButton.enabled and not shown.ui.exportButton.enabled
    assert shown.ui.resultsTable.rowCount == 1
    stage.scene.RemoveNode(result.overlay)
    settle()
    assert not shown.ui.plotButton.enabled and not shown.ui.colorCheckBox.enabled
    stage.scene.RemoveNode(result.volume)
    settle()
    assert shown.ui.resultsTable.rowCount == 0 and not shown.ui.runButton.enabled


def test_a_second_run_keeps_the_persons_own_segment_and_the_node_count(shown, stage) -> None:
    segmentation = shown._results._result.segmentation
    own = slicer.vtkSegment()
    own.SetName("tumor")
    segmentation.GetSegmentation().AddSegment(own, "my tumor")
    run_to_end(shown)
    count = stage.scene.GetNumberOfNodes()
    run_to_end(shown)
    assert stage.scene.GetNumberOfNodes() == count
    assert set(segmentation.GetSegmentation().GetSegmentIDs()) == {*SEGMENTS, "my tumor"}
    assert len(nodes(stage.scene, "vtkMRMLSegmentationNode")) == 1
