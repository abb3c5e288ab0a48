"""Reading files: each format gives the same scan, each bad file one clear sentence."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_samples import ORIGIN, SPACING, array_file, codes, saved, trunk, trunk_array, voxels, write_series

from bpr.errors import InputError, MemoryShortage
from bpr.volume import read_volume, same_geometry


@pytest.mark.parametrize("file", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd", "scan of Zoë, 2.nii.gz", "A.NII.GZ"])
def test_every_format_gives_the_same_scan(tmp_path, file):
    path = saved(trunk(), tmp_path / file.lower()).rename(tmp_path / file)
    volume = read_volume(path)
    assert same_geometry(volume.image, trunk())
    assert volume.image.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(voxels(volume.image), trunk_array())
    assert volume.notices == []
    assert volume.name == file.rsplit(".nii", 1)[0].rsplit(".mh", 1)[0].removesuffix(".nrrd").removesuffix(".NII.GZ")
    assert volume.source["file"] == file


def test_dicom_gives_the_same_scan(tmp_path):
    volume = read_volume(write_series(tmp_path / "Séries 1", trunk_array()))
    assert same_geometry(volume.image, trunk())
    assert np.array_equal(voxels(volume.image), trunk_array())
    assert (volume.name, volume.source["format"], volume.source["files"]) == ("Séries 1", "DICOM", 12)


def oblique() -> sitk.Image:
    image = trunk()
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.4).GetMatrix())
    return image


def flipped() -> sitk.Image:
    image = sitk.PermuteAxes(trunk(), (2, 0, 1))
    return image[::-1, :, ::-1]


@pytest.mark.parametrize("make", [trunk, oblique, flipped])
@pytest.mark.parametrize("file", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_any_orientation_keeps_its_geometry_as_itk_reads_it(tmp_path, make, file):
    path = saved(make(), tmp_path / file)
    volume = read_volume(path)
    assert same_geometry(volume.image, sitk.ReadImage(str(path)), 1e-4)
    assert np.array_equal(voxels(volume.image), voxels(make()))


def nifti(path: Path, image: sitk.Image | None = None, **fields: tuple[str, tuple]) -> Path:
    """The trunk as .nii with header fields overwritten: ``at<offset>=(struct format, values)``."""
    data = bytearray(saved(image or trunk(), path).read_bytes())
    for place, (form, values) in fields.items():
        struct.pack_into("<" + form, data, int(place.removeprefix("at")), *values)
    path.write_bytes(data)
    return path


def test_sheared_sform_is_resampled_to_orthogonal_axes(tmp_path):
    sform = (-2.5, 0, 0.8, 40, 0, -2.0, 0, 30, 0, 0, 4.0, 105)
    volume = read_volume(nifti(tmp_path / "a.nii", at252=("hh", (0, 1)), at280=("12f", sform)))
    axes = np.reshape(volume.image.GetDirection(), (3, 3))
    assert codes(volume) == ["gantry_tilt"]
    assert np.allclose(axes.T @ axes, np.eye(3))
    # the spine of the last slice lies 11 * 0.8 mm further to the right than its index says
    x, y, z = ORIGIN[0] + 18 * SPACING[0] - 11 * 0.8, ORIGIN[1] + 20 * SPACING[1], ORIGIN[2] + 11 * SPACING[2]
    here = volume.image.TransformPhysicalPointToIndex((x, y, z))
    assert volume.image[here] == pytest.approx(trunk_array()[11, 20, 18], abs=2)


def test_doubtful_nifti_geometry_is_told(tmp_path):
    moved = (-2.5, 0, 0, 60, 0, -2.0, 0, 30, 0, 0, 4.0, 105)
    assert codes(read_volume(nifti(tmp_path / "a.nii", at280=("12f", moved)))) == ["geometry_doubtful"]
    assert codes(read_volume(nifti(tmp_path / "b.nii", at252=("hh", (0, 0))))) == ["orientation_unknown"]


def test_nifti_units_scaling_and_byte_order(tmp_path):
    nib = pytest.importorskip("nibabel")
    array, affine = trunk_array().transpose(2, 1, 0), np.diag([-0.0025, -0.002, 0.004, 1])
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "metres.nii.gz")
    assert read_volume(tmp_path / "metres.nii.gz").image.GetSpacing() == pytest.approx(SPACING)
    big = nib.Nifti1Image((array + 1024) // 2 * 2, np.diag([-2.5, -2, 4, 1]), nib.Nifti1Header(endianness=">"))
    big.header.set_slope_inter(1.0, -1024.0)
    big.to_filename(tmp_path / "big.nii")
    data = bytearray((tmp_path / "big.nii").read_bytes())
    struct.pack_into(">2f", data, 112, 1.0, -1024.0)
    (tmp_path / "big.nii").write_bytes(data)
    assert np.array_equal(voxels(read_volume(tmp_path / "big.nii").image), (trunk_array() + 1024) // 2 * 2 - 1024)
    nib.save(nib.Nifti2Image(array, np.diag([-2.5, -2, 4, 1])), tmp_path / "two.nii")
    assert np.array_equal(voxels(read_volume(tmp_path / "two.nii").image), trunk_array())


def text_file(path: Path) -> Path:
    path.write_text("These are the notes of a study.\n" * 50)
    return path


def cut(path: Path, share: float, compress: bool = False) -> Path:
    """The trunk's file, ending too early."""
    data = saved(trunk(), path, compress).read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def altered_gzip(path: Path, from_end: int) -> Path:
    data = bytearray(saved(trunk(), path).read_bytes())
    data[-from_end] ^= 0xFF
    path.write_bytes(data)
    return path


