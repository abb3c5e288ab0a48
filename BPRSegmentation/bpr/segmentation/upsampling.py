"""From probabilities on the networks' grid to labels on the input's own grid, of any orientation.

Probabilities are interpolated, not labels, and the most probable structure wins. Linear interpolation mixes the corners
of a cell with one set of weights: the class that is highest at all corners is highest everywhere inside. So only voxels
in cells whose corners disagree, at the structures' borders, have to be interpolated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from bpr.segmentation.merge import ProbabilityField
from bpr.volume.geometry import direction_matrix

LEVELS = 255  # probabilities as 8-bit numbers: a quarter of the memory, and finer than anything that matters
LEAST = 12  # of LEVELS: what stays below it everywhere in a slice does not compete there
MIXED = 255
STRAIGHT_WITHIN = 0.1  # grid points by which an axis of the image may stray from the grid's over its whole length


@dataclass(frozen=True)
class Cells:
    """A grid of class values in d dimensions, and where it is clear without interpolation which class is highest.

    Attributes:
        shape: grid points along each of the d axes.
        values: (points, classes), the first class being the background.
        winner: (points,) uint8 index of the class that is highest at all corners of the cell that begins at the point,
            MIXED where the corners disagree.
    """

    shape: tuple[int, ...]
    values: np.ndarray
    winner: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Cells:
        """Cells of an array (d axes, classes) of at most 255 classes."""
        shape = values.shape[:-1]
        highest = values.argmax(-1).astype(np.uint8)
        for axis, count in enumerate(shape):
            if count > 1:
                low, high = highest.take(range(count - 1), axis), highest.take(range(1, count), axis)
                highest = np.where(low == high, low, MIXED)
        winner = np.full(shape, MIXED, np.uint8)
        winner[tuple(slice(n) for n in highest.shape)] = highest
        return cls(shape, np.ascontiguousarray(values).reshape(-1, values.shape[-1]), winner.ravel())

    def classes_at(self, places: list[np.ndarray]) -> np.ndarray:
        """The highest class at points of the grid, uint8; background (0) more than half a cell outside.

        Args:
            places: coordinates along each axis, in grid points, that can be broadcast against each other.
        """
        lows, shares, inside, strides = [], [], True, np.cumprod((1, *self.shape[:0:-1]))[::-1]
        first = 0
        for place, count, stride in zip(places, self.shape, strides, strict=True):
            inside = inside & (place >= -0.5) & (place <= count - 0.5)
            low = np.clip(np.floor(place), 0, max(count - 2, 0)).astype(np.int32)
            lows.append(low)
            shares.append(np.clip(place - low, 0, 1).astype(np.float32) if count > 1 else np.zeros_like(place))
            first = first + low * np.int32(stride)
        found = np.where(inside, self.winner.take(first), 0)
        mixed = np.flatnonzero(found == MIXED)
        if len(mixed):
            first = first.ravel()[mixed]
            shares = [np.broadcast_to(share, found.shape).ravel()[mixed] for share in shares]
            steps = [int(s) if n > 1 else 0 for s, n in zip(strides, self.shape, strict=True)]
            found.ravel()[mixed] = self._interpolated(first, shares, steps).argmax(1)
        return found

    def _interpolated(self, first: np.ndarray, shares: list[np.ndarray], steps: list[int]) -> np.ndarray:
        """(points, classes) linear interpolation in the cells that begin at ``first``."""
        total = np.zeros((len(first), self.values.shape[1]), np.float32)
        for corner in itertools.product((0, 1), repeat=len(shares)):
            weight, offset = np.ones(len(first), np.float32), 0
            for side, share, step in zip(corner, shares, steps, strict=True):
                weight *= share if side else 1 - share
                offset += side * step
            total += weight[:, None] * self.values.take(first + offset, 0)
        return total


def labels_on(
    image: sitk.Image,
    grid: sitk.Image,
    field: ProbabilityField,
    wanted: list[int],
    advance: Callable[[], None] = lambda: None,
) -> sitk.Image:
    """Label image on the image's grid: the most probable structure at each of its voxels.

    Args:
        grid: an image with the geometry of the field.
        wanted: label values that may appear in the result; the others still compete.
        advance: called after each slice; may raise to cancel.
    """
    labels = np.zeros(image.GetSize()[::-1], np.uint8)
    shown = np.array([0, *(value if value in wanted else 0 for value in field.values)], np.uint8)
    matrix, offset = _index_to_grid(image, grid)
    order = np.abs(matrix).argmax(0)
    aside = np.abs(matrix) @ image.GetSize() - np.abs(matrix).max(1) * np.array(image.GetSize())[np.argsort(order)]
    if sorted(order) == [0, 1, 2] and (aside < STRAIGHT_WITHIN).all():
        classes_of = _straight_slices(field, labels.shape, matrix, offset, order)
    else:
        classes_of = _oblique_slices(field, labels.shape, matrix, offset)

    def draw(k: int) -> None:
        labels[k] = shown[classes_of(k)]

    with ThreadPoolExecutor(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()) as pool:
        for _ in pool.map(draw, range(len(labels))):
            advance()
    result = sitk.GetImageFromArray(labels)
    result.CopyInformation(image)
    return result


def _index_to_grid(image: sitk.Image, grid: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (3, 3) and offset (3,) from indices (i, j, k) of the image to places (x, y, z) on the grid."""
    own, target = (direction_matrix(one) * one.GetSpacing() for one in (image, grid))
    inverse = np.linalg.inv(target)
    return inverse @ own, inverse @ np.subtract(image.GetOrigin(), grid.GetOrigin())


