"""From a path to a CT volume in Hounsfield units, with notices on all that was mended or left out."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from bpr.errors import InputError, Notice
from bpr.volume.checks import COPY_AGAIN, EXPORT_AGAIN, check_direction, check_size, check_spacing, plural
from bpr.volume.dicom import Frame, choose_series, files_below, other_modality, read_header, scan
from bpr.volume.geometry import slice_axis
from bpr.volume.intensity import AIR, check_hu
from bpr.volume.nifti import read_nifti
from bpr.volume.quiet import captured_stderr
from bpr.volume.stack import read_stack, straightened

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = {".nrrd": "NRRD", ".nhdr": "NRRD", ".mha": "MetaImage", ".mhd": "MetaImage"}
_KNOWN = "Choose NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd) or a folder of DICOM."
_META_HEADER_BYTES = 16384
UNEVEN = 2.5  # a longer edge over a shorter one; thick slices that were reformatted are remarked on as well
_INCOMPLETE = ("not read completely", "expected", "fread got only", "unexpected end", "Z_BUF_ERROR")


@dataclass(frozen=True)
class Volume:
    """A CT as it was given, or a scan of another modality that was asked for.

    Attributes:
        image: 3-D, int16 or float32, Hounsfield units from -1024 up (other modalities: as stored), on the input's own
            grid in SimpleITK's LPS.
        name: stem of the file or folder; nothing from inside the file, so never a patient's name.
        source: ``format`` (NIfTI, NRRD, MetaImage or DICOM), ``file`` (its name without folders), ``files`` (how
            many were read), ``size`` and ``spacing_mm`` in index order.
        notices: what was mended, guessed or left out while reading.
    """

    image: sitk.Image
    name: str
    source: dict
    notices: list[Notice] = field(default_factory=list)


def read_volume(path: str | Path, modality: str = "CT") -> Volume:
    """Read a CT from a NIfTI, NRRD or MetaImage file, a folder of DICOM, or one DICOM file and its series.

    Args:
        modality: DICOM's word for what is wanted. A CT must be in Hounsfield units; the values of others come as they
            are stored. DICOM must say this modality; other files do not tell theirs.

    Raises:
        InputError: the path is missing or unreadable, or what it holds is no CT volume in Hounsfield units; the
            message names the file and says what is wrong, the advice what to do.
    """
    path = Path(path)
    name = path.name or str(path)
    _check_path(path, name)
    try:
        form, files, image, notices = _read(path, name, modality)
    except PermissionError as error:
        raise _not_allowed(name) from error
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}).", COPY_AGAIN) from error
    image, more = _finite(image, name, modality)
    notices += more
    if modality == "CT":
        image, more = check_hu(image, name)
        notices += more
    image, more = straightened(_compact(image, clip=modality == "CT"), name, _empty(image, modality))
    notices += more + (_uneven(image) if modality == "CT" else [])
    source = {"format": form, "file": name, "files": files}
    source |= {"size": list(image.GetSize()), "spacing_mm": [round(value, 6) for value in image.GetSpacing()]}
    return Volume(image, _stem(path), source, notices)


def _empty(image: sitk.Image, modality: str) -> float:
    """What stands where nothing was measured: air, or the lowest value of what is no CT."""
    return AIR if modality == "CT" else float(sitk.GetArrayViewFromImage(image).min())


def _uneven(image: sitk.Image) -> list[Notice]:
    """A remark on pixels that are much longer than wide: scanners make square ones, so the spacing may be wrong."""
    across = [mm for axis, mm in enumerate(image.GetSpacing()) if axis != slice_axis(image)]
    if max(across) <= UNEVEN * min(across):
        return []
    text = f"Pixels of {across[0]:.3g} x {across[1]:.3g} mm are unusual for a CT: unless the scan was resampled, its "
    return [Notice("uneven_pixels", text + "spacing is wrong, and organs and areas with it.")]


def _check_path(path: Path, name: str) -> None:
    try:
        size = path.stat().st_size
    except PermissionError as error:
        raise _not_allowed(name) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} does not exist.", "Check the path; put quotes around it if it has spaces.") from error
    if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
        raise _not_allowed(name)
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{name} is neither a file nor a folder.", _KNOWN)
    if path.is_file() and size == 0:
        raise InputError(f"{name} is empty (0 bytes).", COPY_AGAIN)


def _not_allowed(name: str) -> InputError:
    return InputError(f"{name} may not be read: permission denied.", "Ask its owner for the right to read it.")


def _read(path: Path, name: str, modality: str) -> tuple[str, int, sitk.Image, list[Notice]]:
    """Format, number of files, image and notices, by what the path is."""
    lower = path.name.lower()
    if path.is_dir():
        return _read_folder(path, name, modality)
    if lower.endswith(NIFTI_SUFFIXES):
        return "NIfTI", 1, *read_nifti(path, name)
    if path.suffix.lower() in ITK_SUFFIXES:
        return ITK_SUFFIXES[path.suffix.lower()], 1, _read_by_itk(path, name), []
    header = read_header(path)
    if header is not None:
        return _read_series_of(path, name, header, modality)
    if path.suffix.lower() in (".dcm", ".ima", ".dicom"):
        raise InputError(f"{name} is not a readable DICOM file.", COPY_AGAIN)
    raise InputError(f"{name} is of a file type that is not supported.", _KNOWN)


def _read_folder(folder: Path, name: str, modality: str) -> tuple[str, int, sitk.Image, list[Notice]]:
    files = list(files_below(folder))
    content = scan(files, modality)
    volumes = [f for f in files if f.name.lower().endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES))]
    if volumes and not content.modalities:
        raise InputError(
            f"{name} is a folder without DICOM; it holds {plural(len(volumes), 'other volume file')}.",
            f"Choose one of these files itself, for example {volumes[0].name}.",
        )
    return _read_chosen(*choose_series(content, name), name, modality)


def _read_series_of(path: Path, name: str, header: Dataset, modality: str) -> tuple[str, int, sitk.Image, list[Notice]]:
    """One DICOM file stands for its series: the files beside it with the same SeriesInstanceUID."""
    found = str(header.get("Modality", "") or "unknown modality")
    if found != modality:
        raise InputError(f"{name} holds no {modality} but {found}.", other_modality(modality))
    content = scan(sorted(p for p in path.parent.iterdir() if p.is_file()), modality)
    frames, notices = choose_series(content, name, only_series=str(header.get("SeriesInstanceUID", "")))
    kept = [notice for notice in notices if notice.code == "duplicates_dropped"]  # the rest was not asked for
    return _read_chosen(frames, kept, name, modality)


def _read_chosen(
    frames: list[Frame], notices: list[Notice], name: str, modality: str
) -> tuple[str, int, sitk.Image, list[Notice]]:
    image, more = read_stack(frames, name, hounsfield=modality == "CT")
    return "DICOM", len({frame.path for frame in frames}), image, notices + more


def _read_by_itk(path: Path, name: str) -> sitk.Image:
    """NRRD and MetaImage: header first, then voxels; ITK's own words become one sentence."""
    if ITK_SUFFIXES[path.suffix.lower()] == "MetaImage":
        _check_dimensions(path, name)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    text = ""
    with captured_stderr() as printed:
        try:
            reader.ReadImageInformation()
            image = None
        except RuntimeError as error:
            text = str(error)
    if text:
        raise _itk_error(path, name, text + printed[0])
    _check_itk_header(reader, name)
    with captured_stderr() as printed:
        try:
            image = reader.Execute()
        except RuntimeError as error:
            text = str(error)
    if text or any(sign in printed[0] for sign in _INCOMPLETE):
        raise _itk_error(path, name, text + printed[0])
    while image.GetDimension() > 3:
        image = image[..., 0]
    return image


