"""A run from volume node to loaded result, with a stand-in child: export, progress, every way it can end."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from result_fixture import LPS_TO_RAS, make_image, rotation, write_case

from BPRSegmentationLib import export
from BPRSegmentationLib import run as run_module
from BPRSegmentationLib.export import Request, RequestError, what_is_missing, write_job
from BPRSegmentationLib.placement import array_to_matrix, ijk_to_ras
from BPRSegmentationLib.process import ChildProcess, child_environment
from BPRSegmentationLib.run import Run, State
from BPRSegmentationLib.scene_file import load_volume, new_stage

FAKE = Path(__file__).with_name("fake_child.py")


@pytest.fixture
def stage():
    return new_stage()


@pytest.fixture
def volume(stage, a_case):
    return load_volume(stage.scene, a_case.ct, "CT")


def launcher(behavior: str, result: Path):
    command = [sys.executable, str(FAKE), behavior]
    return lambda job: ChildProcess([*command, str(job), str(result)], child_environment(FAKE.parent))


def start(stage, volume, case, behavior: str, tmp_path: Path, **settings) -> Run:
    temporary = tmp_path / "temporary"
    temporary.mkdir(exist_ok=True)
    return Run(stage.scene, volume, Request(), launcher(behavior, case.folder), temporary=str(temporary), **settings)


def finish(run: Run, limit_s: float = 20) -> Run:
    end = time.monotonic() + limit_s
    while run.running:
        assert time.monotonic() < end
        run.poll()
        time.sleep(0.01)
    return run


def node_ids(stage) -> list[str]:
    return [stage.scene.GetNthNode(index).GetID() for index in range(stage.scene.GetNumberOfNodes())]


def test_a_run_shows_its_progress_and_loads_its_result(stage, volume, a_case, tmp_path: Path) -> None:
    run = start(stage, volume, a_case, "good", tmp_path)
    stages = set()
    while run.running:
        run.poll()
        stages.add(run.progress.stage)
    assert run.progress.state is State.DONE and run.progress.fraction == 1
    assert run.progress.warnings == ["The scan is short."]
    assert "text with ä and no JSON" in run.progress.log
    assert run.result.segmentation.GetSegmentation().GetNumberOfSegments() == 3
    assert not list((tmp_path / "temporary").iterdir()), "temporary files must be gone"


@pytest.mark.parametrize(
    "behavior, words",
    [("error", "This is not a CT"), ("crash", "exit code 139"), ("no result", "ended unexpectedly")],
)
def test_a_failed_run_says_why_and_leaves_the_scene(stage, volume, a_case, tmp_path, behavior: str, words: str) -> None:
    before = node_ids(stage)
    run = finish(start(stage, volume, a_case, behavior, tmp_path))
    assert run.progress.state is State.FAILED and words in run.progress.error and run.progress.advice
    assert node_ids(stage) == before
    assert not list((tmp_path / "temporary").iterdir())
    if behavior == "error":
        assert "Traceback: the whole story" in "\n".join(run.progress.log)


def test_a_cancelled_run_leaves_nothing(stage, volume, a_case, tmp_path: Path) -> None:
    before = node_ids(stage)
    run = start(stage, volume, a_case, "wait", tmp_path)
    while run.progress.fraction == 0:
        run.poll()
    started = time.monotonic()
    run.cancel()
    assert time.monotonic() - started < 2
    assert run.progress.state is State.CANCELLED and not run._child.running
    assert node_ids(stage) == before and not list((tmp_path / "temporary").iterdir())


def test_a_volume_deleted_in_the_middle_ends_the_run(stage, volume, a_case, tmp_path: Path) -> None:
    run = start(stage, volume, a_case, "wait", tmp_path)
    stage.scene.RemoveNode(volume)
    finish(run)
    assert run.progress.state is State.CANCELLED and "removed" in run.progress.error
    assert not run._child.running


def test_a_volume_moved_in_the_middle_gets_no_misplaced_result(stage, volume, a_case, tmp_path: Path) -> None:
    run = start(stage, volume, a_case, "good", tmp_path)
    moved = ijk_to_ras(volume)
    moved[0, 3] += 10
    volume.SetIJKToRASMatrix(array_to_matrix(moved))
    finish(run)
    assert run.progress.state is State.FAILED and "moved" in run.progress.error


def test_an_output_segmentation_deleted_in_the_middle_is_made_anew(stage, volume, a_case, tmp_path: Path) -> None:
    output = stage.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    run = start(stage, volume, a_case, "good", tmp_path, segmentation_node=output)
    stage.scene.RemoveNode(output)
    finish(run)
    assert run.result.segmentation is not output and run.result.segmentation.GetScene() is stage.scene


@pytest.mark.parametrize(
    "direction", [np.eye(3), rotation((12, -9, 20)), np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]])]
)
def test_the_exported_volume_is_the_nodes_own_grid_without_its_transform(tmp_path, stage, direction) -> None:
    case = write_case(tmp_path / "case", make_image(direction=direction))
    volume = load_volume(stage.scene, case.ct, "Mr. Patient Name")
    transform = stage.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(array_to_matrix(np.diag([-1, -1, 1, 1])))
    volume.SetAndObserveTransformNodeID(transform.GetID())
    folder = tmp_path / "job with ä space"
    folder.mkdir()
    job = json.loads(write_job(volume, Request(device="cpu"), folder).read_text(encoding="utf-8"))
    image = sitk.ReadImage(job["input"])
    assert (sitk.GetArrayFromImage(image) == sitk.GetArrayFromImage(case.image)).all()
    for index in [(0, 0, 0), (3, 5, 7), (19, 23, 29)]:
        ras = (ijk_to_ras(volume) @ [*index, 1])[:3]
        assert image.TransformIndexToPhysicalPoint(index) == pytest.approx(LPS_TO_RAS @ ras, abs=1e-4)
    assert job["device"] == "cpu" and job["produce"] == ["scores", "regions", "segmentation"]
    text = (folder / "job.json").read_text() + b"".join(p.read_bytes()[:2000] for p in folder.iterdir()).decode(
        "latin1"
    )
    assert "Patient Name" not in text


def test_the_job_file_is_one_that_the_backend_takes(tmp_path, volume) -> None:
    from bpr.job import JobRequest

    request = JobRequest.from_json(write_job(volume, Request(organs=("liver",)), tmp_path))
    request.check()
    assert request.organs == ["liver"] and request.produce == ("scores", "regions", "segmentation")


def test_what_is_missing_is_said_in_words(stage, volume) -> None:
    scores = Request(produce=("scores",))
    assert "Choose an input" in what_is_missing(None, scores)
    assert "at least one thing" in what_is_missing(volume, Request(produce=()))
    assert "at least one organ" in what_is_missing(volume, Request(organs=()))
    assert "at least one region" in what_is_missing(volume, Request(regions=()))
    assert "no voxels" in what_is_missing(stage.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"), scores)
    assert what_is_missing(volume, scores) is None
    volume.SetAttribute("BodyPartRegression.part", "overlay")
    assert "scores of a CT" in what_is_missing(volume, scores)
    volume.RemoveAttribute("BodyPartRegression.part")
    bent = stage.scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    volume.SetAndObserveTransformNodeID(bent.GetID())
    assert "non-linear" in what_is_missing(volume, scores)
    with pytest.raises(RequestError, match="non-linear"):
        write_job(volume, Request(), Path("."))


def test_a_large_volume_is_handed_over_while_the_window_lives(
    stage, volume, a_case, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(export, "CHUNK", 1000)  # bytes: the small volume has 29 pieces
    monkeypatch.setattr(run_module, "WRITE_S", 0.0)
    run = start(stage, volume, a_case, "good", tmp_path)
    fractions = []
    while run._child is None:
        assert run.poll() == [] and run.progress.stage == "Handing the volume over"
        fractions.append(run._file.fraction)
    assert len(fractions) > 20 and fractions == sorted(fractions), "a piece at each turn of the window"
    assert finish(run).progress.state is State.DONE
    run = start(stage, volume, a_case, "good", tmp_path)
    run.cancel()
    assert run._child is None and not list((tmp_path / "temporary").iterdir())


def test_a_full_disk_while_handing_over_is_said(stage, volume, a_case, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run_module, "WRITE_S", 0.0)
    monkeypatch.setattr(export, "CHUNK", 1000)
    run = start(stage, volume, a_case, "good", tmp_path)

    def full(data) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run._file, "_file", SimpleNamespace(write=full, close=lambda: None))
    finish(run)
    assert run.progress.state is State.FAILED and "No space left on device" in run.progress.error
    assert not list((tmp_path / "temporary").iterdir())


def test_only_remedies_that_can_help_are_offered() -> None:
    from BPRSegmentationLib.progress import Progress
    from BPRSegmentationLib.words import Remedy, remedies

    gpu = Progress(error_type="MemoryShortage", error="The GPU cuda:0 has too little free memory for one tile.")
    assert remedies(gpu, "cuda", 0) == [Remedy.SMALLER_TILES, Remedy.CPU]
    assert remedies(gpu, "cuda", 32) == [Remedy.CPU] and remedies(gpu, "cpu", 32) == []
    scan = Progress(error_type="MemoryShortage", error="This scan needs about 9000 MB of memory, but ...")
    assert remedies(scan, "auto", 0) == [], "smaller tiles would not help"
    absent = Progress(error_type="InputError", error="The device cuda:1 was asked for, but torch does not see it.")
    assert remedies(absent, "cuda:1", 0) == [Remedy.CPU]
    killed = Progress()
    killed.fail_unexpectedly(-9)
    assert remedies(killed, "cpu", 0) == [Remedy.SMALLER_TILES] and "want of memory" in killed.error
    assert remedies(Progress(log=["ModuleNotFoundError: No module named 'x'"]), "auto", 0) == [Remedy.PACKAGES]
    assert remedies(Progress(error_type="InputError", error="This is not a CT."), "auto", 0) == []


def test_the_likely_input_is_the_shown_ct_and_never_a_result(stage, volume, a_case) -> None:
    from BPRSegmentationLib.export import likely_input
    from BPRSegmentationLib.views import add_views, show_volume

    first, second = volume, load_volume(stage.scene, a_case.ct, "second CT")
    labels = stage.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    labels.SetAndObserveImageData(volume.GetImageData())
    overlay = stage.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    overlay.SetAndObserveImageData(volume.GetImageData())
    overlay.SetAttribute("BodyPartRegression.part", "overlay")
    assert likely_input(stage.scene) is first
    add_views(stage.scene, first)
    show_volume(stage.scene, second)
    assert likely_input(stage.scene) is second
    show_volume(stage.scene, overlay)
    stage.scene.RemoveNode(first)
    stage.scene.RemoveNode(second)
    assert likely_input(stage.scene) is None


def test_words_for_a_result_that_is_empty_or_doubtful() -> None:
    from BPRSegmentationLib.words import found_text

    empty = {"coverage": ["l5_s1", "skull_top"], "segments": [], "regions": []}
    text = found_text(empty, ["Odd."], ("regions", "segmentation"))
    assert "reaches from L5/S1 to skull top" in text and "segmentation is empty" in text and "No region" in text
    assert "Odd." in text
    segments = [{"id": "liver", "name": "liver", "doubt": 0.2}, {"id": "spleen", "name": "spleen", "doubt": 0.9}]
    text = found_text({"segments": segments, "engine": "torch", "device": "cuda:0"}, [], ("segmentation",))
    assert "Look at these first: spleen." in text and "Computed by torch on cuda:0." in text and "No region" not in text