def _straight_slices(field, shape, matrix, offset, order) -> Callable[[int], np.ndarray]:
    """Classes of the k-th slice of an image whose axes run along the grid's: each slice is a plane of the grid."""
    # The array's axes k, j, i lie along these axes of the field (z, y, x), behind the one of the classes.
    axes = [2 - int(order[axis]) for axis in (2, 1, 0)]
    values = _levels(field).transpose(0, *(axis + 1 for axis in axes))
    middle = (np.array(shape[::-1]) - 1) / 2
    shift = offset + matrix @ middle
    places = []
    for count, axis in zip(shape, (2, 1, 0), strict=True):
        target = order[axis]
        places.append((shift[target] + matrix[target, axis] * (np.arange(count) - middle[axis])).astype(np.float32))
    depth = values.shape[1]

    def classes_of(k: int) -> np.ndarray:
        place = float(places[0][k])
        if not -0.5 <= place <= depth - 0.5:
            return np.zeros(shape[1:], np.uint8)
        below = int(np.clip(np.floor(place), 0, depth - 1))
        share = np.float32(np.clip(place - below, 0, 1))
        planes = values[:, below] * (1 - share) + values[:, min(below + 1, depth - 1)] * share
        rivals = np.flatnonzero(planes.max((1, 2)) > LEAST)
        rivals = rivals[rivals > 0]
        if not len(rivals):
            return np.zeros(shape[1:], np.uint8)
        rivals = np.array([0, *rivals], np.uint8)
        cells = Cells.of(planes[rivals].transpose(1, 2, 0))
        return rivals[cells.classes_at([places[1][:, None], places[2][None]])]

    return classes_of


def _oblique_slices(field, shape, matrix, offset) -> Callable[[int], np.ndarray]:
    """Classes of the k-th slice of any image."""
    cells = Cells.of(_levels(field).transpose(1, 2, 3, 0))
    j, i = (np.arange(count, dtype=np.float32) for count in shape[1:])

    def classes_of(k: int) -> np.ndarray:
        along_i, along_j, _ = matrix.T.astype(np.float32)
        start = (offset + matrix[:, 2] * k).astype(np.float32)
        return cells.classes_at([start[g] + along_j[g] * j[:, None] + along_i[g] * i for g in (2, 1, 0)])

    return classes_of


def _levels(field: ProbabilityField) -> np.ndarray:
    """(1 + structures, z, y, x) uint8: the background and the structures in LEVELS."""
    levels = np.empty((len(field.values) + 1, *field.sums.shape[1:]), np.uint8)
    rest = np.ones(levels.shape[1:], np.float32)
    for k in range(len(field.values)):
        probability = field.probability(k)
        rest -= probability
        np.rint(probability * LEVELS, out=levels[k + 1], casting="unsafe")
    np.rint(np.maximum(rest, 0) * LEVELS, out=levels[0], casting="unsafe")
    return levels
