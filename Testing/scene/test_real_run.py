"""A complete run writes its scene, and the scene opens with what the run found."""

from __future__ import annotations

import zipfile

import pytest

pytest.importorskip("slicer", reason="slicer-core (extra 'scene') is not installed or its libraries are missing")


def test_the_main_job_writes_its_scene(sample_ct, tmp_path) -> None:
    from bpr.job import JobRequest, run_job

    result = run_job(JobRequest(str(sample_ct), str(tmp_path / "result"), organs=["liver", "lung_left"]))
    assert "scene_skipped" not in [notice.code for notice in result.notices]
    with zipfile.ZipFile(tmp_path / "result" / "scene.mrb") as scene:
        names = scene.namelist()
    assert any(name.endswith(".mrml") for name in names)
    assert any(name.endswith(".seg.nrrd") for name in names)
    assert sum(name.endswith((".nrrd", ".nhdr")) for name in names) >= 3  # CT, score overlay, segmentation
    assert sum(name.endswith(".mrk.json") for name in names) == len(result.regions)
