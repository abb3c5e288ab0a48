"""Small scans and files for the tests of reading: a trunk of a few thousand voxels, as a file or as DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from bpr.volume import Volume

SPACING = (2.5, 2.0, 4.0)
ORIGIN = (-40.0, -30.0, 105.0)


def trunk_array(slices: int = 12) -> np.ndarray:
    """int16 HU (slices, 28, 36): air, fat, muscle, one lung, a spine, and a marker that breaks every symmetry."""
    z, y, x = np.meshgrid(np.arange(slices), np.arange(28), np.arange(36), indexing="ij")
    body = ((x - 17.5) / 15) ** 2 + ((y - 13.5) / 11) ** 2
    hu = np.full(body.shape, -1000, np.int16)
    hu[body < 1] = -100
    hu[body < 0.75] = 50
    hu[((x - 11) ** 2 + (y - 12) ** 2 < 16) & (z > slices // 3)] = -850
    hu[(x - 18) ** 2 + (y - 20) ** 2 < 5] = 400
    hu[: slices // 3, 12:15, 22:28] = 150
    return hu + (z * 3 + x + y).astype(np.int16)


def trunk(slices: int = 12) -> sitk.Image:
    """The trunk as an image with unequal voxel sizes."""
    image = sitk.GetImageFromArray(trunk_array(slices))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    return image


def write_slice(
    path: Path, hu: np.ndarray, position: Sequence[float], series: str = "1.2.3", **tags: object
) -> Dataset:
    """Write one CT slice of (rows, columns) HU, stored unsigned with intercept -1024; ``tags`` override any field."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID = "Secret^Person", "SECRET-17"
    dataset.Modality, dataset.SeriesInstanceUID = "CT", UID(series)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns = hu.shape
    dataset.PixelSpacing = [SPACING[1], SPACING[0]]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [float(value) for value in position]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    for key, value in tags.items():
        setattr(dataset, key, value)
    stored = (hu - float(dataset.RescaleIntercept)) / float(dataset.RescaleSlope)
    dataset.PixelData = np.rint(stored).astype(np.int16 if dataset.PixelRepresentation else np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return dataset


def write_series(folder: Path, hu: np.ndarray, heights: Sequence[float] | None = None, **tags: object) -> Path:
    """Write (slices, rows, columns) HU as a series whose file names do not tell the order.

    ``heights`` is the LPS z of each slice; every 4 mm from the origin when None.
    """
    heights = ORIGIN[2] + SPACING[2] * np.arange(len(hu)) if heights is None else heights
    for number, (picture, z) in enumerate(zip(hu, heights, strict=True)):
        file = folder / f"{number * 7 % len(hu):03d}.dcm"
        write_slice(file, picture, (*ORIGIN[:2], z), InstanceNumber=number + 1, **tags)
    return folder


def saved(image: sitk.Image, path: Path, compress: bool = False) -> Path:
    """Write an image and give its path back."""
    sitk.WriteImage(image, str(path), compress)
    return path


def array_file(path: Path, array: np.ndarray, is_vector: bool = False) -> Path:
    """Write an array as an image of 1 mm voxels."""
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    return saved(image, path)


def voxels(image: sitk.Image) -> np.ndarray:
    """The image's values, (slices, rows, columns)."""
    return sitk.GetArrayFromImage(image)


def codes(volume: Volume) -> list[str]:
    """The codes of a volume's notices."""
    return [notice.code for notice in volume.notices]
