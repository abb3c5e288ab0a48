"""From what a person drew and marked to training labels: nothing is taught that nobody has marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")
pytest.importorskip("onnx", reason="writing bundles needs onnx, which this environment leaves out")

from seed_samples import as_image, toy_volume, write_seg, write_toy_bundle, write_toy_case  # noqa: E402

from bpr.errors import InputError  # noqa: E402
from bpr.seed.cases import labels_on, teaching_case  # noqa: E402
from bpr.seed.grid import grid_ct  # noqa: E402
from bpr.seed.marks import Mark  # noqa: E402
from bpr.seed.material import gather, hold_out  # noqa: E402
from bpr.seed.project import SeedProject  # noqa: E402
from bpr.segmentation.labels import structure_by_id  # noqa: E402
from bpr.training.cases import OUTSIDE  # noqa: E402
from bpr.training.patches import PatchSampler  # noqa: E402
from bpr.training.segmentation import marginal_loss  # noqa: E402

LIVER, SPLEEN = (structure_by_id(name).value for name in ("liver", "spleen"))


def known(part) -> list[int]:
    return [value for value in np.flatnonzero(part.known).tolist() if value]


def as_seen(array: np.ndarray, case, project: SeedProject) -> np.ndarray:
    """The part of a toy volume's voxels (z, y, x) that is left when the air around the body is cut off."""
    grid = grid_ct(case.volume_path, project.folder / "cache", False)
    start = np.round((np.array(grid.origin) - (-50.0, -40.0, 100.0)) / 4).astype(int)[::-1]
    return array[tuple(slice(a, a + n) for a, n in zip(start, grid.hu.shape, strict=True))]


def test_only_marked_slices_teach(project, bundle, tmp_path: Path):
    case = project.add(*write_toy_case(tmp_path / "in"), [Mark(((10, 14), (20, 20)))])
    teaching = teaching_case(case, bundle, project.folder / "cache")
    (part,) = teaching.parts
    planes = np.flatnonzero((part.labels != OUTSIDE).any((1, 2)))
    assert planes.tolist() == [10, 11, 12, 13, 14, 20] and known(part) == [LIVER, SPLEEN]
    truth = toy_volume()[1]
    assert (part.labels == LIVER).sum() == (truth[planes] == LIVER).sum()


def test_an_unmarked_slice_changes_no_gradient(project, bundle, tmp_path: Path):
    """The loss of a patch does not depend on what the network says where nothing is marked."""
    case = project.add(*write_toy_case(tmp_path / "in"), [Mark(((12, 16),))])
    (part,) = teaching_case(case, bundle, project.folder / "cache").parts
    sampler = PatchSampler([part], [LIVER, SPLEEN], (16, 16, 32), mirror=0.0)
    _, target, known_channels = sampler.draw(np.random.default_rng(1))
    assert (target == OUTSIDE).any() and (target != OUTSIDE).any()
    logits = torch.randn(1, 3, 16, 16, 32, requires_grad=True)
    marginal_loss(logits, target, known_channels, 0.5).backward()
    assert logits.grad[0][:, target == OUTSIDE].abs().max() == 0


def test_marks_for_one_organ_leave_the_others_unknown(project, bundle, tmp_path: Path):
    case = project.add(*write_toy_case(tmp_path / "in"), [Mark(((10, 12),)), Mark(((12, 18),), ("liver",))])
    parts = teaching_case(case, bundle, project.folder / "cache").parts
    assert sorted(known(part) for part in parts) == [[LIVER], [LIVER, SPLEEN]]
    only_liver = next(part for part in parts if known(part) == [LIVER])
    assert set(np.unique(only_liver.labels)) == {0, LIVER, OUTSIDE}, "a drawn spleen is no background label of its own"
    both = next(part for part in parts if known(part) == [LIVER, SPLEEN])
    assert not ((both.labels != OUTSIDE) & (only_liver.labels != OUTSIDE)).any()


def test_an_organ_without_a_segment_is_absent_only_where_it_is_marked(project, bundle, tmp_path: Path):
    image, labels = toy_volume()
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    liver = as_image(np.where(labels == LIVER, LIVER, 0).astype(np.uint8), image)
    segments = [{"id": "liver", "name": "liver", "layer": 0, "label": LIVER}]
    drawn = write_seg(tmp_path / "s.seg.nrrd", [liver], segments)
    unknown = project.add(tmp_path / "ct.nrrd", drawn, [Mark()])
    assert known(teaching_case(unknown, bundle, project.folder / "cache").parts[0]) == [LIVER]
    absent = project.add(tmp_path / "ct.nrrd", drawn, [Mark(((5, 8),), ("spleen",))])
    (part,) = teaching_case(absent, bundle, project.folder / "cache").parts
    assert known(part) == [SPLEEN] and set(np.unique(part.labels)) == {0, OUTSIDE}


