"""The middle of a vertebra: discs and endplates in the density along the spine.

Along the axis of the vertebral bodies the density drops in each disc and rises in the endplates beside it. This pattern
of period 28 to 40 mm says where the middles are; a guess says which of them is meant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEARCH_MM = 20.0
PERIODS_MM = np.arange(28.0, 41.0)
USUAL_PERIOD_MM, PERIOD_SD_MM = 34.0, 7.3
PERIODS_SEEN = 1.5  # to either side of the middle
FEWEST_SLICES = 8
WEIGHT = 6.0  # log likelihood of a perfect pattern


@dataclass(frozen=True)
class Pattern:
    """The best pattern: a middle's height and the period in mm, and the correlation with the density."""

    z_mm: float
    period_mm: float
    fit: float


def best_pattern(z_mm: np.ndarray, hu: np.ndarray, guess_mm: float, guess_sd_mm: float) -> Pattern | None:
    """Fit the pattern around a guess; None with too few slices.

    Args:
        z_mm, hu: (n,) heights, growing, and the density there. guess_mm, guess_sd_mm: of the vertebra's middle.
    """
    best: tuple[float, Pattern] | None = None
    if len(z_mm) < FEWEST_SLICES:
        return None
    step = float(np.median(np.diff(z_mm)))
    for period in PERIODS_MM:
        for middle in np.arange(guess_mm - SEARCH_MM, guess_mm + SEARCH_MM + 0.5):
            fit = _correlation(z_mm, hu, middle, period, step)
            if fit is None:
                continue
            likelihood = WEIGHT * fit - ((middle - guess_mm) / guess_sd_mm) ** 2 / 2
            likelihood -= ((period - USUAL_PERIOD_MM) / PERIOD_SD_MM) ** 2 / 2
            if best is None or likelihood > best[0]:
                best = likelihood, Pattern(float(middle), float(period), fit)
    return best[1] if best else None


def _correlation(z_mm: np.ndarray, hu: np.ndarray, middle: float, period: float, step: float) -> float | None:
    """Correlation of density and pattern within 1.5 periods of a middle, slopes taken out; None with too few slices."""
    near = np.abs(z_mm - middle) <= PERIODS_SEEN * period
    if near.sum() < FEWEST_SLICES:
        return None
    within = np.linspace(-step / 2, step / 2, 5)  # a thick slice sees the pattern's mean
    pattern = np.mean([_pattern((z_mm[near] + part - middle) / period) for part in within], axis=0)
    line = np.stack([np.ones(near.sum()), z_mm[near] - middle], 1)
    a, b = (values - line @ np.linalg.lstsq(line, values, rcond=None)[0] for values in (hu[near], pattern))
    return float(a @ b / np.sqrt((a @ a) * (b @ b) + 1e-9))


def _pattern(periods: np.ndarray) -> np.ndarray:
    """Low in the discs (half a period from a middle), high in the endplates beside them, even in between."""
    distance = np.abs(periods - np.rint(periods))
    disc = np.clip((distance - 0.43) / 0.08 + 0.5, 0, 1)
    endplate = np.clip((distance - 0.29) / 0.08 + 0.5, 0, 1) * (1 - disc)
    return endplate - 1.3 * disc
