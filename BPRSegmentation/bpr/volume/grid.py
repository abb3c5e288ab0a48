"""The grid that networks see: along the patient's axes, at a given voxel size, whatever the scan's own axes are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import SimpleITK as sitk

from bpr.volume.geometry import AIR, bounds, corners, direction_matrix, resample

# Tilt of the axes that counts as none: what it shifts along the volume, as a share of a target voxel.
_ALIGNED_WITHIN = 0.1
_ANTI_ALIAS = 0.4
_SLICES_AT_ONCE = 4
_BAND = 32  # rows of a weight matrix that are applied together


def canonical(image: sitk.Image, spacing_mm: Sequence[float], fill: float = AIR) -> sitk.Image:
    """Resample to a grid along the patient's axes that covers the image, as an image; see ``canonical_array``."""
    array, origin = canonical_array(image, spacing_mm, fill)
    result = sitk.GetImageFromArray(array)
    result.SetSpacing([float(value) for value in spacing_mm])
    result.SetOrigin(origin.tolist())
    return result


def canonical_array(
    image: sitk.Image, spacing_mm: Sequence[float], fill: float = AIR, limits: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Resample to a grid along the patient's axes that covers the image.

    The grid has the identity as direction and is centered on the image's bounding box. For a scan along the patient's
    axes the result does not depend on the order or direction in which its axes are stored. Axes that shrink are
    smoothed with a Gaussian first (sigma 0.4 * sqrt(target^2 - source^2)), against aliasing.

    Args:
        image: 3-D scalar image of any direction matrix.
        spacing_mm: target voxel size along x, y, z.
        fill: value outside the input, which only an oblique image shows.
        limits: to which the values are cut; they become int16 then, which needs half the memory.

    Returns:
        (z towards superior, y towards posterior, x towards left) array, float32 or int16, and its origin (3,), LPS mm.
    """
    target = np.asarray(spacing_mm, float)
    direction, stored_extent = direction_matrix(image), np.array(image.GetSize()) * image.GetSpacing()
    order, signs = _nearest_axes(direction)
    straight = np.zeros((3, 3))
    straight[range(3), order] = signs
    aligned = np.all(np.abs(direction - straight) @ stored_extent <= _ALIGNED_WITHIN * target)
    low, high = bounds(corners(image, outer=True))
    extent = stored_extent[order] if aligned else high - low
    size = np.maximum(1, np.ceil(extent / target - 1e-3)).astype(int)
    origin = (low + high) / 2 - (size - 1) / 2 * target
    if not aligned:
        array = sitk.GetArrayFromImage(resample(_shrunk(image, target), size, target, origin, np.eye(3), fill))
        return (array if limits is None else _cut(array, limits)), origin
    weights = [np.empty(0)] * 3
    for world, stored in enumerate(order):
        count, step = image.GetSize()[stored], image.GetSpacing()[stored]
        offsets = (np.arange(size[world]) - (size[world] - 1) / 2) * target[world]
        places = signs[world] * offsets / step + (count - 1) / 2
        weights[stored] = _weights(places, count, _sigma(step, target[world]) / step)
    array = _weighted(sitk.GetArrayViewFromImage(image), weights, limits)
    # numpy has the stored axes in reverse order
    return np.ascontiguousarray(array.transpose([2 - order[world] for world in (2, 1, 0)])), origin


def _cut(array: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    return np.clip(array, *limits).astype(np.int16)


def _nearest_axes(direction: np.ndarray) -> tuple[list[int], np.ndarray]:
    """For each world axis the stored axis closest to it, and whether it runs along (1) or against it (-1)."""
    fit = {p: sum(abs(direction[world, p[world]]) for world in range(3)) for p in itertools.permutations(range(3))}
    order = list(max(fit, key=fit.get))
    return order, np.sign(direction[range(3), order])


def _shrunk(image: sitk.Image, target: np.ndarray) -> sitk.Image:
    """The image smoothed for ``target`` and thinned out along its own axes, to half the target's voxel at most."""
    spacing = np.array(image.GetSpacing())
    wanted = np.linalg.norm(direction_matrix(image) * target[:, None], axis=0)
    thinned = np.maximum(spacing, wanted / 2)
    weights, first = [], []
    for count, step, new_step, goal in zip(image.GetSize(), spacing, thinned, wanted, strict=True):
        new_count = math.ceil((count - 1) * step / new_step - 1e-6) + 1
        places = (np.arange(new_count) - (new_count - 1) / 2) * new_step / step + (count - 1) / 2
        weights.append(_weights(places, count, _sigma(step, goal) / step))
        first.append(float(places[0]))
    result = sitk.GetImageFromArray(_weighted(sitk.GetArrayViewFromImage(image), weights))
    result.SetSpacing(thinned.tolist())
    result.SetDirection(image.GetDirection())
    result.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first))
    return result


