"""A result folder into a real MRML scene: nodes, references, terms, colors, and everything in the right place."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from mrml_helpers import nodes, volume_array
from result_fixture import (
    LPS_TO_RAS,
    SEGMENTS,
    make_image,
    rotation,
    score_of,
    slice_heights,
    write_case,
    write_segmentation,
)
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonTransforms import vtkTransform

from bpr.segmentation.labels import structure_by_id, terminology_entry
from BPRSegmentationLib.placement import VOLUME_ROLE, array_to_matrix, ijk_to_ras, matrix_to_array
from BPRSegmentationLib.result_folder import ResultError
from BPRSegmentationLib.results import load_result
from BPRSegmentationLib.scene_file import load_volume, new_stage
from BPRSegmentationLib.score_nodes import score_color

SAGITTAL = np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]])  # i = posterior, j = inferior, k = left
IMAGES = {
    "axial": {},
    "feet first": {"direction": np.diag([1.0, -1.0, -1.0])},
    "left-handed": {"direction": np.diag([1.0, 1.0, -1.0])},
    "oblique": {"direction": rotation((12, -9, 20))},
    "sagittal": {"direction": SAGITTAL, "size": (18, 30, 22)},
    "oblique sagittal": {"direction": rotation((5, 8, -10)) @ SAGITTAL, "size": (18, 31, 22)},
}


@pytest.fixture
def stage():
    """A scene with the logics that an application would have."""
    return new_stage()


def a_volume(stage, case):
    return load_volume(stage.scene, case.ct, "CT")


def world_matrix(node) -> np.ndarray:
    """(4, 4) from the node's own RAS to the world's."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    matrix = slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes
    result = array_to_matrix(np.eye(4))
    matrix(transform, None, result)
    return matrix_to_array(result)


def add_transform(stage, matrix: np.ndarray, parent=None):
    node = stage.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(array_to_matrix(matrix))
    if parent:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def shifted_rotation() -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((10, 20, 30))
    matrix[:3, 3] = (15, -40, 200)
    return matrix


@pytest.mark.parametrize("kind", IMAGES)
def test_overlay_has_each_slices_score_over_the_whole_slice(tmp_path, stage, kind: str) -> None:
    case = write_case(tmp_path / "case", make_image(**IMAGES[kind]))
    volume = a_volume(stage, case)
    overlay = load_result(stage.scene, case.folder, volume).overlay
    heights = slice_heights(case.image, case.axis)
    expected = score_of(heights, heights.min())
    to_index = np.linalg.inv(ijk_to_ras(overlay))
    size = case.image.GetSize()
    for corner in np.ndindex(2, 2, 2):  # the volume's corner voxels lie in the overlay, at their slice
        index = np.array([c * (n - 1) for c, n in zip(corner, size, strict=True)])
        ras = LPS_TO_RAS @ case.image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index])
        inside = (to_index @ [*ras, 1])[:3]
        dimensions = np.array(overlay.GetImageData().GetDimensions())
        assert (inside > -0.5).all() and (inside < dimensions - 0.5).all()
        i, j, k = np.rint(inside).astype(int)
        assert volume_array(overlay)[k, j, i] == pytest.approx(expected[index[case.axis]], abs=1e-3)
    bounds, overlay_bounds = [0.0] * 6, [0.0] * 6
    volume.GetRASBounds(bounds)
    overlay.GetRASBounds(overlay_bounds)
    assert overlay_bounds == pytest.approx(bounds, abs=1e-3)
    assert sorted(overlay.GetImageData().GetDimensions()) == [2, 2, size[case.axis]]


def test_overlay_colors_run_from_0_to_100_and_are_perceptually_even(stage, a_case) -> None:
    loaded = load_result(stage.scene, a_case.folder, a_volume(stage, a_case))
    display = loaded.overlay.GetDisplayNode()
    assert display.GetColorNode() is loaded.color
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 100)
    assert not display.GetAutoWindowLevel()
    luminance = [np.dot(score_color(score), (0.2126, 0.7152, 0.0722)) for score in range(0, 101, 5)]
    assert (np.diff(luminance) > 0).all(), "the colors must also read as grays"
    assert score_color(-20) == score_color(0) and score_color(130) == score_color(100)
    color = [0.0] * 4
    loaded.color.GetColor(128, color)
    assert color[:3] == pytest.approx(score_color(100 * 128 / 255), abs=1 / 255)


