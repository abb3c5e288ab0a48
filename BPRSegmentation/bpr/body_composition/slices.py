"""One axial slice of a volume on its own pixels, the network's grid of 2 mm around the body, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from bpr.body_composition.tissues import INPUT_SHAPE, PIXEL_MM
from bpr.scoring.slices import body_mask
from bpr.volume import slice_axis

AIR_HU = -1024
SOLID_HU = -150
BRIDGE_MM = 15.0  # half the width of what may join the trunk and an arm
ROOM = 0.96  # share of the network's field that a body may fill; larger ones get larger pixels


@dataclass(frozen=True)
class AxialSlice:
    """One slice, rows from anterior to posterior, columns from the patient's right to left.

    Attributes:
        index: number of the slice along the volume's slice axis.
        z_mm: RAS superior height of its center, mm.
        hu: (y, x) float32.
        spacing: (y, x) mm.
        thickness_mm: distance to the next slice.
        image: the slice as an image of one slice, oriented LPS; its geometry is what labels are written with.
    """

    index: int
    z_mm: float
    hu: np.ndarray
    spacing: tuple[float, float]
    thickness_mm: float
    image: sitk.Image

    @property
    def pixel_cm2(self) -> float:
        """Area of a pixel in cm2."""
        return self.spacing[0] * self.spacing[1] / 100


def axial_slice(image: sitk.Image, index: int, z_mm: float) -> AxialSlice:
    """Cut one slice out of a volume of any orientation whose slice axis is closest to superior-inferior."""
    axis = slice_axis(image)
    start, size = [0, 0, 0], list(image.GetSize())
    start[axis], size[axis] = index, 1
    one = sitk.DICOMOrient(sitk.RegionOfInterest(image, size, start), "LPS")
    hu = sitk.GetArrayFromImage(one)[0].astype(np.float32)
    x_mm, y_mm, z_step = one.GetSpacing()
    return AxialSlice(index, z_mm, hu, (y_mm, x_mm), z_step, one)


@dataclass(frozen=True)
class NetworkGrid:
    """Where the network's pixels lie in a slice: ``start`` and ``step`` in the slice's own pixels, (y, x)."""

    start: tuple[float, float]
    step: tuple[float, float]

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column coordinates in the slice's pixels of the network's rows and columns."""
        return tuple(s + d * np.arange(n) for s, d, n in zip(self.start, self.step, INPUT_SHAPE, strict=True))


def body_of(hu: np.ndarray, pixel_mm: float) -> np.ndarray:
    """(y, x) mask of the trunk alone: arms and table parts are cut off where they touch it over less than 3 cm."""
    mask = body_mask(hu[None].astype(np.int16), pixel_mm, 10.0)[0]
    solid = mask & ndimage.binary_fill_holes(
        mask & (hu > SOLID_HU)
    )  # what coarse pixels smear between arm and trunk goes
    padded = np.pad(solid, 1, mode="edge")  # a body that the image's border cuts does not end there
    core = ndimage.distance_transform_edt(padded)[1:-1, 1:-1] * pixel_mm > BRIDGE_MM
    parts, count = ndimage.label(core)
    if count == 0:
        return mask
    trunk = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return mask & (ndimage.distance_transform_edt(~trunk) * pixel_mm <= BRIDGE_MM + 2 * pixel_mm)


def network_grid(body: np.ndarray, spacing: tuple[float, float]) -> NetworkGrid:
    """The grid centered on the body; 2 mm pixels, or larger ones for a body that would not fit."""
    rows, columns = np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))
    ends = [(rows[0], rows[-1]), (columns[0], columns[-1])] if len(rows) else [(0, n - 1) for n in body.shape]
    extent = [(high - low + 1) * mm for (low, high), mm in zip(ends, spacing, strict=True)]
    pixel = max([PIXEL_MM] + [e / (n * ROOM) for e, n in zip(extent, INPUT_SHAPE, strict=True)])
    step = [pixel / mm for mm in spacing]
    start = [(low + high) / 2 - (n - 1) / 2 * d for (low, high), n, d in zip(ends, INPUT_SHAPE, step, strict=True)]
    # Pixels of 2 mm already: stay on them, so that nothing is blurred.
    start = [round(s) if abs(d - 1) < 0.02 else s for s, d in zip(start, step, strict=True)]
    return NetworkGrid(tuple(start), tuple(step))


def onto_grid(array: np.ndarray, grid: NetworkGrid, order: int, fill: float) -> np.ndarray:
    """Read a slice's array at the network's pixels; finer pixels are smoothed first (order 1)."""
    array = np.asarray(array, np.float32)
    if order:
        sigma = [0.4 * np.sqrt(max(d**2 - 1, 0.0)) if d > 1.05 else 0.0 for d in grid.step]
        array = ndimage.gaussian_filter(array, sigma, mode="nearest") if any(sigma) else array
    rows, columns = np.meshgrid(*grid.places(), indexing="ij")
    return ndimage.map_coordinates(array, [rows, columns], order=order, mode="constant", cval=fill)


def from_grid(array: np.ndarray, grid: NetworkGrid, shape: tuple[int, int], fill: float) -> np.ndarray:
    """Read an array on the network's grid at the slice's own pixels, linearly; shape (y, x)."""
    places = [(np.arange(n) - s) / d for n, s, d in zip(shape, grid.start, grid.step, strict=True)]
    rows, columns = np.meshgrid(*places, indexing="ij")
    return ndimage.map_coordinates(np.asarray(array, np.float32), [rows, columns], order=1, mode="constant", cval=fill)