def test_overlapping_segments_are_unknown_where_two_organs_claim_a_voxel(project, bundle, tmp_path: Path):
    """Several layers; a segment that is no organ (a tumor) may overlap as it likes. IDs are Slicer's own."""
    image, labels = toy_volume()
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    liver, wide = (labels == LIVER).astype(np.uint8), (labels > 0).astype(np.uint8)
    wide[:, :, :12] = 0
    segments = [{"id": "Segment_1", "name": "mine", "layer": 0, "label": 1, "terminology": "liver"},
                {"id": "Segment_2", "name": "Spleen", "layer": 1, "label": 1},
                {"id": "Segment_3", "name": "tumor", "layer": 1, "label": 2}]  # fmt: skip
    wide[5:9, 10:14, 2:6] = 2
    layers = [as_image(array, image) for array in (liver, wide)]
    case = project.add(tmp_path / "ct.nrrd", write_seg(tmp_path / "s.seg.nrrd", layers, segments), [Mark()])
    assert case.structures == ("liver", "spleen")
    (part,) = teaching_case(case, bundle, project.folder / "cache").parts
    liver, wide = as_seen(liver, case, project), as_seen(wide, case, project)
    clash = (liver > 0) & (wide == 1)
    assert clash.any() and (part.labels[clash] == OUTSIDE).all()
    assert (part.labels[(liver > 0) & ~clash] == LIVER).all()
    assert (part.labels[(wide == 1) & ~clash] == SPLEEN).all()


def test_a_segmentation_on_another_grid_lands_at_the_same_place(project, bundle, tmp_path: Path):
    """Finer, cropped, flipped and rotated about: labels follow millimeters, not indices."""
    image, labels = toy_volume()
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    fine = sitk.Resample(as_image(labels, image), [56, 52, 40], sitk.Transform(), sitk.sitkNearestNeighbor,
                         (-51.0, -41.0, 99.0), (2.0, 2.0, 3.0))  # fmt: skip
    flipped = sitk.DICOMOrient(fine, "RAI")
    segments = [{"id": "liver", "name": "liver", "layer": 0, "label": LIVER}]
    drawn = write_seg(tmp_path / "s.seg.nrrd", [flipped], segments)
    case = project.add(tmp_path / "ct.nrrd", drawn, [Mark()])
    (part,) = teaching_case(case, bundle, project.folder / "cache").parts
    a, b = part.labels == LIVER, as_seen(labels, case, project) == LIVER
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9


def test_beyond_a_label_map_is_unknown_and_beyond_a_cropped_segmentation_is_background(project, bundle, tmp_path: Path):
    image, labels = toy_volume()
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    box = as_image(labels, image)[:, :, 8:20]
    sitk.WriteImage(box, str(tmp_path / "map.nrrd"))
    segments = [{"id": "liver", "name": "liver", "layer": 0, "label": LIVER}]
    drawn = write_seg(tmp_path / "s.seg.nrrd", [box], segments)
    found = {}
    for path in (tmp_path / "map.nrrd", drawn):
        case = project.add(tmp_path / "ct.nrrd", path, [Mark((), ("liver",))])
        found[path.name] = teaching_case(case, bundle, project.folder / "cache").parts[0].labels
    assert (found["map.nrrd"][:8] == OUTSIDE).all() and (found["s.seg.nrrd"][:8] == 0).all()


def test_one_thin_marked_slice_teaches_from_its_own_voxels(project, bundle, tmp_path: Path):
    """On a scan of 1 mm slices a single marked slice is thinner than the networks' grid."""
    image, labels = toy_volume(spacing=(4.0, 4.0, 1.0), size=(28, 26, 120))
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    labels[np.arange(120) != 61] = 0  # the neighbors are wrong: nobody has marked them
    sitk.WriteImage(as_image(labels, image), str(tmp_path / "map.nrrd"))
    for marked in range(59, 64):
        case = project.add(
            tmp_path / "ct.nrrd", tmp_path / "map.nrrd", [Mark(((marked, marked),), ("liver", "spleen"))]
        )
        grid = grid_ct(case.volume_path, project.folder / "cache", False)
        drawn, group, _ = labels_on(grid, case)
        assert 1 <= group.any((1, 2)).sum() <= 2
        assert (drawn[group > 0] == LIVER).any() == (marked == 61)