def _check_dimensions(path: Path, name: str) -> None:
    """A negative or huge number of dimensions lets ITK's MetaImage reader crash the process: look at it before."""
    with open(path, "rb") as file:
        start = file.read(_META_HEADER_BYTES)
    for stated in re.findall(rb"(?m)^\s*NDims\s*=\s*(\S+)", start):
        if stated not in (b"2", b"3", b"4"):
            raise InputError(f"{name} states an impossible number of dimensions.", EXPORT_AGAIN)


def _check_itk_header(reader: sitk.ImageFileReader, name: str) -> None:
    if reader.GetPixelIDValue() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise InputError(f"{name} holds complex numbers, not a CT in Hounsfield units.", "Choose the original CT.")
    count = reader.GetNumberOfComponents()
    if count != 1:
        raise InputError(
            f"{name} has {count} values in each voxel (a color image, a vector field or a series over time).",
            "Choose a CT with one value in each voxel.",
        )
    check_size(reader.GetSize(), 4, name)
    check_spacing(reader.GetSpacing()[:3], name)
    dimension = reader.GetDimension()
    check_direction(np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3], name)
    if not np.isfinite(reader.GetOrigin()).all():
        raise InputError(f"{name} has a position in space that is not a number.", EXPORT_AGAIN)


def _itk_error(path: Path, name: str, text: str) -> InputError:
    """What ITK's words about a file mean for the person."""
    kind = ITK_SUFFIXES[path.suffix.lower()]
    if "bad alloc" in text.lower() or "bad_alloc" in text or "allocate" in text:
        return InputError(f"{name} does not fit into memory.", "Crop it or resample it to fewer voxels.")
    if any(sign in text for sign in _INCOMPLETE):
        return InputError(f"{name} is incomplete: part of its voxels is missing.", COPY_AGAIN)
    if path.suffix.lower() in (".nhdr", ".mhd") and "Unable to determine" not in text:
        return InputError(f"{name} cannot be read; the file with its voxels may be missing.", "Copy both files again.")
    return InputError(f"{name} is not a readable {kind} file.", "Choose the CT itself, or export it again.")


