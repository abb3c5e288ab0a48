"""Crops of dragged boxes, exported files, and the volume on its way to the child, compared voxel by voxel."""

from __future__ import annotations

import csv

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import slicer
from mrml_helpers import nodes, volume_array
from result_fixture import SEGMENTS, make_image, rotation, write_case
from test_results import IMAGES, add_transform, shifted_rotation

from bpr.segmentation.labels import structure_by_id
from BPRSegmentationLib.crops import crop, show_handles
from BPRSegmentationLib.export import Request, VolumeFile, write_job
from BPRSegmentationLib.placement import array_to_matrix, ijk_to_ras
from BPRSegmentationLib.results import load_result
from BPRSegmentationLib.saving import SavingError, label_values, save_dicom_seg, save_nifti, save_seg_nrrd
from BPRSegmentationLib.scene_file import load_volume, new_stage


@pytest.fixture
def stage():
    return new_stage()


def a_result(stage, case):
    return load_result(stage.scene, case.folder, load_volume(stage.scene, case.ct, "CT"))


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("kind", IMAGES)
def test_a_crop_holds_exactly_the_regions_voxels(tmp_path, stage, kind: str, moved: bool) -> None:
    case = write_case(tmp_path / "case", make_image(**IMAGES[kind]))
    volume = load_volume(stage.scene, case.ct, "CT")
    if moved:
        volume.SetAndObserveTransformNodeID(add_transform(stage, shifted_rotation()).GetID())
    result = load_result(stage.scene, case.folder, volume)
    before = volume_array(volume).copy()
    node = crop(volume, result.regions[0])
    assert (volume_array(volume) == before).all()
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    size = np.array(node.GetImageData().GetDimensions())
    expected = np.array(case.image.GetSize())
    expected[case.axis] -= expected[case.axis] // 2
    assert sorted(size) == sorted(expected)
    start = np.linalg.inv(ijk_to_ras(volume)) @ ijk_to_ras(node) @ [0, 0, 0, 1]
    first = np.rint(start[:3]).astype(int)
    assert start[:3] == pytest.approx(first, abs=1e-3), "on the volume's own grid"
    box = tuple(slice(first[axis], first[axis] + size[axis]) for axis in (2, 1, 0))
    assert (volume_array(node) == volume_array(volume)[box]).all()


def test_a_dragged_box_is_cropped_anew_in_place_of_its_earlier_crop(stage, a_case) -> None:
    result = a_result(stage, a_case)
    roi = result.regions[0]
    first = crop(result.volume, roi)
    slices = first.GetImageData().GetDimensions()[2]
    roi.SetSize(*(np.array(roi.GetSize()) * [1, 1, 0.5]))
    second = crop(result.volume, roi)
    assert second is first and second.GetName() == "CT upper abdomen"
    assert second.GetImageData().GetDimensions()[2] == pytest.approx(slices / 2, abs=1)
    roi.SetCenter(5000, 0, 0)
    with pytest.raises(ValueError, match="outside"):
        crop(result.volume, roi)


def test_only_the_chosen_box_has_handles(stage, a_case) -> None:
    roi = a_result(stage, a_case).regions[0]
    show_handles([roi], roi)
    assert roi.GetDisplayNode().GetHandlesInteractive()
    show_handles([roi], None)
    assert not roi.GetDisplayNode().GetHandlesInteractive()


