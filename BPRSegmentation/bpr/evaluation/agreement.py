"""How well two label arrays agree, structure by structure: overlap, surface distances, volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bpr.training.cases import OUTSIDE


@dataclass(frozen=True)
class Agreement:
    """One structure in one case. Distances in mm, NaN where one side is empty; shares are 0..1.

    Attributes:
        dice, sensitivity, specificity: of voxels.
        farthest, mean_distance: maximum and average symmetric surface distance.
        volume: relative volume difference, (predicted - true) / true.
    """

    dice: float
    sensitivity: float
    specificity: float
    farthest: float
    mean_distance: float
    volume: float


def agreement(truth: np.ndarray, guess: np.ndarray, spacing_mm: tuple[float, float, float]) -> Agreement:
    """Compare two (z, y, x) bool masks; the truth must not be empty. Surfaces after Heimann et al., IEEE TMI 2009."""
    both, size, found = int((truth & guess).sum()), int(truth.sum()), int(guess.sum())
    neither = truth.size - size - found + both
    distances = _surface_distances(truth, guess, spacing_mm) if found else np.array([np.nan])
    return Agreement(2 * both / (size + found), both / size, neither / max(truth.size - size, 1),
                     float(distances.max()), float(distances.mean()), (found - size) / size)  # fmt: skip


def _surface_distances(a: np.ndarray, b: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Distances in mm of each surface's voxels to the other surface, both ways together."""
    box = tuple(slice(max(0, i.min() - 1), i.max() + 2) for i in np.nonzero(a | b))
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (np.pad(a[box], 1), np.pad(b[box], 1))]
    far = [ndimage.distance_transform_edt(~surface, spacing_mm) for surface in surfaces]
    return np.concatenate([far[1][surfaces[0]], far[0][surfaces[1]]])


def dice_by_channel(truth: np.ndarray, guess: np.ndarray, known: np.ndarray) -> dict[int, float]:
    """Dice of each known channel that the truth (z, y, x) shows; OUTSIDE voxels do not count."""
    seen = truth != OUTSIDE
    found = {}
    for channel in np.flatnonzero(known)[1:]:
        a, b = truth == channel, (guess == channel) & seen
        if a.any():
            found[int(channel)] = float(2 * (a & b).sum() / (a.sum() + b.sum()))
    return found


def agreement_by_channel(
    truth: np.ndarray, guess: np.ndarray, known: np.ndarray, grid_mm: float
) -> dict[int, Agreement]:
    """Agreement of each known channel that the truth (z, y, x) shows; OUTSIDE voxels do not count."""
    seen = truth != OUTSIDE
    return {
        int(channel): agreement(truth == channel, (guess == channel) & seen, (grid_mm,) * 3)
        for channel in np.flatnonzero(known)[1:]
        if (truth == channel).any()
    }
