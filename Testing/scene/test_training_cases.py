"""From the scene to training labels over real MRML: what is drawn in Slicer is what teaches, at the same place."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="Slicer's MRML (slicer-core) cannot be loaded here")
pytest.importorskip("PySide6.QtUiTools", reason="the stand-in of Slicer's panels needs PySide6")
pytest.importorskip("torch", reason="training labels need torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")

import SimpleITK as sitk  # noqa: E402
from mrml_helpers import nodes  # noqa: E402
from seed_samples import toy_volume, write_toy_bundle, write_toy_case  # noqa: E402
from vtkmodules.util.numpy_support import vtk_to_numpy  # noqa: E402
from vtkmodules.vtkCommonMath import vtkMatrix4x4  # noqa: E402
from vtkmodules.vtkCommonTransforms import vtkTransform  # noqa: E402

from bpr.seed.case import State  # noqa: E402
from bpr.seed.cases import labels_on, teaching_case  # noqa: E402
from bpr.seed.grid import grid_ct  # noqa: E402
from bpr.seed.marks import Mark  # noqa: E402
from bpr.seed.project import SeedProject  # noqa: E402
from bpr.segmentation.labels import structure_by_id, terminology_entry  # noqa: E402
from BPRSegmentationLib.scene_file import load_volume  # noqa: E402

LIVER, SPLEEN = (structure_by_id(name).value for name in ("liver", "spleen"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("onnx", reason="writing bundles needs onnx, which this environment leaves out")
    return write_toy_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def project(tmp_path: Path, bundle) -> SeedProject:
    return SeedProject.create(tmp_path / "project", str(bundle.folder))


@pytest.fixture
def toy(stage, app, tmp_path: Path):
    """(volume node, (z, y, x) labels) of a toy scan in the scene."""
    image, labels = toy_volume()
    sitk.WriteImage(image, str(tmp_path / "toy.nrrd"))
    return load_volume(stage.scene, tmp_path / "toy.nrrd", "Doe Jane CT"), labels


def draw(node, volume, mask: np.ndarray, identifier: str, name: str, terminology: str = "") -> None:
    """Add a segment with these voxels (z, y, x) of the volume, as the Segment Editor keeps it."""
    matrix = vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    oriented = slicer.vtkOrientedImageData()
    oriented.SetDimensions(mask.shape[::-1])
    oriented.SetGeometryFromImageToWorldMatrix(matrix)
    oriented.AllocateScalars(3, 1)
    vtk_to_numpy(oriented.GetPointData().GetScalars())[:] = mask.ravel()
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.AddRepresentation("Binary labelmap", oriented)
    if terminology:
        segment.SetTag(segment.GetTerminologyEntryTagName(), terminology_entry(structure_by_id(terminology)))
    node.GetSegmentation().AddSegment(segment, identifier)


def segmentation_of(volume):
    node = volume.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node


def hand_over(volume, segmentation, project: SeedProject, tmp_path: Path):
    """The module's way, without the child process: nodes to files, files to a case."""
    from BPRTrainingLib.case_files import write_case

    folder = tmp_path / "handed"
    folder.mkdir(exist_ok=True)
    return project.add(*write_case(volume, segmentation, folder), [Mark()])


def labels(case, project) -> np.ndarray:
    """Labels of the networks' grid, put back on the toy volume's grid (both have 4 mm)."""
    grid = grid_ct(case.volume_path, project.folder / "cache", False)
    found = labels_on(grid, case)[0]
    whole = np.zeros((30, 26, 28), np.uint8)
    start = np.round((np.array(grid.origin) - (-50.0, -40.0, 100.0)) / 4).astype(int)[::-1]
    whole[tuple(slice(a, a + n) for a, n in zip(start, found.shape, strict=True))] = found
    return whole


def test_renamed_segments_are_known_by_their_ids_and_terms(toy, project, bundle, tmp_path):
    volume, truth = toy
    node = segmentation_of(volume)
    draw(node, volume, truth == LIVER, "liver", "Leber (korrigiert)")
    draw(node, volume, truth == SPLEEN, "Segment_1", "second try", "spleen")
    case = hand_over(volume, node, project, tmp_path)
    assert case.structures == ("liver", "spleen")
    found = labels(case, project)
    for value in (LIVER, SPLEEN):
        assert ((found == value) == (truth == value)).all()