def test_a_score_has_the_same_color_in_the_report_and_on_the_slices() -> None:
    from bpr.results.pictures import SCORE_COLORS, SCORE_RANGE

    for score in (-20, 0, 12.5, 50, 87.5, 100, 110):
        in_report = matplotlib.colormaps[SCORE_COLORS](SCORE_RANGE(score))[:3]
        assert score_color(score) == pytest.approx(in_report, abs=0.02), score


@pytest.mark.parametrize("kind", IMAGES)
def test_region_box_holds_exactly_its_voxels(tmp_path, stage, kind: str) -> None:
    case = write_case(tmp_path / "case", make_image(**IMAGES[kind]))
    (roi,) = load_result(stage.scene, case.folder, a_volume(stage, case)).regions
    box = json.loads((case.folder / "regions.json").read_text())["regions"][0]
    to_box = np.linalg.inv(matrix_to_array(roi.GetObjectToNodeMatrix()))
    half = np.array(roi.GetSize()) / 2
    for corner in np.ndindex(2, 2, 2):
        index = [s + c * (n - 1) for s, n, c in zip(box["start_ijk"], box["size_ijk"], corner, strict=True)]
        ras = LPS_TO_RAS @ case.image.TransformIndexToPhysicalPoint([int(i) for i in index])
        inside = np.abs((to_box @ [*ras, 1])[:3])
        assert half - inside == pytest.approx(np.array(case.image.GetSpacing()) / 2, abs=1e-4)
    assert np.linalg.det(matrix_to_array(roi.GetObjectToNodeMatrix())) == pytest.approx(1)


def test_region_box_is_an_outline_in_the_color_of_its_score(stage, a_case) -> None:
    (roi,) = load_result(stage.scene, a_case.folder, a_volume(stage, a_case)).regions
    display = roi.GetDisplayNode()
    assert roi.GetName() == "upper abdomen" and not roi.GetLocked()
    assert not display.GetFillVisibility()
    assert display.GetSelectedColor() == pytest.approx(score_color((26.1 + 57.6) / 2))


def test_segments_have_the_tables_ids_names_colors_and_terms(stage, a_case) -> None:
    loaded = load_result(stage.scene, a_case.folder, a_volume(stage, a_case))
    segmentation = loaded.segmentation.GetSegmentation()
    assert set(segmentation.GetSegmentIDs()) == set(SEGMENTS) == set(loaded.segment_ids)
    for identifier in SEGMENTS:
        structure, segment = structure_by_id(identifier), segmentation.GetSegment(identifier)
        assert segment.GetName() == structure.name
        assert segment.GetColor() == pytest.approx(structure.color, abs=1e-5)
        assert segment.GetTerminology() == terminology_entry(structure)
    assert segmentation.GetNumberOfLayers() == 1


@pytest.mark.parametrize("kind", IMAGES)
def test_segments_lie_on_the_volumes_voxels(tmp_path, stage, kind: str) -> None:
    case = write_case(tmp_path / "case", make_image(**IMAGES[kind]))
    loaded = load_result(stage.scene, case.folder, a_volume(stage, case))
    labels = sitk.GetArrayFromImage(case.labels)
    for identifier in SEGMENTS:
        image = slicer.vtkOrientedImageData()
        loaded.segmentation.GetBinaryLabelmapRepresentation(identifier, image)
        voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
        indices = np.argwhere(voxels)[:, ::-1] + np.array(image.GetExtent())[::2]
        matrix = array_to_matrix(np.eye(4))
        image.GetImageToWorldMatrix(matrix)
        ras = np.c_[indices, np.ones(len(indices))] @ matrix_to_array(matrix)[:3].T
        in_ct = np.array([case.labels.TransformPhysicalPointToContinuousIndex(point) for point in ras @ LPS_TO_RAS])
        assert in_ct == pytest.approx(np.rint(in_ct), abs=1e-3)
        truth = np.argwhere(labels == structure_by_id(identifier).value)[:, ::-1]
        assert set(map(tuple, np.rint(in_ct).astype(int))) == set(map(tuple, truth))


