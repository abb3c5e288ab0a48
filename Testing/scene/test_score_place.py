"""From a place in the views to the score there and back, under every orientation and parent transform."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from mrml_helpers import nodes
from result_fixture import make_image, rotation, score_of, slice_heights, write_case
from test_results import IMAGES, add_transform, shifted_rotation
from vtkmodules.vtkCommonCore import vtkCollection, vtkIdTypeArray, vtkStringArray

from BPRSegmentationLib.placement import VOLUME_ROLE
from BPRSegmentationLib.results import find_result, load_result
from BPRSegmentationLib.scene_file import load_volume, new_stage
from BPRSegmentationLib.score_nodes import Z_COLUMN
from BPRSegmentationLib.score_place import add_line, move_line, picked_height, region_text, scored_volume, view_height
from BPRSegmentationLib.to_do import ORGAN, REGION, place_of, rows_of, set_checked
from BPRSegmentationLib.views import add_views, jump_to


@pytest.fixture
def stage():
    return new_stage()


def a_result(stage, case, matrix=None):
    volume = load_volume(stage.scene, case.ct, "CT")
    if matrix is not None:
        volume.SetAndObserveTransformNodeID(add_transform(stage, matrix).GetID())
    return load_result(stage.scene, case.folder, volume)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("kind", IMAGES)
def test_each_slice_has_its_score_and_region(tmp_path, stage, kind: str, moved: bool) -> None:
    case = write_case(tmp_path / "case", make_image(**IMAGES[kind]))
    matrix = shifted_rotation() if moved else np.eye(4)
    scored = scored_volume(a_result(stage, case, matrix))
    heights = slice_heights(case.image, case.axis)
    for height in heights[:: len(heights) // 5]:
        place = scored.center_of(height)
        index = scored.slice_at(place)
        assert scored.z_mm[index] == pytest.approx(height, abs=1e-3)
        assert scored.scores[index] == pytest.approx(score_of(height, heights.min()), abs=1e-3)
        local = (np.linalg.inv(matrix) @ [*place, 1])[:3]
        assert case.image.TransformPhysicalPointToIndex((-local[0], -local[1], local[2]))[case.axis] in range(1000)
        expected = "upper abdomen" if scored.scores[index] > 30 else ""
        assert scored.regions[index] == expected
        assert region_text(scored, place).startswith(f"score {scored.scores[index]:.1f}")
    assert (
        region_text(scored, (9999, 0, 0)) == "" and scored.slice_at(scored.center_of(0) + np.array([0, 0, 9e3])) is None
    )


def test_the_line_follows_the_axial_view_and_no_other(stage, a_case) -> None:
    result = a_result(stage, a_case)
    add_views(stage.scene, result.volume, result.plot_chart)
    scored, line = scored_volume(result), add_line(result)
    assert add_line(result) is line, "one line, also for a scene that was opened again"
    views = {node.GetLayoutName(): node for node in nodes(stage.scene, "vtkMRMLSliceNode")}
    jump_to(stage.scene, scored.center_of(scored.z_mm[7]))
    assert view_height(scored, views["Red"]) == pytest.approx(scored.z_mm[7])
    assert view_height(scored, views["Green"]) is None and view_height(scored, views["Yellow"]) is None
    move_line(line, scored.z_mm[7])
    column = line.GetTableNode().GetTable().GetColumnByName(Z_COLUMN)
    assert [column.GetValue(row) for row in (0, 1)] == pytest.approx([scored.z_mm[7]] * 2)
    assert result.plot_chart.HasPlotSeriesNodeID(line.GetID())


def test_a_clicked_point_gives_its_height_and_the_line_none(stage, a_case) -> None:
    result = a_result(stage, a_case)
    line = add_line(result)
    raw = result.plot_series[0]

    def picked(series, point: int):
        names, points, picks = vtkStringArray(), vtkCollection(), vtkIdTypeArray()
        names.InsertNextValue(series.GetID())
        picks.InsertNextValue(point)
        points.AddItem(picks)
        return picked_height(stage.scene, names, points)

    table = result.score_table.GetTable()
    assert picked(raw, 5) == pytest.approx(table.GetColumnByName(Z_COLUMN).GetValue(5))
    assert picked(line, 0) is None
    assert picked(result.plot_series[2], 0) == pytest.approx(
        result.landmark_table.GetTable().GetColumnByName(Z_COLUMN).GetValue(0)
    )


def test_rows_put_doubtful_organs_first_and_know_their_places(stage, a_case) -> None:
    import json

    summary = json.loads((a_case.folder / "result.json").read_text())
    summary["segments"] = [
        {"id": "liver", "name": "liver", "volume_ml": 1500.4, "doubt": 0.1, "at_edge": True},
        {"id": "kidney_left", "name": "left kidney", "volume_ml": 4.25, "doubt": 0.6, "at_edge": False},
        {"id": "spine", "name": "spine", "volume_ml": 300, "doubt": 0.2, "at_edge": False},
    ]
    summary["regions"] = [{"name": "upper abdomen", "complete": 0.5}]
    (a_case.folder / "result.json").write_text(json.dumps(summary))
    result = a_result(stage, a_case, shifted_rotation())
    rows = rows_of(result)
    assert [row.identifier for row in rows] == ["kidney_left", "spine", "liver", "upper abdomen"]
    assert [row.kind for row in rows] == [ORGAN] * 3 + [REGION]
    assert rows[0].doubtful and "check first" in rows[0].remark and not rows[1].remark
    assert rows[0].amount == "4.2 mL" and rows[2].amount == "1500 mL" and "edge" in rows[2].remark
    assert rows[3].amount == "50 % in scan" and "not complete" in rows[3].remark
    scored = scored_volume(result)
    for row in rows:
        assert scored.holds(place_of(row, result)), row.name
    set_checked(result.segmentation, "spine", True)
    assert [row.checked for row in rows_of(result)] == [False, True, False, None]
    result.segmentation.GetSegmentation().RemoveSegment("liver")
    stage.scene.RemoveNode(result.regions[0])
    again = find_result(result.volume)
    assert [row.identifier for row in rows_of(again)] == ["kidney_left", "spine"]


def test_a_result_is_found_again_by_its_volume_alone(stage, a_case) -> None:
    result = a_result(stage, a_case)
    other = load_volume(stage.scene, a_case.ct, "other")
    assert find_result(other) is None and find_result(None) is None
    again = find_result(result.volume)
    assert dict(again.parts()).keys() == dict(result.parts()).keys()
    assert again.summary["engine"] == "openvino" and "volume" not in again.summary, "no path goes into the scene"
    assert again.segment_ids == result.segment_ids
    for node in [node for _, node in again.parts()]:
        stage.scene.RemoveNode(node)
    assert find_result(result.volume) is None
    assert not [n for n in nodes(stage.scene, "vtkMRMLNode") if n.HasNodeReferenceID(VOLUME_ROLE, result.volume.GetID())
                and n.IsA("vtkMRMLDisplayableNode")]  # fmt: skip


def test_oblique_views_of_an_oblique_volume_move_the_line(tmp_path, stage) -> None:
    case = write_case(tmp_path / "case", make_image(direction=rotation((12, -9, 20))))
    result = a_result(stage, case)
    add_views(stage.scene, result.volume)
    scored = scored_volume(result)
    red = next(n for n in nodes(stage.scene, "vtkMRMLSliceNode") if n.GetLayoutName() == "Red")
    red.RotateToVolumePlane(result.volume)
    jump_to(stage.scene, scored.center_of(scored.z_mm[11]))
    assert view_height(scored, red) == pytest.approx(scored.z_mm[11])
    assert isinstance(red, slicer.vtkMRMLSliceNode)
