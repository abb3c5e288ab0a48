"""From overlapping regions' probabilities to one field, and from that to labels on the input's own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from bpr.segmentation.cleanup import kept_parts
from bpr.segmentation.labels import structure_by_value

SLAB_VOXELS = 8_000_000  # voxels of the input grid that are resampled at a time: bounds the memory


@dataclass
class ProbabilityField:
    """Weighted sums of structure probabilities on the networks' grid.

    ``sums`` (structures, z, y, x) half precision; ``weights`` (structures, z): regions end at heights only, so a
    weight per slice is enough. ``values`` are the label values of the first axis.
    """

    values: list[int]
    sums: np.ndarray
    weights: np.ndarray

    @classmethod
    def empty(cls, values: list[int], shape: tuple[int, int, int]) -> ProbabilityField:
        """A field without any evidence."""
        return cls(values, np.zeros((len(values), *shape), np.float16), np.zeros((len(values), shape[0]), np.float32))

    def add(self, probability: np.ndarray, classes: list[int], first: int, weight: np.ndarray) -> None:
        """Add a region's result.

        Args:
            probability: (1 + classes, z, y, x) with the background first.
            classes: label values of its channels after the background.
            first: slice of the field where the region starts.
            weight: (z,) trust by the distance to the region's border.
        """
        box = slice(first, first + probability.shape[1])
        for channel, value in enumerate(classes, 1):
            if value in self.values:
                k = self.values.index(value)
                self.sums[k, box] += (probability[channel] * weight[:, None, None]).astype(np.float16)
                self.weights[k, box] += weight

    def limit(self, value: int, first: int, last: int) -> None:
        """Keep a structure inside the slices [first, last)."""
        k = self.values.index(value)
        self.sums[k, : max(first, 0)] = 0
        self.sums[k, max(last, 0) :] = 0

    def probability(self, k: int) -> np.ndarray:
        """(z, y, x) float32 probability of the k-th structure; zero where no region speaks of it."""
        weight = np.where(self.weights[k] > 0, self.weights[k], 1)[:, None, None]
        return self.sums[k].astype(np.float32) / weight

    def background(self) -> np.ndarray:
        """What the structures leave, at least zero."""
        rest = np.ones(self.sums.shape[1:], np.float32)
        for k in range(len(self.values)):
            rest -= self.probability(k)
        return np.maximum(rest, 0)


def border_weight(count: int, step_mm: float, fade_mm: float = 40.0) -> np.ndarray:
    """(count,) trust of a region's slices: grows from its ends over ``fade_mm``, never zero."""
    distance = (np.minimum(np.arange(count), np.arange(count)[::-1]) + 0.5) * step_mm
    return np.clip(distance / fade_mm, 0.05, 1.0).astype(np.float32)


def clean_field(field: ProbabilityField, voxel_ml: float) -> tuple[np.ndarray, dict[int, float]]:
    """Remove components that the label table's rules drop; returns the grid's labels and a doubt per label value.

    The doubt is the mean share of probability that the structure's voxels give to something else, 0 (sure) to 1.
    """
    best = field.background()
    labels = np.zeros(best.shape, np.uint8)
    for k, value in enumerate(field.values):
        probability = field.probability(k)
        wins = probability > best
        labels[wins], best[wins] = value, probability[wins]
    doubts = {}
    for k, value in enumerate(field.values):
        mask = labels == value
        if not mask.any():
            continue
        kept = kept_parts(mask, structure_by_value(value).cleanup, voxel_ml)
        dropped = ndimage.binary_dilation(mask & ~kept, iterations=2) & ~ndimage.binary_dilation(kept, iterations=1)
        field.sums[k][dropped] = 0
        labels[mask & ~kept] = 0
        doubts[value] = float(1 - best[kept].mean())
    return labels, doubts


def labels_on(
    image: sitk.Image,
    grid: sitk.Image,
    field: ProbabilityField,
    wanted: list[int],
    advance: Callable[[], None] = lambda: None,
) -> sitk.Image:
    """Resample probabilities (not labels) to the image's grid and take the most probable structure there.

    Every structure is resampled inside its own bounding box only. Works for any orientation of the image.

    Args:
        grid: an image with the geometry of the field.
        wanted: label values that may appear in the result; the others still compete.
        advance: called after each structure and slab; may raise to cancel.
    """
    shape = image.GetSize()[::-1]
    labels = np.zeros(shape, np.uint8)
    quantized = [_quantize(field.background(), grid)]
    quantized += [_quantize(field.probability(k), grid) for k in range(len(field.values))]
    boxes = [_box_on(image, grid, q) for q in quantized[1:]]
    depth = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], depth):
        stop = min(start + depth, shape[0])
        touching = [k for k, box in enumerate(boxes) if box and box[0][2] < stop and box[1][2] > start]
        if touching:
            labels[start:stop] = _slab(image, quantized, boxes, touching, field.values, start, stop)
        advance()
    keep = np.zeros(256, np.uint8)
    keep[wanted] = wanted
    result = sitk.GetImageFromArray(keep[labels])
    result.CopyInformation(image)
    return result


def _slab(image, quantized, boxes, touching, values, start, stop) -> np.ndarray:
    """Labels of the image's slices start..stop."""
    size = image.GetSize()
    best = sitk.GetArrayFromImage(_resample(quantized[0], image, (0, 0, start), (size[0], size[1], stop - start)))
    labels = np.zeros(best.shape, np.uint8)
    for k in touching:
        (i0, j0, k0), (i1, j1, k1) = boxes[k]
        low, high = max(k0, start), min(k1, stop)
        part = sitk.GetArrayFromImage(_resample(quantized[k + 1], image, (i0, j0, low), (i1 - i0, j1 - j0, high - low)))
        view = (slice(low - start, high - start), slice(j0, j1), slice(i0, i1))
        wins = part > best[view]
        labels[view][wins] = values[k]
        best[view][wins] = part[wins]
    return labels


def _quantize(probability: np.ndarray, grid: sitk.Image) -> sitk.Image:
    """Probability 0..1 as an 8-bit image with the grid's geometry."""
    image = sitk.GetImageFromArray(np.round(probability * 255).astype(np.uint8))
    image.CopyInformation(grid)
    return image


def _box_on(image: sitk.Image, grid: sitk.Image, probability: sitk.Image):
    """First and past-the-last index (i, j, k) on the image that a structure can reach; None when it has no voxel."""
    found = np.argwhere(sitk.GetArrayViewFromImage(probability) > 12)
    if len(found) == 0:
        return None
    low, high = found.min(0)[::-1] - 1.0, found.max(0)[::-1] + 1.0
    corners = [[(low, high)[b >> axis & 1][axis] for axis in range(3)] for b in range(8)]
    points = [grid.TransformContinuousIndexToPhysicalPoint([float(c) for c in corner]) for corner in corners]
    index = np.array([image.TransformPhysicalPointToContinuousIndex(point) for point in points])
    first = np.maximum(np.floor(index.min(0)).astype(int), 0)
    last = np.minimum(np.ceil(index.max(0)).astype(int) + 1, image.GetSize())
    return (tuple(map(int, first)), tuple(map(int, last))) if (first < last).all() else None


def _resample(source: sitk.Image, image: sitk.Image, start, size) -> sitk.Image:
    """Linear interpolation of a grid image at a block of the input's voxels."""
    origin = image.TransformIndexToPhysicalPoint([int(v) for v in start])
    return sitk.Resample(source, [int(v) for v in size], sitk.Transform(), sitk.sitkLinear, origin,
                         image.GetSpacing(), image.GetDirection(), 0, sitk.sitkUInt8)  # fmt: skip