def test_a_result_of_a_single_organ_keeps_its_name_and_value(tmp_path, stage) -> None:
    case = write_case(tmp_path / "case")
    liver = structure_by_id("liver")
    only = sitk.Cast(case.labels == liver.value, sitk.sitkUInt8) * liver.value
    write_segmentation(only, case.folder / "segmentation.seg.nrrd")
    loaded = load_result(stage.scene, case.folder, a_volume(stage, case))
    segmentation = loaded.segmentation.GetSegmentation()
    assert list(segmentation.GetSegmentIDs()) == ["liver"]
    assert segmentation.GetSegment("liver").GetName() == liver.name
    assert segmentation.GetSegment("liver").GetLabelValue() == liver.value


def test_segmentation_refers_to_its_volume(stage, a_case) -> None:
    volume = a_volume(stage, a_case)
    node = load_result(stage.scene, a_case.folder, volume).segmentation
    assert node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()) == volume.GetID()
    assert node.GetNodeReferenceID(VOLUME_ROLE) == volume.GetID()
    geometry = node.GetSegmentation().GetConversionParameter("Reference image geometry")
    assert geometry.split(";")[:4] == [str(float(v)).removesuffix(".0") for v in ijk_to_ras(volume)[0]]


@pytest.mark.parametrize("kind", ["translated", "rotated", "sheared", "nested"])
def test_everything_follows_the_volumes_parent_transform(stage, a_case, kind: str) -> None:
    matrix = {"translated": np.eye(4), "sheared": np.eye(4)}.get(kind, shifted_rotation()).copy()
    if kind == "translated":
        matrix[:3, 3] = (10, -20, 30)
    if kind == "sheared":
        matrix[0, 2] = 0.3
    parent = add_transform(stage, np.diag([1, 1, 1.2, 1])) if kind == "nested" else None
    volume = a_volume(stage, a_case)
    volume.SetAndObserveTransformNodeID(add_transform(stage, matrix, parent).GetID())
    loaded = load_result(stage.scene, a_case.folder, volume)
    for node in (loaded.overlay, loaded.segmentation, *loaded.regions):
        assert world_matrix(node) == pytest.approx(world_matrix(volume)), node.GetName()
    box, volume_box = [0.0] * 6, [0.0] * 6
    loaded.overlay.GetRASBounds(box)
    volume.GetRASBounds(volume_box)
    assert box == pytest.approx(volume_box, abs=1e-3)


def test_results_stand_beside_the_volume_in_the_subject_hierarchy(stage, a_case) -> None:
    volume = a_volume(stage, a_case)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(stage.scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    study = hierarchy.CreateStudyItem(patient, "study")
    hierarchy.CreateItem(study, volume)
    loaded = load_result(stage.scene, a_case.folder, volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(loaded.segmentation)) == study
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(loaded.overlay))
    assert hierarchy.GetItemName(folder) == "CT body parts" and hierarchy.GetItemParent(folder) == study
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(loaded.regions[0])) == folder


def test_table_and_plot_show_the_curve_and_the_landmarks(stage, a_case) -> None:
    loaded = load_result(stage.scene, a_case.folder, a_volume(stage, a_case))
    table = loaded.score_table.GetTable()
    heights = slice_heights(a_case.image, a_case.axis)
    column = table.GetColumnByName("z (mm)")
    assert [column.GetValue(row) for row in range(table.GetNumberOfRows())] == pytest.approx(heights)
    assert loaded.landmark_table.GetTable().GetNumberOfRows() == 1, "only landmarks inside the scan"
    raw, cleaned, marks = loaded.plot_series
    assert raw.GetTableNode() is cleaned.GetTableNode() is loaded.score_table
    assert (raw.GetYColumnName(), cleaned.GetYColumnName()) == ("raw score", "score")
    for series in loaded.plot_series:
        assert series.GetTableNode().GetTable().GetColumnByName(series.GetXColumnName()) is not None
        assert series.GetTableNode().GetTable().GetColumnByName(series.GetYColumnName()) is not None
    assert marks.GetLabelColumnName() == "landmark"
    assert loaded.plot_chart.GetNumberOfPlotSeriesNodes() == 3


