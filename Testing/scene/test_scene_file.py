"""scene.mrb: written by the command, opened again, everything in place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from mrml_helpers import OpenedScene, nodes, open_scene_file, volume_array
from result_fixture import SEGMENTS, make_image, rotation, write_case

from bpr.segmentation.labels import structure_by_id, terminology_entry
from BPRSegmentationLib.scene_file import main
from BPRSegmentationLib.score_nodes import score_color

LIBRARY = Path(__file__).resolve().parents[2] / "BPRSegmentation"


def opened(case, tmp_path: Path) -> OpenedScene:
    out = tmp_path / "scene with space.mrb"
    assert main([str(case.folder), str(case.ct), str(out)]) == 0
    (tmp_path / "cache").mkdir()
    return open_scene_file(out, tmp_path / "cache")


def named(scene, class_name: str, name: str):
    return next(node for node in nodes(scene, class_name) if node.GetName() == name)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -9, 20)])
def test_a_scene_file_opens_with_everything_in_place(tmp_path: Path, degrees) -> None:
    case = write_case(tmp_path / "case", make_image(direction=rotation(degrees)))
    scene = opened(case, tmp_path)
    ct = named(scene.scene, "vtkMRMLScalarVolumeNode", "CT")
    overlay = named(scene.scene, "vtkMRMLScalarVolumeNode", "CT score")
    assert (volume_array(ct) == sitk.GetArrayFromImage(case.image)).all()
    assert sorted(overlay.GetImageData().GetDimensions()) == [2, 2, 30]
    color = [0.0] * 4
    overlay.GetDisplayNode().GetColorNode().GetColor(255, color)
    assert color[:3] == pytest.approx(score_color(100), abs=1 / 255)
    composites = nodes(scene.scene, "vtkMRMLSliceCompositeNode")
    assert {node.GetLayoutName() for node in composites} == {"Red", "Yellow", "Green"}
    for composite in composites:
        assert composite.GetBackgroundVolumeID() == ct.GetID()
        assert composite.GetForegroundVolumeID() == overlay.GetID()
        assert composite.GetForegroundOpacity() == pytest.approx(0.35)
    box, overlay_box = [0.0] * 6, [0.0] * 6
    ct.GetRASBounds(box)
    overlay.GetRASBounds(overlay_box)
    assert overlay_box == pytest.approx(box, abs=1e-3)
    roi = scene.first("vtkMRMLMarkupsROINode")
    assert roi.GetName() == "upper abdomen" and not roi.GetDisplayNode().GetFillVisibility()
    assert roi.GetSize() == pytest.approx([20 * 4, 24 * 5, 15 * 6])


def test_the_segmentation_of_a_scene_file_keeps_terms_references_and_voxels(tmp_path: Path, a_case) -> None:
    scene = opened(a_case, tmp_path)
    node = scene.first("vtkMRMLSegmentationNode")
    ct = named(scene.scene, "vtkMRMLScalarVolumeNode", "CT")
    assert node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()) == ct.GetID()
    segmentation = node.GetSegmentation()
    assert set(segmentation.GetSegmentIDs()) == set(SEGMENTS)
    for identifier in SEGMENTS:
        structure, segment = structure_by_id(identifier), segmentation.GetSegment(identifier)
        assert segment.GetTerminology() == terminology_entry(structure)
        assert segment.GetColor() == pytest.approx(structure.color, abs=1e-5)
        count = (sitk.GetArrayViewFromImage(a_case.labels) == structure.value).sum()
        assert segment_voxels(node, identifier) == count


def segment_voxels(node, identifier: str) -> int:
    import slicer
    from vtkmodules.util.numpy_support import vtk_to_numpy

    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(identifier, image)
    return int(np.count_nonzero(vtk_to_numpy(image.GetPointData().GetScalars())))


def test_the_plot_of_a_scene_file_is_shown_and_finds_its_numbers(tmp_path: Path, a_case) -> None:
    scene = opened(a_case, tmp_path)
    chart = scene.first("vtkMRMLPlotChartNode")
    view = scene.first("vtkMRMLPlotViewNode")
    assert view.GetPlotChartNode() is chart
    layout = scene.first("vtkMRMLLayoutNode")
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpPlotView
    assert chart.GetNumberOfPlotSeriesNodes() == 3
    for index in range(3):
        series = chart.GetNthPlotSeriesNode(index)
        column = series.GetTableNode().GetTable().GetColumnByName(series.GetYColumnName())
        assert column.GetNumberOfTuples() > 0 and column.IsNumeric(), "numbers must not come back as text"


@pytest.mark.parametrize("arguments", [[], ["/nowhere", "/nowhere/ct.nrrd", "/nowhere/out.mrb"]])
def test_the_command_refuses_in_one_sentence(arguments: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(LIBRARY)}
    command = [sys.executable, "-m", "BPRSegmentationLib.scene_file", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stderr.strip()