def test_overlapping_segments_come_in_layers(toy, project, bundle, tmp_path):
    volume, truth = toy
    node = segmentation_of(volume)
    wide = (truth == LIVER).copy()
    wide[:, 10:16, 10:22] = True
    draw(node, volume, truth == LIVER, "liver", "liver")
    draw(node, volume, wide & (truth != LIVER) | (truth == SPLEEN), "spleen", "spleen")
    lesion = np.zeros_like(wide)
    lesion[12:16, 12:15, 6:10] = True
    draw(node, volume, lesion, "Segment_9", "metastasis")
    case = hand_over(volume, node, project, tmp_path)
    assert len({entry["layer"] for entry in case.segments}) == 2 and case.structures == ("liver", "spleen")
    assert (labels(case, project)[lesion & (truth == LIVER)] == LIVER).all(), "a lesion does not cut the liver"


def test_missing_and_empty_organs_are_unknown(toy, project, bundle, tmp_path):
    volume, truth = toy
    node = segmentation_of(volume)
    draw(node, volume, truth == LIVER, "liver", "liver")
    case = hand_over(volume, node, project, tmp_path)
    (part,) = teaching_case(case, bundle, project.folder / "cache").parts
    assert part.known[LIVER] and not part.known[SPLEEN]
    draw(node, volume, np.zeros_like(truth, bool), "spleen", "spleen")
    case = hand_over(volume, node, project, tmp_path)
    (part,) = teaching_case(case, bundle, project.folder / "cache").parts
    assert part.known[SPLEEN] and not (part.labels == SPLEEN).any(), "an empty segment says that there is none"


def test_a_segmentation_of_another_geometry_lands_at_its_place(toy, project, bundle, tmp_path, stage):
    """Drawn on a finer, cropped volume."""
    volume, truth = toy
    image = sitk.GetImageFromArray((truth == LIVER).astype(np.uint8))
    image.SetSpacing((4, 4, 4))
    image.SetOrigin((-50, -40, 100))
    fine = sitk.Resample(image, [40, 40, 50], sitk.Transform(), sitk.sitkNearestNeighbor, (-48, -30, 104), (2, 2, 2))
    sitk.WriteImage(fine, str(tmp_path / "fine.nrrd"))
    other = load_volume(stage.scene, tmp_path / "fine.nrrd", "fine")
    node = segmentation_of(other)
    draw(node, other, sitk.GetArrayFromImage(fine) > 0, "liver", "liver")
    found = labels(hand_over(volume, node, project, tmp_path), project) == LIVER
    inside = np.zeros_like(found)
    inside[1:26, 3:22, 1:20] = True
    wanted = (truth == LIVER) & inside
    assert 2 * (found & wanted).sum() / ((found & inside).sum() + wanted.sum()) > 0.95


def test_parent_transforms_are_taken_into_account(toy, project, bundle, tmp_path, stage):
    """The segmentation lies under a transform that the volume does not have: it is drawn where it is seen."""
    volume, truth = toy
    node = segmentation_of(volume)
    draw(node, volume, np.roll(truth == LIVER, 2, 0), "liver", "liver")  # two slices too high
    shift = vtkTransform()
    shift.Translate(0, 0, -8)
    transform = stage.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(shift.GetMatrix())
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert ((labels(hand_over(volume, node, project, tmp_path), project) == LIVER) == (truth == LIVER)).all()
    volume.SetAndObserveTransformNodeID(transform.GetID())
    both = labels(hand_over(volume, node, project, tmp_path), project) == LIVER
    assert (both == np.roll(truth == LIVER, 2, 0)).all(), "under one transform both stay as they are"


def test_what_cannot_be_a_case_is_one_sentence(toy, project, tmp_path, stage):
    from BPRTrainingLib.case_files import CaseError, write_case

    volume, _ = toy
    empty = segmentation_of(volume)
    for arguments, words in (((None, None), "Choose a CT"), ((volume, empty), "is empty")):
        with pytest.raises(CaseError, match=words):
            write_case(*arguments, tmp_path)
    bent = stage.scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    volume.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(CaseError, match="non-linear"):
        write_case(volume, None, tmp_path)


