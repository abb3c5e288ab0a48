"""Between corrected slices: the model's contours, moved as the corrections say.

Filling between slices by interpolation (Herman et al., IEEE CG&A 1992, as Slicer's "Fill between slices" does in other
words) knows only what was drawn, a model alone only what it has learned. Both are distances to a contour, so both can
be joined: distance = interpolated drawing + share * (model - interpolation of the model's own contours from the same
slices). Where nothing was wrong that is the model, where the model knows nothing it is the interpolation; the share is
what the drawn slices themselves say when each is filled in from its neighbors.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

FAR_MM = 30.0  # distances are cut there: what is far from a contour says nothing about it
FADE_MM = 25.0  # how far beyond the last corrected slice its correction reaches
NEAR_MM = 12.0  # voxels this near to a contour decide on the share


def fill_between(
    labels: np.ndarray, drawn: np.ndarray, marked: dict[int, np.ndarray], spacing: tuple[float, float, float]
) -> np.ndarray:
    """A model's labels with the organs that were corrected in some slices moved in the others.

    Args:
        labels, drawn: (slices, rows, columns) uint8 label-table values of the model and of the person.
        marked: label value to (slices,) bool: where ``drawn`` is right about it. Other values stay as they are.
        spacing: mm along the three axes.
    """
    result = labels.copy()
    result[np.isin(labels, list(marked))] = 0
    nearest = np.zeros(labels.shape, np.float16)
    for value, slices in marked.items():
        box, distance = corrected(labels == value, drawn == value, np.flatnonzero(slices), spacing)
        here = distance > nearest[box]
        result[box][here], nearest[box][here] = value, distance[here]
    return result


def corrected(
    model: np.ndarray, drawn: np.ndarray, marked: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """Signed distance to one organ's contour in every slice, from the model and from the slices that were drawn.

    Args:
        model, drawn: (slices, rows, columns) bool; ``drawn`` counts in the ``marked`` slices only.
        marked: growing indices of the slices that are right, at least one.
        spacing: mm along the three axes.

    Returns:
        The box about all voxels of the organ, and float32 mm in it, positive inside.
    """
    box = _box(model, drawn[marked], spacing)
    own = model[box]
    truth = np.stack([signed_distance(plane, spacing[1:]) for plane in drawn[marked][:, *box[1:]]])
    said = np.stack([signed_distance(plane, spacing[1:]) for plane in own[marked]])
    share, weights = model_share(said, truth, marked), _weights(np.arange(len(model)), marked)
    result = np.empty(own.shape, np.float32)
    for k, plane in enumerate(own):  # one by one: a whole CT of distances several times over would fill the memory
        near = np.flatnonzero(weights[k])
        drawing, known = (np.tensordot(weights[k, near], part[near], 1) for part in (truth, said))
        beyond = max(marked[0] - k, k - marked[-1], 0) * spacing[0]
        moved = signed_distance(plane, spacing[1:]) + (drawing - known) * max(1 - beyond / FADE_MM, 0)
        result[k] = moved if beyond else drawing + share * (moved - drawing)
    return box, result


def model_share(model: np.ndarray, truth: np.ndarray, marked: np.ndarray) -> float:
    """How much of what the model says beyond interpolation is true, 0..1; 1 with fewer than three slices.

    Every marked slice but the ends is filled in from its two neighbors, once in the drawing and once in the model; the
    share is the slope of what the drawing misses on what the model misses, near the contours.
    """
    agreement = size = 0.0
    for k in range(1, len(marked) - 1):
        weight = (marked[k] - marked[k - 1]) / (marked[k + 1] - marked[k - 1])
        filled = truth[k - 1] * (1 - weight) + truth[k + 1] * weight
        near = np.minimum(np.abs(truth[k]), np.abs(filled)) < NEAR_MM
        missed = (truth[k] - filled)[near]
        said = (model[k] - model[k - 1] * (1 - weight) - model[k + 1] * weight)[near]
        agreement, size = agreement + missed @ said, size + said @ said
    return float(np.clip(agreement / size, 0, 1)) if size else 1.0


def signed_distance(mask: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """(rows, columns) float32 mm to the mask's contour, positive inside, within +-FAR_MM; -FAR_MM without any voxel."""
    if not mask.any():
        return np.full(mask.shape, -FAR_MM, np.float32)
    if mask.all():
        return np.full(mask.shape, FAR_MM, np.float32)
    inside, outside = (ndimage.distance_transform_edt(side, spacing) for side in (mask, ~mask))
    half = min(spacing) / 2  # the contour lies between voxels
    return np.clip(np.where(mask, inside - half, half - outside), -FAR_MM, FAR_MM).astype(np.float32)


def _weights(slices: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """(slices, marked) float32 weights of linear interpolation; beyond the ends the last marked slice counts."""
    index = np.interp(slices, marked, np.arange(len(marked)))
    low = np.minimum(index.astype(int), max(len(marked) - 2, 0))
    weights = np.zeros((len(slices), len(marked)), np.float32)
    rows = np.arange(len(slices))
    weights[rows, low] = 1 - (index - low)
    if len(marked) > 1:
        weights[rows, low + 1] += index - low
    return weights


def _box(model: np.ndarray, drawn: np.ndarray, spacing: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """All slices, and the rows and columns about all voxels with FAR_MM of margin; empty when there are none."""
    shown = model.any(0) | drawn.any(0)
    box = [slice(None)]
    for axis in (0, 1):
        there = np.flatnonzero(shown.any(1 - axis))
        margin = int(np.ceil(FAR_MM / spacing[1 + axis]))
        box.append(slice(max(there[0] - margin, 0), there[-1] + margin + 1) if len(there) else slice(0))
    return tuple(box)