def _finite(image: sitk.Image, name: str, modality: str) -> tuple[sitk.Image, list[Notice]]:
    """Replace NaN and infinity by air, in what is no CT by the lowest value, with a notice.

    Raises:
        InputError: more than half of the voxels are no numbers.
    """
    if image.GetPixelID() not in (sitk.sitkFloat32, sitk.sitkFloat64):
        return image, []
    bad = ~np.isfinite(sitk.GetArrayViewFromImage(image))
    share = float(bad.mean())
    if share == 0:
        return image, []
    if share > 0.5:
        raise InputError(f"{name} holds no numbers (NaN) in {share:.0%} of its voxels.", EXPORT_AGAIN)
    array = sitk.GetArrayFromImage(image)
    array[bad] = AIR if modality == "CT" else array[~bad].min()
    repaired = sitk.GetImageFromArray(array)
    repaired.CopyInformation(image)
    what = "air" if modality == "CT" else "the lowest value"
    text = f"{name}: {plural(int(bad.sum()), 'voxel')} without a number set to {what}."
    return repaired, [Notice("nan_replaced", text)]


def _compact(image: sitk.Image, clip: bool) -> sitk.Image:
    """int16 when all values are whole numbers that fit, else float32; clipped to int16's range or left as they are."""
    if image.GetPixelID() == sitk.sitkInt16:
        return image
    array = sitk.GetArrayViewFromImage(image)
    whole = array.dtype.kind in "iu" or all(np.array_equal(plane, np.rint(plane)) for plane in array)
    exceeds = _exceeds_int16(array)
    clipped = sitk.Clamp(image, lowerBound=-32768, upperBound=32767) if exceeds and clip else image
    return sitk.Cast(clipped, sitk.sitkInt16 if whole and (clip or not exceeds) else sitk.sitkFloat32)


def _exceeds_int16(array: np.ndarray) -> bool:
    return bool(array.max() > 32767 or array.min() < -32768)


def _stem(path: Path) -> str:
    """File name without its known endings; a folder's name as it is."""
    name = path.resolve().name if path.name in ("", ".", "..") else path.name
    if path.is_dir():
        return name
    for suffix in sorted((*NIFTI_SUFFIXES, *ITK_SUFFIXES, ".dcm", ".ima", ".dicom"), key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