def header_only(path: Path, text: str) -> Path:
    path.write_bytes(text.encode() + b"\n\n" + bytes(2 * 36 * 28 * 12))
    return path


def nrrd(path: Path, directions: str, sizes: str = "36 28 12") -> Path:
    fields = ["NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", f"sizes: {sizes}"]
    fields += [f"space directions: {directions}", "kinds: domain domain domain", "endian: little", "encoding: raw"]
    return header_only(path, "\n".join([*fields, "space origin: (0,0,0)"]))


def metaimage(path: Path, spacing: str = "2.5 2 4", matrix: str = "1 0 0 0 1 0 0 0 1") -> Path:
    fields = ["ObjectType = Image", "NDims = 3", "BinaryData = True", f"TransformMatrix = {matrix}", "Offset = 0 0 0"]
    fields += [f"ElementSpacing = {spacing}", "DimSize = 36 28 12", "ElementType = MET_SHORT"]
    fields += ["ElementDataFile = LOCAL"]
    path.write_bytes("\n".join(fields).encode() + b"\n" + trunk_array().tobytes())
    return path


def lonely_header(path: Path) -> Path:
    saved(trunk(), path)
    path.with_suffix(".raw").unlink()
    return path


def folder_with(path: Path, *writers: Callable[[Path], Path]) -> Path:
    path.mkdir()
    for number, write in enumerate(writers):
        write(path / f"{number}.txt")
    return path


def empty_file(path: Path) -> Path:
    path.touch()
    return path


def complex_nifti(path: Path) -> Path:
    return saved(sitk.Cast(sitk.Cast(trunk(), sitk.sitkFloat32), sitk.sitkComplexFloat32), path)


def mostly_nan(path: Path) -> Path:
    array = trunk_array().astype(np.float32)
    array[:8] = np.nan
    return array_file(path, array)


def windowed(kind: type, top: float) -> np.ndarray:
    return np.clip((trunk_array() + 160.0) / 400 * top, 0, top).astype(kind)


def magnetic() -> np.ndarray:
    """Like an MR: dark background, tissues of all intensities, nothing below zero."""
    noise = np.random.default_rng(3)
    body = trunk_array() > -500
    return np.where(body, noise.gamma(4, 120, body.shape), noise.gamma(2, 8, body.shape)).astype(np.int16)