def _sigma(step: float, target: float) -> float:
    """Standard deviation in mm of the smoothing before voxels of ``step`` mm become voxels of ``target`` mm."""
    return _ANTI_ALIAS * math.sqrt(target**2 - step**2) if target > 1.05 * step else 0.0


def _weights(places: np.ndarray, count: int, sigma: float) -> np.ndarray:
    """Weights of ``count`` samples in values read at ``places`` (in index units); shape (len(places), count).

    The kernel is linear interpolation's triangle convolved with a Gaussian of ``sigma`` samples: the second difference
    of the Gaussian's second integral. Near the ends the weights inside count alone.
    """
    places = np.clip(places, -0.5, count - 0.5)
    distance = places[:, None] - np.arange(-1, count + 1)
    if sigma > 0:
        scaled = distance / sigma
        below = 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(scaled / math.sqrt(2)))
        integral = distance * below + sigma / math.sqrt(2 * math.pi) * np.exp(-0.5 * scaled**2)
    else:
        integral = np.maximum(distance, 0)
    weights = integral[:, 2:] - 2 * integral[:, 1:-1] + integral[:, :-2]
    weights[np.abs(weights) < 1e-6] = 0
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _weighted(array: np.ndarray, weights: Sequence[np.ndarray], limits: tuple[int, int] | None = None) -> np.ndarray:
    """Apply one weight matrix along each index axis (i, j, k) of an array (k, j, i); int16 within ``limits`` if given.

    Few slices at a time, so that they stay in the processor's cache, and of each matrix the bands that hold weights.
    """
    along_i, along_j, along_k = weights
    bands_i, bands_j = list(_bands(along_i)), list(_bands(along_j))
    planes = np.empty((len(array), len(along_j), len(along_i)), np.float32)
    for start in range(0, len(array), _SLICES_AT_ONCE):
        block = array[start : start + _SLICES_AT_ONCE].astype(np.float32)
        rows = np.empty((len(block) * block.shape[1], len(along_i)), np.float32)
        for to, source in bands_i:
            rows[:, to] = block.reshape(-1, block.shape[2])[:, source] @ along_i[to, source].T
        rows = rows.reshape(*block.shape[:2], -1)
        for to, source in bands_j:
            planes[start : start + len(block), to] = along_j[to, source] @ rows[:, source]
    result = np.empty((len(along_k), *planes.shape[1:]), np.float32 if limits is None else np.int16)
    for to, source in _bands(along_k):
        part = (along_k[to, source] @ planes[source].reshape(source.stop - source.start, -1)).reshape(
            -1, *planes.shape[1:]
        )
        result[to] = part if limits is None else _cut(part, limits)
    return result


def _bands(weights: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows of a banded matrix with the columns that hold their weights."""
    for first in range(0, len(weights), _BAND):
        rows = slice(first, min(first + _BAND, len(weights)))
        columns = np.flatnonzero(weights[rows].any(0))
        yield rows, slice(int(columns[0]), int(columns[-1]) + 1)