@pytest.mark.parametrize("kind", IMAGES)
def test_nifti_has_the_label_tables_values_on_the_volumes_grid(tmp_path, stage, kind: str) -> None:
    case = write_case(tmp_path / "case", make_image(**IMAGES[kind]))
    result = a_result(stage, case)
    table = save_nifti(result.segmentation, result.volume, tmp_path / "labels ä.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "labels ä.nii.gz"))
    fitted = sitk.Resample(image, case.labels, sitk.Transform(), sitk.sitkNearestNeighbor)
    assert (sitk.GetArrayFromImage(fitted) == sitk.GetArrayFromImage(case.labels)).all()
    with open(table, encoding="utf-8") as file:
        rows = {row["id"]: int(row["value"]) for row in csv.DictReader(file)}
    assert rows == {identifier: structure_by_id(identifier).value for identifier in SEGMENTS}


def test_segments_of_ones_own_get_free_values(tmp_path, stage, a_case) -> None:
    result = a_result(stage, a_case)
    own = slicer.vtkSegment()
    own.SetName("tumor")
    result.segmentation.GetSegmentation().AddSegment(own, "my tumor")
    values = label_values(result.segmentation)
    assert (
        values["my tumor"] == 1 + max(s for name, s in values.items() if name != "my tumor") or values["my tumor"] > 22
    )
    assert len(set(values.values())) == len(values)


def test_seg_nrrd_can_be_read_again_and_leaves_the_nodes_storage_alone(tmp_path, stage, a_case) -> None:
    result = a_result(stage, a_case)
    save_seg_nrrd(result.segmentation, tmp_path / "out.seg.nrrd")
    assert result.segmentation.GetStorageNode() is None
    image = sitk.ReadImage(str(tmp_path / "out.seg.nrrd"))
    names = {image.GetMetaData(f"Segment{k}_ID") for k in range(3)}
    assert names == set(SEGMENTS)


def dicom_series(tmp_path, case) -> list[str]:
    """The case's image as CT images with the tags that a SEG refers to."""
    files, array, size = [], sitk.GetArrayFromImage(case.image), case.image.GetSize()
    study, series, frame = (pydicom.uid.generate_uid() for _ in range(3))
    direction = np.array(case.image.GetDirection()).reshape(3, 3)
    for k in range(size[2]):
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientID = ds.PatientName = "test"
        ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.StudyID = ds.ReferringPhysicianName = ""
        ds.StudyDate, ds.StudyTime, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = (
            "20260101",
            "120000",
            "CT",
            1,
            k + 1,
        )
        ds.ImagePositionPatient = list(case.image.TransformIndexToPhysicalPoint((0, 0, k)))
        ds.ImageOrientationPatient = [*direction[:, 0], *direction[:, 1]]
        ds.PixelSpacing, ds.SliceThickness = [case.image.GetSpacing()[1], case.image.GetSpacing()[0]], 6.0
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = size[1], size[0], 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept, ds.RescaleSlope = 15, 1, 0, 1
        ds.PixelData = array[k].astype("<i2").tobytes()
        files.append(str(tmp_path / f"{k:03}.dcm"))
        ds.save_as(files[-1], enforce_file_format=True)
    return files


def test_dicom_seg_has_every_segment_at_its_place(tmp_path, stage, a_case) -> None:
    highdicom = pytest.importorskip("highdicom")
    result = a_result(stage, a_case)
    files = dicom_series(tmp_path, a_case)
    save_dicom_seg(result.segmentation, result.volume, files[::-1], tmp_path / "seg.dcm")
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    labels = sitk.GetArrayFromImage(a_case.labels)
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in files]
    for number in seg.segment_numbers:
        description = seg.get_segment_description(number)
        identifier = next(i for i in SEGMENTS if structure_by_id(i).name == description.segment_label)
        assert description.segmented_property_type.value == structure_by_id(identifier).snomed_code
        mask = seg.get_pixels_by_source_instance(uids, segment_numbers=[number], ignore_spatial_locations=True,
                                                 assert_missing_frames_are_empty=True)[..., 0]  # fmt: skip
        assert (mask == (labels == structure_by_id(identifier).value)).all()


def test_dicom_seg_refuses_what_is_not_the_series(tmp_path, stage, a_case) -> None:
    pytest.importorskip("highdicom")
    result = a_result(stage, a_case)
    with pytest.raises(SavingError, match="not loaded from DICOM"):
        save_dicom_seg(result.segmentation, result.volume, [], tmp_path / "seg.dcm")
    files = dicom_series(tmp_path, a_case)
    moved = ijk_to_ras(result.volume)
    moved[0, 3] += 3
    result.volume.SetIJKToRASMatrix(array_to_matrix(moved))
    with pytest.raises(SavingError, match="moved, cropped or resampled"):
        save_dicom_seg(result.segmentation, result.volume, files, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_the_volumes_file_grows_piece_by_piece_and_knows_its_content(tmp_path, stage) -> None:
    case = write_case(tmp_path / "case", make_image(size=(200, 200, 120), direction=rotation((5, 8, -10))))
    volume = load_volume(stage.scene, case.ct, "CT")
    sums = []
    for name in ("one", "two"):
        file = VolumeFile(volume, tmp_path / f"{name}.nrrd", checksum=True)
        pieces = 1
        while not file.write_some(0.0):
            pieces += 1
            assert 0 < file.fraction < 1
        assert pieces > 1 or file.fraction == 1
        sums.append(file.sum)
    assert sums[0] == sums[1]
    image = sitk.ReadImage(str(tmp_path / "one.nrrd"))
    assert (sitk.GetArrayFromImage(image) == sitk.GetArrayFromImage(case.image)).all()
    assert np.allclose(image.GetDirection(), case.image.GetDirection(), atol=1e-6)
    assert np.allclose(image.GetOrigin(), case.image.GetOrigin(), atol=1e-4)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_every_voxel_type_reaches_the_child(tmp_path, stage, kind: str) -> None:
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    array = np.arange(4 * 3 * 2).reshape(4, 3, 2).astype(kind)
    image = vtkImageData()
    image.SetDimensions(2, 3, 4)
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    node = stage.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    node.SetAndObserveImageData(image)
    write_job(node, Request(), tmp_path)
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "volume.nrrd"))) == array).all()
    assert len(nodes(stage.scene, "vtkMRMLScalarVolumeNode")) == 1
