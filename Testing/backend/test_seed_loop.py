"""The rapid-labeling loop: what to label next, and a model that fills in the rest without touching what is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

torch = pytest.importorskip("torch", reason="training labels need torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")
pytest.importorskip("onnx", reason="writing bundles needs onnx, which this environment leaves out")

from seed_samples import as_image, toy_volume, write_seg, write_toy_case  # noqa: E402

from bpr.models import names_in_use  # noqa: E402
from bpr.seed.augment import random_scanner  # noqa: E402
from bpr.seed.case import State  # noqa: E402
from bpr.seed.cases import drawn_labels  # noqa: E402
from bpr.seed.defaults import defaults_file  # noqa: E402
from bpr.seed.marks import Mark  # noqa: E402
from bpr.seed.memory import blend  # noqa: E402
from bpr.seed.propose import propose  # noqa: E402
from bpr.seed.runs import clear_away, new_run, withdraw  # noqa: E402
from bpr.seed.segments import read_drawing  # noqa: E402
from bpr.seed.suggest import suggest  # noqa: E402
from bpr.segmentation.labels import structure_by_id  # noqa: E402

LIVER, SPLEEN = (structure_by_id(name).value for name in ("liver", "spleen"))


def drawn(case) -> np.ndarray:
    """Labels of a stored case on its volume's grid."""
    return drawn_labels(read_drawing(case.segmentation_path), None, sitk.ReadImage(str(case.volume_path)))


def test_a_proposal_leaves_marked_slices_and_own_segments_alone(project, bundle, tmp_path: Path):
    image, labels = toy_volume()
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    lesion = np.zeros_like(labels)
    lesion[14:17, 10:13, 8:11] = 1
    segments = [{"id": "liver", "name": "liver", "layer": 0, "label": LIVER},
                {"id": "spleen", "name": "spleen", "layer": 0, "label": SPLEEN},
                {"id": "Segment_5", "name": "lesion", "layer": 1, "label": 1}]  # fmt: skip
    path = write_seg(tmp_path / "s.seg.nrrd", [as_image(labels, image), as_image(lesion, image)], segments)
    before = project.add(tmp_path / "ct.nrrd", path, [Mark(((12, 16),)), Mark(((20, 21),), ("liver",))])
    after = propose(project, before.id, bundle)
    assert after.state is State.ACCEPTED and after.marks == before.marks and after.role == "model"
    found = drawn(after)
    assert (found[12:17] == labels[12:17]).all(), "marked slices stay"
    assert ((found[20:22] == LIVER) == (labels[20:22] == LIVER)).all()
    assert (found[:12] != labels[:12]).any(), "an untrained network says something else"
    drawing = read_drawing(after.segmentation_path)
    own = next(segment for segment in drawing.segments if segment.name == "lesion")
    assert (sitk.GetArrayFromImage(drawing.layers[own.layer])[lesion == 1] == own.label).all()
    assert project.case(before.id) == after


def test_between_marked_slices_a_proposal_follows_the_corrections(project, bundle, tmp_path: Path):
    """An untrained network says nothing of worth; six corrected slices say enough."""
    case = project.add(*write_toy_case(tmp_path / "in"), [Mark(tuple((k, k) for k in range(4, 25, 4)))])
    truth = toy_volume()[1][4:25]
    found = drawn(propose(project, case.id, bundle))[4:25]
    for value in (LIVER, SPLEEN):
        assert 2 * ((found == value) & (truth == value)).sum() / ((found == value).sum() + (truth == value).sum()) > 0.9


def test_a_proposal_fills_a_volume_without_labels(project, bundle, tmp_path: Path):
    volume, _ = write_toy_case(tmp_path / "in")
    case = project.add(volume)
    filled = propose(project, case.id, bundle)
    assert filled.segmentation == "segmentation.seg.nrrd" and filled.state is State.NEW and not filled.teaches


def test_suggestions_rank_waiting_volumes_and_unmarked_slices(project, tmp_path: Path):
    """Two waiting volumes: one like the labeled one, one of another scanner, which is worth more."""
    project.add(*write_toy_case(tmp_path / "a", 0), [Mark(((5, 25),))])
    project.add(write_toy_case(tmp_path / "b", 1)[0])
    project.add(write_toy_case(tmp_path / "c", 2, shift_hu=90)[0])
    project.add(write_toy_case(tmp_path / "d", 3)[0])
    project.set_state("case004", State.EXCLUDED)
    volumes, slices = suggest(project)
    assert [found.case for found in volumes] == ["case003", "case002"]
    assert "unlike the labeled cases" in volumes[0].reason and volumes[0].gain > volumes[1].gain
    own = [found.slice for found in slices if found.case == "case001"]
    assert all(index < 5 or index > 25 for index in own), "marked slices are not suggested"
    assert all(found.reason for found in slices) and "case004" not in {found.case for found in slices}


def test_scanners_are_simulated_reproducibly_and_air_stays_air():
    hu = np.where(np.arange(16)[:, None, None] < 8, -1000.0, 40.0) * np.ones((16, 16, 16), np.float32)
    looks = [random_scanner(hu.astype(np.float32), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(looks[0], looks[1]) and not np.array_equal(looks[0], looks[2])
    assert looks[0].shape == hu.shape and looks[0][:6].mean() < -850


def test_blending_is_a_line_between_two_models():
    old, new = {"w": torch.zeros(3)}, {"w": torch.ones(3)}
    assert blend(old, new, 1.0)["w"].tolist() == [1, 1, 1] and blend(old, new, 0.25)["w"].tolist() == [0.25] * 3


def test_what_a_killed_training_was_writing_is_cleared_away(tmp_path: Path):
    run = new_run(tmp_path)
    run.write("plan.json", {})
    for name in ("checkpoint.pt", "best_4.pt", "checkpoint.partial", "request"):
        (run.folder / name).write_text("x")
    (run.folder / "toy_seed1" / "models").mkdir(parents=True)
    withdraw(run)
    assert sorted(path.name for path in run.folder.iterdir()) == ["best_4.pt", "checkpoint.pt", "plan.json"]
    (run.folder / ".best_8.pt.partial").write_text("x")
    (run.folder / ".toy_seed1.partial" / "models").mkdir(parents=True)
    clear_away(tmp_path)  # whatever training comes next
    assert sorted(path.name for path in run.folder.iterdir()) == ["best_4.pt", "checkpoint.pt", "plan.json"]


def test_damaged_defaults_mean_the_shipped_models(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("BPR_MODELS", str(tmp_path))
    for text in ("", "[]", '{"pelvis": 3}', '{"pelvis": ["gone"]}'):
        defaults_file().write_text(text)
        assert list(names_in_use().values()) == []