def bright_magnetic() -> np.ndarray:
    """An MR whose bright tissue lies where soft tissue lies in a CT stored with an offset of 1024."""
    noise = np.random.default_rng(5)
    values = noise.normal(1000, 60, (12, 28, 36))
    values[:, :16] = noise.normal(420, 30, (12, 16, 36))  # dark tissue, where a CT has hardly anything
    values[:, :, :6] = noise.uniform(0, 40, (12, 28, 6))
    return values.astype(np.int16)


def emission() -> np.ndarray:
    """Like a PET in Bq/ml: mostly small values and a few hot spots."""
    values = np.random.default_rng(4).gamma(0.6, 900, (12, 28, 36))
    values[5:7, 10:14, 12:16] *= 40
    return values.astype(np.float32)


NAN = float("nan")
BAD = {
    "missing": ("no.nii.gz", lambda p: p, "does not exist"),
    "empty file": ("e.nii.gz", empty_file, "is empty"),
    "empty folder": ("folder", folder_with, "no DICOM"),
    "folder of text": ("folder", lambda p: folder_with(p, text_file, text_file), "no DICOM"),
    "folder with a volume": ("folder", lambda p: saved(trunk(), folder_with(p) / "a.nrrd").parent, "without DICOM"),
    "unsupported ending": ("a.xlsx", text_file, "not supported"),
    "text named nii.gz": ("a.nii.gz", text_file, "is not a NIfTI file"),
    "text named nrrd": ("a.nrrd", text_file, "not a readable NRRD"),
    "text named mha": ("a.mha", text_file, "not a readable MetaImage"),
    "text named dcm": ("a.dcm", text_file, "not a readable DICOM"),
    "truncated nii": ("a.nii", lambda p: cut(p, 0.7), "incomplete: it holds 70%"),
    "truncated nii.gz": ("a.nii.gz", lambda p: cut(p, 0.7), "incomplete"),
    "nii of a header": ("a.nii", lambda p: cut(p, 0.005), "is not a NIfTI file"),
    "altered nii.gz": ("a.nii.gz", lambda p: altered_gzip(p, 400), "damaged"),
    "wrong check sum": ("a.nii.gz", lambda p: altered_gzip(p, 6), "damaged"),
    "truncated nrrd": ("a.nrrd", lambda p: cut(p, 0.7), "incomplete"),
    "truncated compressed nrrd": ("a.nrrd", lambda p: cut(p, 0.7, True), "incomplete"),
    "truncated mha": ("a.mha", lambda p: cut(p, 0.7), "incomplete"),
    "truncated compressed mha": ("a.mha", lambda p: cut(p, 0.7, True), "incomplete"),
    "mhd without raw": ("a.mhd", lonely_header, "may be missing"),
    "2-D nifti": ("a.nii", lambda p: array_file(p, trunk_array()[0]), "2-D"),
    "2-D nrrd": ("a.nrrd", lambda p: array_file(p, trunk_array()[0]), "2-D"),
    "one slice": ("a.nii.gz", lambda p: array_file(p, trunk_array()[:1]), "2-D"),
    "two slices": ("a.mha", lambda p: array_file(p, trunk_array()[:2]), "fewer than 3 slices"),
    "4-D nifti": ("a.nii.gz", lambda p: saved(sitk.JoinSeries([trunk()] * 3), p), "4 dimensions"),
    "4-D mha": ("a.mha", lambda p: saved(sitk.JoinSeries([trunk()] * 3), p), "4 dimensions"),
    "RGB nifti": ("a.nii", lambda p: array_file(p, np.zeros((5, 6, 7, 3), np.uint8), True), "color|dimensions"),
    "RGB nrrd": ("a.nrrd", lambda p: array_file(p, np.zeros((5, 6, 7, 3), np.uint8), True), "3 values"),
    "vector mha": ("a.mha", lambda p: array_file(p, np.zeros((5, 6, 7, 2), np.float32), True), "2 values"),
    "complex": ("a.nii", complex_nifti, "complex"),
    "zero spacing nifti": ("a.nii", lambda p: nifti(p, at80=("f", (0,))), "voxel size"),
    "negative spacing nifti": ("a.nii", lambda p: nifti(p, at84=("f", (-2,))), "voxel size"),
    "NaN spacing nifti": ("a.nii", lambda p: nifti(p, at88=("f", (NAN,))), "voxel size"),
    "zero spacing nrrd": ("a.nrrd", lambda p: nrrd(p, "(2,0,0) (0,0,0) (0,0,4)"), "voxel size"),
    "zero spacing mha": ("a.mha", lambda p: metaimage(p, "2 0 4"), "voxel size"),
    "negative spacing mha": ("a.mha", lambda p: metaimage(p, "2 -2 4"), "voxel size"),
    "spacing of metres": ("a.mha", lambda p: metaimage(p, "2000 2000 4000"), "no CT of a person"),
    "singular nifti": (
        "a.nii",
        lambda p: nifti(p, at252=("hh", (0, 1)), at280=("12f", (-2, 0, 0, 0, 0, -2, -4, 0, 0, 0, 0, 0))),
        "singular",
    ),
    "singular nrrd": ("a.nrrd", lambda p: nrrd(p, "(2,0,0) (0,2,0) (0,2,0)"), "singular"),
    "long axis, mha": ("a.mha", lambda p: metaimage(p, matrix="1 0 0 0 255 0 0 0 1"), "lengths 1, 255, 1"),
    "singular mha": ("a.mha", lambda p: metaimage(p, matrix="1 0 0 0 1 0 0 1 0"), "singular"),
    "too many voxels": ("a.nrrd", lambda p: nrrd(p, "(1,0,0) (0,1,0) (0,0,1)", "9000 9000 9000"), "too large"),
    "mostly NaN": ("a.nrrd", mostly_nan, "NaN"),
    "constant": ("a.nrrd", lambda p: array_file(p, np.zeros((5, 9, 9), np.int16)), "all its voxels are 0"),
    "8-bit picture": ("a.nrrd", lambda p: array_file(p, windowed(np.uint8, 255)), "not in Hounsfield units"),
    "0..1 picture": ("a.nii.gz", lambda p: array_file(p, windowed(np.float32, 1)), "not in Hounsfield units"),
    "MR": ("a.nii.gz", lambda p: array_file(p, magnetic()), "does not look like a CT"),
    "bright MR": ("a.nii.gz", lambda p: array_file(p, bright_magnetic()), "does not look like a CT"),
    "bright MR less 1024": ("a.nii.gz", lambda p: array_file(p, bright_magnetic() - 1024), "look like a CT"),
    "PET": ("a.nrrd", lambda p: array_file(p, emission()), "does not look like a CT"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_ends_with_one_sentence(tmp_path, capfd, kind):
    file, write, words = BAD[kind]
    path = write(tmp_path / file)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(path)
    assert file in caught.value.message
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message
    assert caught.value.advice.endswith(".")
    printed = capfd.readouterr()
    assert printed.err == "" and printed.out == "", "C++ libraries must not talk to the person"


def test_metaimage_written_by_hand_is_read(tmp_path):
    """The table's bad MetaImage files differ from this good one by one field only."""
    assert np.array_equal(voxels(read_volume(metaimage(tmp_path / "a.mha")).image), trunk_array())


def test_files_without_permission(tmp_path, monkeypatch):
    path = saved(trunk(), tmp_path / "a.nii.gz")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="permission"):
        read_volume(path)


def test_a_volume_larger_than_memory_is_refused(tmp_path, monkeypatch):
    class Memory:
        available = 10_000

    monkeypatch.setattr("bpr.volume.checks.psutil.virtual_memory", Memory)
    with pytest.raises(MemoryShortage, match="GB"):
        read_volume(saved(trunk(), tmp_path / "a.nrrd"))


def test_a_fourth_axis_of_one_is_no_obstacle(tmp_path):
    for file in ("a.nii.gz", "a.mha"):
        volume = read_volume(saved(sitk.JoinSeries([trunk()]), tmp_path / file))
        assert same_geometry(volume.image, trunk(), 1e-3)


def test_gzip_in_several_members_and_bare_nifti_named_gz(tmp_path):
    data = saved(trunk(), tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(b"".join(gzip.compress(data[i : i + 5000]) for i in range(0, len(data), 5000)))
    (tmp_path / "c.nii.gz").write_bytes(data)
    for file in ("b.nii.gz", "c.nii.gz"):
        assert np.array_equal(voxels(read_volume(tmp_path / file).image), trunk_array())


@pytest.mark.parametrize("kind", [np.int32, np.float32, np.float64, np.int64])
def test_whole_numbers_become_int16(tmp_path, kind):
    volume = read_volume(array_file(tmp_path / "a.nii", trunk_array().astype(kind)))
    assert volume.image.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(voxels(volume.image), trunk_array())


def test_fractions_stay_and_extremes_are_clipped(tmp_path):
    array = trunk_array().astype(np.float64) + 0.25
    array[0, 0, 0] = 1e9
    volume = read_volume(array_file(tmp_path / "a.nrrd", array))
    assert volume.image.GetPixelID() == sitk.sitkFloat32
    assert voxels(volume.image).max() == 32767
    assert voxels(volume.image)[3, 3, 3] == array[3, 3, 3]


def test_what_is_no_ct_keeps_its_values(tmp_path):
    """An MR may be brighter than any CT, has no air, and is read only where its modality is asked for."""
    bright = trunk_array().astype(np.int64) * 20 + 30000
    series = write_series(tmp_path / "mr", bright, Modality="MR", RescaleIntercept=0)
    volume = read_volume(series, "MR")
    assert bright.max() > 32767 and np.array_equal(voxels(volume.image), bright) and volume.notices == []
    holes = bright.astype(np.float32)
    holes[2, 3:5, 4] = np.nan
    volume = read_volume(array_file(tmp_path / "a.nii.gz", holes), "MR")
    assert codes(volume) == ["nan_replaced"] and voxels(volume.image).min() == bright.min()
    with pytest.raises(InputError, match="mr holds no CT but MR"):
        read_volume(series)


def test_nan_and_infinity_become_air(tmp_path):
    array = trunk_array().astype(np.float32)
    array[2, 3:5, 4], array[3, 3, 3] = np.nan, np.inf
    volume = read_volume(array_file(tmp_path / "a.nii.gz", array))
    assert codes(volume) == ["nan_replaced"]
    assert "3 voxels" in volume.notices[0].message
    assert voxels(volume.image)[2, 3, 4] == voxels(volume.image)[3, 3, 3] == -1024


def test_real_scan_reads_as_itk_reads_it(shared_data):
    for name in ("totalseg_s0002", "elastix_base"):  # one of them is oblique
        path = shared_data / "ct" / f"{name}.nii.gz"
        reference = sitk.ReadImage(str(path))
        volume = read_volume(path)
        assert same_geometry(volume.image, reference)
        assert np.array_equal(voxels(volume.image), voxels(reference))
        assert volume.name == name


def test_axes_that_are_sheared_into_one_another_are_refused(tmp_path):
    """A determinant of one is not enough: one axis of length 255 lies along another."""
    path = saved(trunk(), tmp_path / "a.mha")
    header, voxels_after = path.read_bytes().split(b"ElementDataFile", 1)
    header = header.replace(b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 255 1 0 0 0 1")
    path.write_bytes(header + b"ElementDataFile" + voxels_after)
    with pytest.raises(InputError, match="do not span space"):
        read_volume(path)


@pytest.mark.parametrize(
    "spacing, said", [((2.0, 2.0, 5.0), []), ((4.0, 2.0, 5.0), []), ((9.0, 2.0, 5.0), ["uneven_pixels"])]
)
def test_pixels_that_no_scanner_makes_are_remarked_on(tmp_path, spacing, said):
    image = trunk()
    image.SetSpacing(spacing)
    assert codes(read_volume(saved(image, tmp_path / "a.nrrd"))) == said
    reformatted = sitk.PermuteAxes(image, (0, 2, 1))
    assert codes(read_volume(saved(reformatted, tmp_path / "b.nrrd"))) == said
