"""Folders of DICOM: the right series, order and Hounsfield units, and words on all that was not plain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, EnhancedCTImageStorage, ImplicitVRLittleEndian, RLELossless
from volume_samples import ORIGIN, SPACING, codes, trunk, trunk_array, voxels, write_series, write_slice

from bpr.errors import InputError
from bpr.volume import read_volume, same_geometry

MPEG2 = UID("1.2.840.10008.1.2.4.100")  # a video format that nothing here decodes


def rewrite(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleIntercept": 0, "PixelRepresentation": 1},
        {"RescaleSlope": 0.5, "RescaleIntercept": -1500},
        {"RescaleSlope": 2, "RescaleIntercept": -2000},
        {"RescaleIntercept": -8192},
    ],
)
def test_rescale_leads_to_hounsfield_units(tmp_path, tags):
    even = trunk_array() // 2 * 2
    volume = read_volume(write_series(tmp_path / "ct", even, **tags))
    assert np.array_equal(voxels(volume.image), even)
    assert volume.image.GetPixelID() == sitk.sitkInt16


def test_each_slice_has_its_own_rescale(tmp_path):
    hu = trunk_array()
    for number, picture in enumerate(hu):
        position = (ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[2] * number)
        write_slice(tmp_path / f"{number}.dcm", picture, position, RescaleIntercept=-1024 - 10 * number)
    assert np.array_equal(voxels(read_volume(tmp_path).image), hu)


@pytest.mark.parametrize("number", ["1e30", "-1e30", "3e9"])
def test_a_senseless_rescale_is_one_sentence(tmp_path, number):
    write_series(tmp_path, trunk_array())
    for path in tmp_path.glob("*.dcm"):
        rewrite(path, lambda values: setattr(values, "RescaleIntercept", number))
    with pytest.raises(InputError, match="all its voxels are"):
        read_volume(tmp_path)


def test_one_file_stands_for_its_series(tmp_path):
    write_series(tmp_path, trunk_array())
    write_series(tmp_path / "below", trunk_array(), series="1.2.9")
    write_slice(tmp_path / "other.dcm", trunk_array()[0], ORIGIN, series="1.2.8")
    volume = read_volume(tmp_path / "003.dcm")
    assert same_geometry(volume.image, trunk()) and np.array_equal(voxels(volume.image), trunk_array())
    assert volume.notices == [] and volume.name == "003"


def test_mixed_folder_says_what_is_left_out(tmp_path):
    hu = trunk_array()
    write_series(tmp_path / "deep" / "er", hu)
    write_series(tmp_path / "short", hu[:5], series="1.2.4")
    for number in range(20):  # more scout pictures than slices
        place = (0, 0, number)
        write_slice(tmp_path / f"scout{number}.dcm", hu[0], place, series="1.5", ImageType=["ORIGINAL", "LOCALIZER"])
    write_slice(tmp_path / "plan.dcm", hu[0], ORIGIN, series="1.6", Modality="RTIMAGE")
    write_slice(tmp_path / "seg.dcm", hu[0], ORIGIN, series="1.7", Modality="SEG")
    report = write_slice(tmp_path / "dose.dcm", hu[0], ORIGIN, series="1.8")
    del report.ImagePositionPatient
    report.save_as(tmp_path / "dose.dcm")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "half.dcm").write_bytes((tmp_path / "seg.dcm").read_bytes()[:300])
    volume = read_volume(tmp_path)
    assert np.array_equal(voxels(volume.image), hu)
    assert codes(volume) == ["series_left_out", "files_skipped"]
    for words in ("a CT series of 5 slices", "20 scout files", "1 RTIMAGE file", "1 SEG file", "without a position"):
        assert words in volume.notices[0].message
    assert "skipped 3 files" in volume.notices[1].message


def test_nothing_tells_the_patient(tmp_path):
    volume = read_volume(write_series(tmp_path / "ct", trunk_array()))
    assert "ecret" not in repr((volume.name, volume.source, volume.notices)) + str(volume.image)
    write_slice(tmp_path / "mr" / "1.dcm", trunk_array()[0], ORIGIN, Modality="MR")
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "mr")
    assert "secret" not in str(caught.value).lower()


def test_sagittal_reformat_with_more_slices_loses_to_the_axial_series(tmp_path):
    hu = trunk_array()
    write_series(tmp_path / "axial", hu)
    for number in range(20):
        place = (number * 2.0, ORIGIN[1], ORIGIN[2])
        tags = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "PixelSpacing": [4.0, 2.0]}
        write_slice(tmp_path / f"s{number}.dcm", hu[:, :, number], place, series="1.9", **tags)
    assert np.array_equal(voxels(read_volume(tmp_path).image), hu)
    sagittal = read_volume(tmp_path / "s3.dcm")  # asked for, it is read
    assert sagittal.source["size"] == [28, 12, 20]


def test_maximum_projection_loses_to_the_slices(tmp_path):
    write_series(tmp_path / "slices", trunk_array())
    write_series(tmp_path / "mip", trunk_array(20), series="1.9", ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"])
    assert np.array_equal(voxels(read_volume(tmp_path).image), trunk_array())


def test_copies_are_dropped(tmp_path):
    write_series(tmp_path / "a", trunk_array())
    write_series(tmp_path / "b", trunk_array()[2:5], heights=ORIGIN[2] + 4.0 * np.arange(2, 5))
    volume = read_volume(tmp_path)
    assert codes(volume) == ["duplicates_dropped"] and "3 slices" in volume.notices[0].message
    assert np.array_equal(voxels(volume.image), trunk_array())


def test_two_phases_in_one_series_are_not_mixed(tmp_path):
    hu = trunk_array()
    for number, picture in enumerate(hu):
        position = (ORIGIN[0], ORIGIN[1], ORIGIN[2] + 4.0 * number)
        turn = number % 2  # phases alternate in instance number
        for phase in (1, 2):
            tags = {"AcquisitionNumber": phase, "InstanceNumber": 2 * number + (phase + turn) % 2}
            write_slice(tmp_path / f"{phase}-{number}.dcm", picture + 30 * (phase - 1), position, **tags)
    assert np.array_equal(voxels(read_volume(tmp_path).image), hu)


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0]])
def test_prone_and_feet_first_agree_with_itk(tmp_path, orientation):
    write_series(tmp_path / "ct", trunk_array(), ImageOrientationPatient=orientation)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "ct"))
    reference = sitk.ReadImage(names)
    volume = read_volume(tmp_path / "ct")
    assert same_geometry(volume.image, reference)
    assert np.array_equal(voxels(volume.image), sitk.GetArrayFromImage(reference))


def test_broken_file_among_good_ones_is_interpolated(tmp_path):
    write_series(tmp_path, trunk_array())
    rewrite(tmp_path / "011.dcm", lambda dataset: setattr(dataset, "PixelData", dataset.PixelData[:100]))
    volume = read_volume(tmp_path)
    assert codes(volume) == ["files_skipped", "missing_slices"]
    assert same_geometry(volume.image, trunk())
    lost = (11 * 7) % 12  # 7 is its own inverse modulo 12
    assert np.array_equal(np.delete(voxels(volume.image), lost, 0), np.delete(trunk_array(), lost, 0))
    assert np.abs(voxels(volume.image)[lost] - trunk_array()[[lost - 1, lost + 1]].mean(0)).max() <= 0.5


def even(count: int) -> np.ndarray:
    return ORIGIN[2] + SPACING[2] * np.arange(count)


def test_missing_slices_are_interpolated_between_true_positions(tmp_path):
    hu, keep = trunk_array(), [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    volume = read_volume(write_series(tmp_path / "ct", hu[keep], even(12)[keep]))
    assert codes(volume) == ["missing_slices"] and "12.00 mm" in volume.notices[0].message
    assert same_geometry(volume.image, trunk())
    assert np.array_equal(voxels(volume.image)[keep], hu[keep])
    between = hu[3] + (hu[6].astype(float) - hu[3]) / 3
    assert np.abs(voxels(volume.image)[4] - between).max() <= 0.51


def test_a_large_gap_cuts_the_stack_or_refuses(tmp_path):
    hu = trunk_array(20)
    most = [0, 1, 2, 3, *range(9, 20)]
    volume = read_volume(write_series(tmp_path / "most", hu[most], even(20)[most]))
    assert codes(volume) == ["stack_cut"] and "4 slices beyond" in volume.notices[0].message
    assert np.array_equal(voxels(volume.image), hu[9:])
    assert volume.image.GetOrigin()[2] == pytest.approx(even(20)[9])
    half = [*range(7), *range(12, 20)]
    with pytest.raises(InputError, match="gap of 24.0 mm"):
        read_volume(write_series(tmp_path / "half", hu[half], even(20)[half]))


def test_uneven_distances_are_evened(tmp_path):
    heights = np.concatenate([np.arange(0, 20, 2.0), np.arange(20, 41, 3.0)])
    hu = np.round(np.broadcast_to(trunk_array()[3] / 1.0, (len(heights), 28, 36)) + heights[:, None, None] * 4)
    volume = read_volume(write_series(tmp_path / "ct", hu.astype(np.int16), heights))
    assert codes(volume) == ["uneven_spacing"] and "2.00 to 3.00 mm" in volume.notices[0].message
    assert volume.image.GetSpacing()[2] == pytest.approx(2.0)
    ramp = voxels(volume.image)[:, 5, 5] - trunk_array()[3, 5, 5]
    assert np.abs(ramp - 8 * np.arange(len(ramp))).max() <= 1, "values follow the true heights"


def test_rounded_positions_count_as_even(tmp_path):
    heights = np.round(even(12) + 0.03 * np.sin(np.arange(12)), 2)
    assert read_volume(write_series(tmp_path / "ct", trunk_array(), heights)).notices == []


def test_gantry_tilt_is_taken_out(tmp_path):
    """A straight rod along z stays straight: its place in the slices moves, its place in space does not."""
    angle = np.radians(15)
    rows = [1, 0, 0, 0, np.cos(angle), -np.sin(angle)]
    heights, hu = even(12), np.full((12, 28, 36), -1000, np.int16)
    y_mm = ORIGIN[1] + SPACING[1] * np.arange(28) * np.cos(angle)
    hu[:, 3:25, 4:32] = 20
    hu[:, 6:10, 10:14] = -90
    rod = int(np.argmin(np.abs(y_mm - 0)))
    hu[:, rod, 20] = 1000
    volume = read_volume(write_series(tmp_path / "ct", hu, heights, ImageOrientationPatient=rows))
    axes = np.reshape(volume.image.GetDirection(), (3, 3))
    assert codes(volume) == ["gantry_tilt"] and "15.0 degrees" in volume.notices[0].message
    assert np.allclose(axes.T @ axes, np.eye(3))
    assert volume.image.GetSpacing()[2] == pytest.approx(SPACING[2] * np.cos(angle))
    first = np.array([ORIGIN[0] + 20 * SPACING[0], y_mm[rod], ORIGIN[2] - rod * SPACING[1] * np.sin(angle)])
    for number in range(12):  # the rod runs along z, as the corners of the slices do
        index = volume.image.TransformPhysicalPointToContinuousIndex((first + [0, 0, 4.0 * number]).tolist())
        i, j, k = (int(round(value)) for value in index)
        assert index[2] == pytest.approx(k, abs=1e-3), "slices stay in their planes"
        near = sitk.GetArrayViewFromImage(volume.image)[k, j - 1 : j + 2, i]
        assert near.max() > 450 and near.sum() == pytest.approx(1000 + 2 * 20, abs=25)


def write_two_centers(folder: Path, aside: range) -> np.ndarray:
    """Write the trunk with the slices of ``aside`` reconstructed two pixels to the side, about another center."""
    hu = trunk_array()
    for number, picture in enumerate(hu):
        columns = 2 if number in aside else 0
        place = (ORIGIN[0] + columns * SPACING[0], ORIGIN[1], ORIGIN[2] + SPACING[2] * number)
        write_slice(folder / f"{number}.dcm", np.roll(picture, -columns, axis=1), place)
    return hu


def test_slices_with_another_field_of_view_center_are_shifted(tmp_path):
    hu = write_two_centers(tmp_path, range(5, 7))
    volume = read_volume(tmp_path)
    assert same_geometry(volume.image, trunk()) and volume.notices == []
    assert np.array_equal(voxels(volume.image)[:, :, 2:], hu[:, :, 2:])


def test_two_halves_with_different_centers_are_no_gantry_tilt(tmp_path):
    hu = write_two_centers(tmp_path, range(6, 12))
    volume = read_volume(tmp_path)
    assert volume.notices == []
    first = round((volume.image.GetOrigin()[0] - ORIGIN[0]) / SPACING[0])  # either center may be kept
    assert np.array_equal(voxels(volume.image)[:, :, 2 - first : 34 - first], hu[:, :, 2:34])


def enhanced(path: Path, hu: np.ndarray) -> Path:
    """All slices in one enhanced multi-frame file, in reverse order."""
    dataset = write_slice(path, hu[0], ORIGIN, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=len(hu))
    pixels = Dataset()
    pixels.PixelSpacing = dataset.PixelSpacing
    plane = Dataset()
    plane.ImageOrientationPatient = dataset.ImageOrientationPatient
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([pixels]), Sequence([plane])
    frames = []
    for number in reversed(range(len(hu))):
        place, values, frame = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + 4.0 * number]
        values.RescaleSlope, values.RescaleIntercept = 1, -1000 - number
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = Sequence([place]), Sequence([values])
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = Sequence([shared]), frames
    stored = [hu[number] + 1000 + number for number in reversed(range(len(hu)))]
    dataset.PixelData = np.clip(np.stack(stored), 0, None).astype(np.uint16).tobytes()
    for name in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, name)
    dataset.save_as(path)
    return path


def test_enhanced_multiframe(tmp_path):
    volume = read_volume(enhanced(tmp_path / "all.dcm", trunk_array()))
    assert same_geometry(volume.image, trunk())
    assert np.array_equal(voxels(volume.image), trunk_array())
    with pytest.raises(InputError, match="fewer than 3 slices"):
        read_volume(enhanced(tmp_path / "two" / "two.dcm", trunk_array()[:2]))


def no_decoder(self):
    raise RuntimeError("Unable to decompress: plugins are missing dependencies")


def test_compressed_slices_are_decoded_by_pydicom_or_by_itk(tmp_path, monkeypatch):
    write_series(tmp_path, trunk_array())
    for path in tmp_path.glob("*.dcm"):
        rewrite(path, lambda dataset: dataset.compress(RLELossless, generate_instance_uid=False))
    assert np.array_equal(voxels(read_volume(tmp_path).image), trunk_array())
    monkeypatch.setattr(Dataset, "pixel_array", property(no_decoder))
    assert np.array_equal(voxels(read_volume(tmp_path).image), trunk_array())


def test_compressed_without_a_decoder_names_the_syntax(tmp_path, capfd):
    write_series(tmp_path / "ct", trunk_array())
    for path in (tmp_path / "ct").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = encapsulate([b"\x00\x00\x01\xb3" * 50])
        dataset.file_meta.TransferSyntaxUID = MPEG2
        dataset.save_as(path)
    with pytest.raises(InputError, match="MPEG2.*1.2.840.10008.1.2.4.100") as caught:
        read_volume(tmp_path / "ct")
    assert "pylibjpeg" in caught.value.advice and "dcmdjpeg" in caught.value.advice
    assert capfd.readouterr().err == ""


def test_files_without_preamble(tmp_path):
    write_series(tmp_path, trunk_array())
    for path in tmp_path.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        bare = Dataset()
        bare.update(dataset)
        bare.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    assert np.array_equal(voxels(read_volume(tmp_path).image), trunk_array())


@pytest.mark.parametrize("modality", ["MR", "PT", "US", "RTDOSE"])
def test_other_modalities_are_named(tmp_path, modality):
    write_series(tmp_path / "scan", trunk_array(), Modality=modality)
    for path in (tmp_path / "scan", tmp_path / "scan" / "003.dcm"):
        with pytest.raises(InputError, match=f"CT but {modality}"):
            read_volume(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PixelSpacing": [0, 0]}, "voxel size"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "no CT slices"),
        ({"ImageType": ["DERIVED", "LOCALIZER"]}, "only 12 scout files"),
        ({"SamplesPerPixel": 3}, "no CT slices"),
    ],
)
def test_series_that_cannot_be_used(tmp_path, change, words):
    write_series(tmp_path / "scan", trunk_array(), **change)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(tmp_path / "scan")
    assert "scan" in caught.value.message


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_slices(tmp_path, count):
    write_series(tmp_path / "scan", trunk_array()[:count])
    with pytest.raises(InputError, match=f"fewer than 3 slices.*{count} slice"):
        read_volume(tmp_path / "scan")


def test_real_folders(shared_data):
    folder = shared_data / "dicom"
    mixed = read_volume(folder / "mixed_folder")
    assert mixed.source["size"] == [512, 512, 22] and mixed.source["files"] == 22
    assert codes(mixed) == ["series_left_out", "files_skipped"]
    assert "CT series of 4 slices" in mixed.notices[0].message and "RTIMAGE" in mixed.notices[0].message
    three = read_volume(folder / "three_slices_with_seg")
    assert three.source["size"] == [512, 512, 3] and "2 SEG files" in three.notices[0].message
    tilted = read_volume(folder / "gantry_tilt_variable_spacing")
    assert codes(tilted) == ["uneven_spacing", "gantry_tilt"]
    axes = np.reshape(tilted.image.GetDirection(), (3, 3))
    assert np.allclose(axes.T @ axes, np.eye(3))
    for name, count in (("transfer_syntaxes", "1 slice"), ("multiframe", "2 slices")):
        with pytest.raises(InputError, match=f"{name} has fewer than 3 slices.*{count}"):
            read_volume(folder / name)


def test_real_transfer_syntaxes_give_the_same_pixels(shared_data, tmp_path):
    """The one slice in six encodings, each copied to three heights, is the same volume."""
    volumes = []
    for source in sorted((shared_data / "dicom" / "transfer_syntaxes").glob("*.dcm")):
        folder = tmp_path / source.stem
        folder.mkdir()
        for number in range(3):
            dataset = pydicom.dcmread(source)
            dataset.ImagePositionPatient = [*dataset.ImagePositionPatient[:2], 5.0 * number]
            dataset.save_as(folder / f"{number}.dcm")
        volumes.append(voxels(read_volume(folder).image))
    assert len(volumes) == 6
    assert all(np.array_equal(volume, volumes[0]) for volume in volumes)


def test_a_damaged_kind_of_value_is_one_unreadable_file(tmp_path):
    """pydicom decodes an element when it is asked for, long after the file was opened."""
    folder = write_series(tmp_path / "ct", trunk_array())
    damaged = sorted(folder.iterdir())[3]
    damaged.write_bytes(damaged.read_bytes().replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00C["))
    assert "files_skipped" in codes(read_volume(folder))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00C["))
    with pytest.raises(InputError):
        read_volume(folder)
