"""From overlapping regions' probabilities to one field, cleaned by the label table's rules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bpr.segmentation.cleanup import kept_parts
from bpr.segmentation.labels import structure_by_value


@dataclass
class ProbabilityField:
    """Weighted sums of structure probabilities on the networks' grid.

    ``sums`` (structures, z, y, x) float32; ``weights`` (structures, z): regions end at heights only, so a
    weight per slice is enough. ``values`` are the label values of the first axis.
    """

    values: list[int]
    sums: np.ndarray
    weights: np.ndarray

    @classmethod
    def empty(cls, values: list[int], shape: tuple[int, int, int]) -> ProbabilityField:
        """A field without any evidence."""
        return cls(values, np.zeros((len(values), *shape), np.float32), np.zeros((len(values), shape[0]), np.float32))

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
                self.sums[k, box] += probability[channel] * weight[:, None, None]
                self.weights[k, box] += weight

    def limit(self, value: int, first: int, last: int) -> None:
        """Keep a structure inside the slices [first, last)."""
        k = self.values.index(value)
        self.sums[k, : max(first, 0)] = 0
        self.sums[k, max(last, 0) :] = 0

    def probability(self, k: int) -> np.ndarray:
        """(z, y, x) float32 probability of the k-th structure; zero where no region speaks of it."""
        weight = np.where(self.weights[k] > 0, self.weights[k], 1)[:, None, None]
        return self.sums[k] / weight

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
    boxes = ndimage.find_objects(labels)
    for k, value in enumerate(field.values):
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            continue
        # Room for what is dropped around a part: two voxels on each side.
        box = tuple(slice(max(side.start - 2, 0), side.stop + 2) for side in box)
        mask = labels[box] == value
        kept = kept_parts(mask, structure_by_value(value).cleanup, voxel_ml)
        doubts[value] = float(1 - best[box][kept].mean())
        if kept is not mask:
            lost = mask & ~kept
            dropped = ndimage.binary_dilation(lost, iterations=2) & ~ndimage.binary_dilation(kept, iterations=1)
            field.sums[k][box][dropped] = 0
            labels[box][lost] = 0
    return labels, doubts
