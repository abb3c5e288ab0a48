"""Slice views rendered by Slicer's own view, compared with stored pictures; BPR_STORE_PICTURES=1 stores them anew."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from mrml_helpers import nodes
from result_fixture import make_image, rotation, write_case

from BPRSegmentationLib.scene_file import build_scene, new_stage
from BPRSegmentationLib.views import show_in_3d, show_overlay
from rendering import SliceView, SpaceView

STORED = Path(__file__).with_name("pictures")
SIZE = (240, 200)
MEAN, SHARE = 4.0, 0.02  # gray levels on average; share of pixels that differ by more than 40
IMAGES = {
    "axial": {"size": (40, 44, 50), "spacing": (5.0, 5.0, 5.0)},
    "oblique": {"size": (40, 44, 50), "spacing": (5.0, 5.0, 5.0), "direction": rotation((12, -9, 20))},
}


def compare(path: Path, name: str) -> None:
    if os.environ.get("BPR_STORE_PICTURES"):
        STORED.mkdir(exist_ok=True)
        (STORED / f"{name}.png").write_bytes(path.read_bytes())
    new = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[..., :3].astype(float)
    old = sitk.GetArrayFromImage(sitk.ReadImage(str(STORED / f"{name}.png")))[..., :3].astype(float)
    assert new.shape == old.shape
    difference = np.abs(new - old).max(axis=-1)
    assert difference.mean() < MEAN and (difference > 40).mean() < SHARE, f"{name}: see {path}"


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("view", ["Red", "Green", "Yellow"])
def test_slices_show_scores_and_segments_where_they_were_stored(tmp_path: Path, kind: str, view: str) -> None:
    case = write_case(tmp_path / "case", make_image(**IMAGES[kind]))
    stage = new_stage()
    loaded = build_scene(stage, case.folder, case.ct)
    for legend in nodes(stage.scene, "vtkMRMLColorLegendDisplayNode"):
        legend.SetVisibility(False)  # its letters depend on the fonts of the machine
    for roi in loaded.regions:
        roi.GetDisplayNode().SetPropertiesLabelVisibility(False)
    drawn = SliceView(stage, view, SIZE)
    drawn.save(tmp_path / "colored.png")
    compare(tmp_path / "colored.png", f"{kind}_{view.lower()}")
    show_overlay(stage.scene, None)
    drawn.save(tmp_path / "plain.png")
    with pytest.raises(AssertionError):
        compare_only(tmp_path / "plain.png", f"{kind}_{view.lower()}")


def compare_only(path: Path, name: str) -> None:
    """The comparison itself must notice that the colors are gone."""
    stored = os.environ.pop("BPR_STORE_PICTURES", None)
    try:
        compare(path, name)
    finally:
        if stored:
            os.environ["BPR_STORE_PICTURES"] = stored


def test_the_segmentation_is_seen_in_3d(tmp_path: Path) -> None:
    case = write_case(tmp_path / "case", make_image(**IMAGES["axial"]))
    stage = new_stage()
    loaded = build_scene(stage, case.folder, case.ct)
    for roi in loaded.regions:
        roi.SetDisplayVisibility(False)
    show_in_3d(loaded.segmentation, True)
    SpaceView(stage, SIZE).save(tmp_path / "3d.png")
    compare(tmp_path / "3d.png", "segmentation_3d")