def test_a_case_is_edited_and_stored_again(toy, project, tmp_path, stage):
    from BPRTrainingLib.case_commands import correct_command
    from BPRTrainingLib.case_files import load_case

    case = project.add(*write_toy_case(tmp_path / "in"), [Mark()])
    volume, node = load_case(stage.scene, case, project.folder)
    assert sorted(node.GetSegmentation().GetSegmentIDs()) == ["liver", "spleen"]
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume
    assert load_case(stage.scene, case, project.folder) == (volume, node), "the second time it is the same"
    node.GetSegmentation().RemoveSegment("spleen")
    arguments, folder = correct_command(case.id, node, project.folder)
    assert arguments[:4] == ["seed", "correct", str(project.folder), "case001"]
    changed = project.replace_segmentation(case.id, folder / "segmentation.seg.nrrd")
    assert changed.structures == ("liver",) and changed.state is State.IN_REVIEW
    assert len(nodes(stage.scene, "vtkMRMLSegmentationStorageNode")) == 0, "saving the scene leaves the project alone"


def test_a_label_map_is_shown_as_segments_with_the_organs_ids(toy, project, tmp_path, stage):
    from BPRTrainingLib.case_files import load_case

    image, truth = toy_volume()
    label_map = sitk.GetImageFromArray(truth)
    label_map.CopyInformation(image)
    sitk.WriteImage(label_map, str(tmp_path / "map.nii.gz"))
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    case = project.add(tmp_path / "ct.nrrd", tmp_path / "map.nii.gz", [Mark()])
    _, node = load_case(stage.scene, case, project.folder)
    assert sorted(node.GetSegmentation().GetSegmentIDs()) == ["liver", "spleen"]
    assert (labels(hand_over(toy[0], node, project, tmp_path), project) == truth).all()


def test_slicer_reads_a_proposal_with_the_persons_own_segments(toy, project, bundle, tmp_path, stage):
    from bpr.seed.propose import propose
    from BPRTrainingLib.case_files import load_case

    volume, truth = toy
    node = segmentation_of(volume)
    draw(node, volume, truth == LIVER, "liver", "liver")
    lesion = np.zeros(truth.shape, bool)
    lesion[14:17, 10:13, 8:11] = True
    draw(node, volume, lesion, "Segment_5", "metastasis")
    case = propose(project, hand_over(volume, node, project, tmp_path).id, bundle)
    _, loaded = load_case(stage.scene, case, project.folder)
    assert {"liver", "Segment_5"} <= set(loaded.GetSegmentation().GetSegmentIDs())
    again = hand_over(volume, loaded, project, tmp_path)
    assert ((labels(again, project) == LIVER) == (truth == LIVER)).all(), "all slices were marked: the liver stays"
    own = next(entry for entry in again.segments if entry["name"] == "metastasis")
    layers = sitk.ReadImage(str(again.segmentation_path))
    layer = (
        layers if layers.GetNumberOfComponentsPerPixel() == 1 else sitk.VectorIndexSelectionCast(layers, own["layer"])
    )
    assert (sitk.GetArrayFromImage(layer) == own["label"]).sum() == lesion.sum()


def test_the_slice_of_the_red_view_is_found_in_the_volume(toy, stage):
    from BPRTrainingLib.case_files import CaseError, current_slice

    volume, _ = toy
    view = slicer.vtkMRMLSliceNode()
    view.SetSingletonTag("Red")
    view = stage.scene.AddNode(view)  # the layout may have one already
    for height, index in ((100, 0), (141.9, 10), (216, 29)):
        view.GetSliceToRAS().SetElement(2, 3, height)
        assert current_slice(volume, view) == index
    view.GetSliceToRAS().SetElement(2, 3, 300)
    with pytest.raises(CaseError, match="outside"):
        current_slice(volume, view)


def test_the_logic_adds_a_case_from_a_script(toy, project, monkeypatch):
    """The whole way with the real child process, as the button of Body Part Segmentation goes it."""
    import BPRTraining

    volume, truth = toy
    node = segmentation_of(volume)
    draw(node, volume, truth == LIVER, "liver", "liver")
    logic = BPRTraining.BPRTrainingLogic()
    monkeypatch.setattr(logic, "pythonExecutable", lambda: sys.executable)
    name = logic.addSeedCase(volume, node, project.folder, patient="p1", domain="scanner A")
    case = project.case(name)
    assert (case.patient, case.domain, case.structures) == ("p1", "scanner A", ("liver",))
    assert "Doe" not in "".join(path.name for path in project.folder.rglob("*"))
    assert list(Path(slicer.app.temporaryPath).iterdir()) == []
    node.GetSegmentation().RemoveAllSegments()
    draw(node, volume, truth == LIVER, "x", "something")
    with pytest.raises(RuntimeError, match="stands for a known organ"):
        logic.addSeedCase(volume, node, project.folder)
