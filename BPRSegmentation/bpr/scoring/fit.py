"""From a distribution per slice to one curve: a robust line search, then a robust monotone Gaussian process around it.

Within a patient the true curve is nearly a straight line in mm, so all slices together tell much more than each alone.
Heights and ruler positions are mm; ``density`` holds one row per slice over the ruler's bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OUTLIERS = 0.02  # share of slices that may lie anywhere
SLOPE_PRIOR_SD = 0.07
CORRELATION_MM = 15.0  # errors of neighboring slices are alike over this distance
GRID_MM = 4.0
BEND_MM = 10.0  # smooth deviation of the true curve from a line
SHARED_MM, OWN_MM = 8.0, 8.0  # errors that neighboring slices share, and each slice's own beside what it states


@dataclass(frozen=True)
class Trust:
    """How far the outputs are believed: fitted on cross-validated training cases, stored in the bundle.

    Attributes:
        vote_correlation_mm: distance over which votes of neighboring slices count as one.
        curve_factor, organ_factor: what the standard deviations of the curve and of organ heights are multiplied with.
        typical_slope: ruler mm per mm that the free line finds in scans whose spacing is right.
        slope_tolerance: distance of the natural logarithm of slope / typical slope from 0 that is still believed:
            people differ in height, so a few percent of spacing can never be told from a short or tall person.
    """

    vote_correlation_mm: float = 15.0
    curve_factor: float = 1.0
    organ_factor: float = 1.0
    typical_slope: float = 1.0
    slope_tolerance: float = 0.25


@dataclass(frozen=True)
class Line:
    """Ruler position = ``offset`` + ``slope`` * (z - ``center``), with its log likelihood per independent slice."""

    offset: float
    slope: float
    center: float
    log_likelihood: float

    def at(self, z_mm: np.ndarray) -> np.ndarray:
        """Ruler positions at heights ``z_mm``."""
        return self.offset + self.slope * (z_mm - self.center)


def fit_line(z_mm: np.ndarray, density: np.ndarray, centers: np.ndarray, slopes: np.ndarray, prior_sd: float) -> Line:
    """The line with the greatest robust likelihood over a grid of offsets (4 mm) and the given slopes.

    ``prior_sd`` is the standard deviation of |slope| around 1; infinity leaves the slope free.
    """
    step = abs(z_mm[-1] - z_mm[0]) / max(len(z_mm) - 1, 1)
    center, width = z_mm.mean(), centers[1] - centers[0]
    floor = OUTLIERS / (centers[-1] - centers[0])
    offsets = np.arange(centers[0] - 40, centers[-1] + 40, GRID_MM)
    # How far the line leads away from an offset, in steps of the grid; beyond the ruler's ends all is equally unlikely.
    reach = int(np.abs(slopes).max() * np.abs(z_mm - center).max() / GRID_MM) + 1
    grid = offsets[0] + GRID_MM * np.arange(-reach, len(offsets) + reach)
    per_slice = np.stack([np.interp(grid, centers, row, left=0, right=0) for row in density])
    per_slice = np.log((1 - OUTLIERS) * per_slice / width + floor)
    shifted = np.lib.stride_tricks.sliding_window_view(per_slice, len(offsets), axis=1)
    share = min(1.0, step / CORRELATION_MM)
    best = Line(0.0, 1.0, center, -np.inf)
    rows = np.arange(len(z_mm))
    for slope in slopes:
        lead = np.floor(slope * (z_mm - center) / GRID_MM + 0.5).astype(int) + reach
        total = shifted[rows, lead].sum(0) * share - 0.5 * ((abs(slope) - 1) / prior_sd) ** 2
        k = int(total.argmax())
        if total[k] > best.log_likelihood:
            best = Line(float(offsets[k]), float(slope), float(center), float(total[k]))
    return best


def near_line(density: np.ndarray, centers: np.ndarray, line_mm: np.ndarray, reach_mm: float = 90.0):
    """Mean and standard deviation (mm) of each slice's distribution, looked at near the line only."""
    window = np.exp(-0.5 * ((centers - line_mm[:, None]) / reach_mm) ** 2)
    weight = (density + 1e-6) * window
    weight /= weight.sum(1, keepdims=True)
    mean = weight @ centers
    variance = (weight * (centers - mean[:, None]) ** 2).sum(1)
    return mean, np.sqrt(np.maximum(variance, 64.0))


def clean(z_mm: np.ndarray, mean_mm: np.ndarray, sd_mm: np.ndarray, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Robust Gaussian process around a line (Student-t weights), made monotone.

    The true curve is a line of unknown offset and of a slope near 1, with a smooth deviation. The slices' means err
    around it in two ways: by a part that neighbors share, because organs pull them up or down, and by one of their own.

    Args:
        z_mm: (n,) growing. mean_mm, sd_mm: (n,) place on the ruler that each slice tells, and its spread.
        slope: of the likeliest line; the cleaned curve climbs at least half as fast everywhere.

    Returns:
        Ruler position and its standard deviation in mm for each slice.
    """
    n = len(z_mm)
    step = (z_mm[-1] - z_mm[0]) / max(n - 1, 1)
    own = np.hypot(OWN_MM, sd_mm)
    inflation = np.sqrt(max(1.0, CORRELATION_MM / max(step, 0.1)))  # own errors of close neighbors are alike
    centered = z_mm - z_mm.mean()
    distance = np.abs(z_mm[:, None] - z_mm[None])
    shared = _matern(distance, SHARED_MM)
    truth = 500.0**2 + SLOPE_PRIOR_SD**2 * np.outer(centered, centered) + _matern(distance, BEND_MM)
    prior = z_mm + np.median(mean_mm - z_mm)
    residual, weight = mean_mm - prior, np.ones(n)
    for _ in range(8):
        noisy = truth + shared + np.diag((own * inflation) ** 2 / weight)
        told = np.linalg.solve(noisy, residual)
        weight = 5.0 / (4.0 + ((residual - (truth + shared) @ told) / own) ** 2)
    variance = np.diag(truth) - np.einsum("ij,ji->i", truth, np.linalg.solve(noisy, truth))
    return _monotone(z_mm, prior + truth @ told, 0.5 * slope), np.sqrt(np.maximum(variance, 1.0))


def _matern(distance: np.ndarray, sd: float, length: float = 80.0) -> np.ndarray:
    """Matern 3/2 covariance; mm."""
    d = np.sqrt(3) * distance / length
    return sd**2 * (1 + d) * np.exp(-d)


def _monotone(z_mm: np.ndarray, curve: np.ndarray, least_slope: float) -> np.ndarray:
    """The mean of the upper and the lower envelope that climb at least ``least_slope`` everywhere."""
    tilted = curve - least_slope * z_mm
    upper = np.maximum.accumulate(tilted)
    lower = np.minimum.accumulate(tilted[::-1])[::-1]
    return (upper + lower) / 2 + least_slope * z_mm
