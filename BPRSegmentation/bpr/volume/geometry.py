"""Geometry of a scan: which axis is superior-inferior, where slices and corners lie, orthogonal axes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

AIR = -1024.0


def slice_axis(image: sitk.Image) -> int:
    """Index axis (0, 1 or 2) whose direction is closest to superior-inferior."""
    return int(np.argmax(np.abs(direction_matrix(image)[2])))


def slice_heights(image: sitk.Image) -> np.ndarray:
    """RAS superior coordinate in mm of the center of each slice along ``slice_axis``, in index order; shape (n,)."""
    axis = slice_axis(image)
    index = (np.array(image.GetSize()) - 1) / 2
    center = image.TransformContinuousIndexToPhysicalPoint(index.tolist())[2]
    step = direction_matrix(image)[2, axis] * image.GetSpacing()[axis]
    return center + (np.arange(image.GetSize()[axis]) - index[axis]) * step


def same_geometry(a: sitk.Image, b: sitk.Image, tolerance_mm: float = 1e-4) -> bool:
    """Whether two images have the same size and put each corner voxel at the same place, within ``tolerance_mm``."""
    if a.GetSize() != b.GetSize():
        return False
    return bool(np.abs(corners(a) - corners(b)).max() <= tolerance_mm)


def corners(image: sitk.Image, outer: bool = False) -> np.ndarray:
    """LPS mm of the eight corner voxels' centers, or of the volume's outer corners; shape (8, 3)."""
    margin = 0.5 if outer else 0.0
    ends = [(-margin, n - 1 + margin) for n in image.GetSize()]
    index = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    steps = direction_matrix(image) * image.GetSpacing()
    return index @ steps.T + image.GetOrigin()


def is_orthogonal(matrix: np.ndarray, tolerance: float = 1e-3) -> bool:
    """Whether the first three columns are at right angles, up to ``tolerance`` in the cosine."""
    norms = np.linalg.norm(matrix[:, :3], axis=0)
    if not np.isfinite(norms).all() or norms.min() == 0:
        return False
    axes = matrix[:, :3] / norms
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < tolerance)


def orthogonalize(image: sitk.Image, fill: float = AIR) -> sitk.Image:
    """Resample a sheared image (gantry tilt) onto orthogonal axes that cover it, linearly.

    The first axis and the plane of the first two stay; so slices remain in their planes, and only their rows and
    columns move. Pixel type and spacing within the plane stay; the slice distance becomes the distance of the planes.
    An image whose axes are at right angles already comes back as it is.
    """
    sheared = direction_matrix(image)
    if is_orthogonal(sheared):
        return image
    first = sheared[:, 0]
    normal = np.cross(first, sheared[:, 1])
    normal *= np.sign(normal @ sheared[:, 2]) / np.linalg.norm(normal)
    second = np.cross(normal, first)
    second *= np.sign(second @ sheared[:, 1])
    axes = np.stack([first, second, normal], 1)
    spacing = np.array(image.GetSpacing()) * np.abs((axes * sheared).sum(0))
    low, high = bounds(corners(image) @ axes)
    size = np.floor((high - low) / spacing + 0.5).astype(int) + 1
    return resample(image, size, spacing, axes @ low, axes, fill)


def resample(
    image: sitk.Image,
    size: np.ndarray,
    spacing: np.ndarray,
    origin: np.ndarray,
    direction: np.ndarray,
    fill: float = AIR,
) -> sitk.Image:
    """Linear interpolation onto a grid (LPS mm; ``direction`` has the axes as columns); keeps the pixel type."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in size])
    resampler.SetOutputSpacing([float(value) for value in spacing])
    resampler.SetOutputOrigin([float(value) for value in origin])
    resampler.SetOutputDirection([float(value) for value in direction.ravel()])
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(float(fill))
    return resampler.Execute(image)


def direction_matrix(image: sitk.Image) -> np.ndarray:
    """3x3 matrix whose columns are the LPS directions of the index axes."""
    return np.array(image.GetDirection()).reshape(3, 3)


def bounds(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each coordinate of (n, 3) points."""
    return points.min(0), points.max(0)