def test_a_second_run_replaces_the_first_and_updates_the_chosen_segmentation(stage, a_case) -> None:
    volume = a_volume(stage, a_case)
    first = load_result(stage.scene, a_case.folder, volume)
    own = slicer.vtkSegment()
    own.SetName("tumor")
    first.segmentation.GetSegmentation().AddSegment(own, "my tumor")
    first.segmentation.GetSegmentation().RemoveSegment("liver")
    count = stage.scene.GetNumberOfNodes()
    second = load_result(stage.scene, a_case.folder, volume, first.segmentation)
    assert second.segmentation is first.segmentation
    assert set(first.segmentation.GetSegmentation().GetSegmentIDs()) == {"my tumor", *SEGMENTS}
    assert stage.scene.GetNumberOfNodes() == count
    assert len(nodes(stage.scene, "vtkMRMLMarkupsROINode")) == 1


def test_ones_own_segment_in_the_shared_label_map_survives_the_next_run(stage, a_case) -> None:
    volume = a_volume(stage, a_case)
    first = load_result(stage.scene, a_case.folder, volume)
    segmentation = first.segmentation.GetSegmentation()
    own = slicer.vtkSegment()
    own.DeepCopy(segmentation.GetSegment("spine"))
    own.SetName("mine")
    segmentation.AddSegment(own, "mine")
    segmentation.RemoveSegment("spine")
    segmentation.CollapseBinaryLabelmaps(False)
    assert segmentation.GetNumberOfLayers() == 1
    first.segmentation.GetDisplayNode().SetSegmentOpacity3D("mine", 0.25)
    load_result(stage.scene, a_case.folder, volume, first.segmentation)
    counts = {}
    for identifier in segmentation.GetSegmentIDs():
        image = slicer.vtkOrientedImageData()
        first.segmentation.GetBinaryLabelmapRepresentation(identifier, image)
        counts[identifier] = int((vtk_to_numpy(image.GetPointData().GetScalars()) > 0).sum())
    truth = {i: int((sitk.GetArrayFromImage(a_case.labels) == structure_by_id(i).value).sum()) for i in SEGMENTS}
    assert counts == truth | {"mine": truth["spine"]}
    assert first.segmentation.GetDisplayNode().GetSegmentOpacity3D("mine") == pytest.approx(0.25)


def test_only_what_was_made_is_loaded(stage, a_case) -> None:
    (a_case.folder / "segmentation.seg.nrrd").unlink()
    (a_case.folder / "regions.json").unlink()
    loaded = load_result(stage.scene, a_case.folder, a_volume(stage, a_case))
    assert loaded.overlay and not loaded.regions and loaded.segmentation is None
    assert not nodes(stage.scene, "vtkMRMLSegmentationNode")


@pytest.mark.parametrize(
    "damage", ["truncated segmentation", "broken regions", "other volume", "scores of a longer scan"]
)
def test_a_damaged_result_leaves_the_scene_as_it_was(stage, a_case, damage: str) -> None:
    volume = a_volume(stage, a_case)
    if damage == "truncated segmentation":
        path = a_case.folder / "segmentation.seg.nrrd"
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 20])
    elif damage == "broken regions":
        (a_case.folder / "regions.json").write_text('{"regions": [{"name": "x"}]}')
    elif damage == "other volume":
        (a_case.folder / "result.json").write_text('{"volume": {"size": [1, 2, 3]}}')
    else:
        with open(a_case.folder / "scores.csv", "a") as file:
            file.write("99,900,1,1,1,\n")
    before = [stage.scene.GetNthNode(index).GetID() for index in range(stage.scene.GetNumberOfNodes())]
    with pytest.raises(ResultError):
        load_result(stage.scene, a_case.folder, volume)
    assert [stage.scene.GetNthNode(index).GetID() for index in range(stage.scene.GetNumberOfNodes())] == before


def test_a_moved_volume_takes_its_segmentation_along(stage, a_case) -> None:
    volume = a_volume(stage, a_case)
    transform = add_transform(stage, np.eye(4))
    volume.SetAndObserveTransformNodeID(transform.GetID())
    loaded = load_result(stage.scene, a_case.folder, volume)
    before = [0.0] * 6
    loaded.segmentation.GetRASBounds(before)
    shift = vtkTransform()
    shift.Translate(0, 0, 50)
    transform.SetMatrixTransformToParent(shift.GetMatrix())
    after = [0.0] * 6
    loaded.segmentation.GetRASBounds(after)
    assert np.subtract(after, before) == pytest.approx([0, 0, 0, 0, 50, 50])
