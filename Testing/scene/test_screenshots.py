"""The picture command: Slicer's own slice view, rendered without a window, colored by score."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from result_fixture import make_image, write_case

from BPRSegmentationLib.score_nodes import score_color

SCRIPT = Path(__file__).resolve().parents[1] / "screenshots.py"
SCREENSHOTS = Path(__file__).resolve().parents[2] / "Resources" / "Screenshots"


def test_all_pictures_are_drawn_and_the_coronal_one_is_colored_by_score(tmp_path: Path) -> None:
    image = make_image(size=(40, 40, 80), spacing=(5.0, 5.0, 5.0))
    case = write_case(tmp_path / "case", image * 0 - 1000)  # air everywhere: only the overlay has color
    command = [sys.executable, str(SCRIPT), str(case.folder), str(case.ct), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"DISPLAY": ""})
    assert done.returncode == 0, done.stderr
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "coronal_scores.png")))[..., :3]
    column = picture[:, picture.shape[1] // 2].astype(float)
    colored = column[column.sum(axis=1) > 0]
    assert len(colored) > picture.shape[0] / 2
    for share, score in ((0.02, 98.0), (0.5, 60.0), (0.98, 22.0)):  # the first row is the top of the picture
        seen = colored[int(share * (len(colored) - 1))]
        expected = [255 * 0.35 * channel for channel in score_color(score)]
        assert max(abs(a - b) for a, b in zip(seen, expected, strict=True)) < 12, (share, seen, expected)

    pytest.importorskip("PySide6.QtUiTools", reason="PySide6 is not installed")
    states = ("ready", "choices", "models", "running", "error", "results", "batch", "composition")
    views = ("coronal_scores", "score_plot", "axial_segments", "coronal_segments", "segmentation_3d", "window",
             "axial_composition")  # fmt: skip
    for name in (*(f"panel_{state}" for state in states), *views):
        drawn = sitk.GetArrayViewFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{name}.png")))
        assert min(drawn.shape[:2]) > 300 and drawn.std() > 0.3, name
        assert (SCREENSHOTS / f"{name}.png").is_file(), "run: make screenshots"
    slice_view = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "axial_composition.png")))[..., :3]
    gray = (np.ptp(slice_view, axis=-1) == 0) & (slice_view[..., 0] > 30) & (slice_view[..., 0] < 250)
    assert gray.mean() > 0.03, "the CT is behind the tissues"


def test_the_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "nothing"), str(tmp_path / "ct.nrrd"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