@pytest.mark.parametrize("content", [b"", b"PK not a zip", b"nothing of numpy"])
def test_a_damaged_cache_is_made_anew(project, tmp_path: Path, content: bytes):
    image, _ = toy_volume()
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    whole = grid_ct(tmp_path / "ct.nrrd", tmp_path / "cache", False)
    (stored,) = (tmp_path / "cache").iterdir()
    stored.write_bytes(content)
    again = grid_ct(tmp_path / "ct.nrrd", tmp_path / "cache", False)
    assert (again.hu == whole.hu).all() and list((tmp_path / "cache").iterdir()) == [stored]
    assert stored.stat().st_size > len(content)


def test_a_marked_slice_between_the_planes_of_the_grid_teaches(project, bundle, tmp_path: Path):
    """Slices of 3 mm and planes of 4 mm: whichever slice is marked, the planes within 2 mm of it learn from it."""
    image, labels = toy_volume(spacing=(4.0, 4.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    sitk.WriteImage(as_image(labels, image), str(tmp_path / "s.nrrd"))
    for index in (12, 13, 14, 15):
        case = project.add(tmp_path / "ct.nrrd", tmp_path / "s.nrrd", [Mark(((index, index),))])
        (part,) = teaching_case(case, bundle, project.folder / "cache").parts
        planes = np.flatnonzero((part.labels != OUTSIDE).any((1, 2)))
        assert 1 <= len(planes) <= 2, f"slice {index} lies at {3 * index} mm"


def test_an_oblique_scan_keeps_its_marks(project, bundle, tmp_path: Path):
    image, labels = toy_volume()
    turn = sitk.Euler3DTransform((0, 0, 0), 0.2, 0.1, 0.0)
    marks = as_image(labels, image)
    for one in (image, marks):
        one.SetDirection(turn.GetMatrix())
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    sitk.WriteImage(marks, str(tmp_path / "map.nrrd"))
    case = project.add(tmp_path / "ct.nrrd", tmp_path / "map.nrrd", [Mark(((0, 14),))])
    (part,) = teaching_case(case, bundle, project.folder / "cache").parts
    share = (part.labels == LIVER).sum() / (labels[:15] == LIVER).sum()
    assert 0.9 < share < 1.1


def test_labels_that_do_not_match_the_bundle_are_one_sentence(project, tmp_path: Path, tmp_path_factory):
    pelvic = write_toy_bundle(tmp_path_factory.mktemp("other"), ("sacrum", "hip_left"), "pelvic")
    case = project.add(*write_toy_case(tmp_path / "in"), [Mark()])
    with pytest.raises(InputError, match="do not match the model pelvic: it segments none of liver, spleen"):
        teaching_case(case, pelvic, project.folder / "cache")


def test_a_damaged_case_is_left_out_and_nothing_at_all_is_refused(project, bundle, tmp_path: Path):
    project.add(*write_toy_case(tmp_path / "a"), [Mark()])
    project.add(*write_toy_case(tmp_path / "b", 1), [Mark()])
    (project.folder / "cases" / "case001" / "volume.nrrd").write_bytes(b"NRRD0004\nnothing")
    material, used = gather(project, bundle, memory_cases=False)
    assert [case.id for case in used] == ["case002"]
    assert any("case001" in n.message or "volume.nrrd" in n.message for n in material.notices)
    project.remove("case002")
    with pytest.raises(InputError):
        gather(project, bundle, memory_cases=False)
    project.remove("case001")
    with pytest.raises(InputError, match="No case of the project can teach yet"):
        gather(project, bundle, memory_cases=False)


def test_marked_slices_without_any_organ_cannot_teach_alone(project, bundle, tmp_path: Path):
    project.add(*write_toy_case(tmp_path / "in"), [Mark(((0, 1),))])
    with pytest.raises(InputError, match="no organ has a voxel there"):
        gather(project, bundle, memory_cases=False)


def test_without_other_patients_a_block_is_held_out_with_a_warning(project, bundle, tmp_path: Path):
    project.add(*write_toy_case(tmp_path / "in"), [Mark()])
    material, _ = gather(project, bundle, memory_cases=False)
    assert material.held_out and any(n.code == "no_validation_patients" for n in material.notices)
    taught, held = (cases[0].parts[0].labels != OUTSIDE for cases in (material.training, material.validation))
    assert held.any() and not (taught & held).any()
    project.mark("case001", [Mark(((13, 15),))], replace=True)
    material, _ = gather(project, bundle, memory_cases=False)
    assert any("nothing can be held out" in n.message for n in material.notices)
    assert hold_out(material.kind, material.training)[1] == []
