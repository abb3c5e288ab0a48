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
    grid = np.arange(centers[0] - 600, centers[-1] + 600, GRID_MM)
    floor = OUTLIERS / (centers[-1] - centers[0])
    per_slice = np.stack([np.interp(grid, centers, row, left=0, right=0) for row in density])
    per_slice = np.log((1 - OUTLIERS) * per_slice / width + floor)
    offsets = np.arange(centers[0] - 40, centers[-1] + 40, GRID_MM)
    share = min(1.0, step / CORRELATION_MM)
    best = Line(0.0, 1.0, center, -np.inf)
    rows = np.arange(len(z_mm))
    for slope in slopes:
        index = np.round((offsets[:, None] + slope * (z_mm - center) - grid[0]) / GRID_MM).astype(int)
        total = per_slice[rows, np.clip(index, 0, len(grid) - 1)].sum(1) * share
        total = total - 0.5 * ((abs(slope) - 1) / prior_sd) ** 2
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


def clean(
    z_mm: np.ndarray,
    mean_mm: np.ndarray,
    sd_mm: np.ndarray,
    slope: float,
    amplitude_mm: float = 12.0,
    length_mm: float = 80.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Robust Gaussian process around a line of the given slope (Student-t weights), made monotone.

    Returns the ruler position and its standard deviation in mm for each slice; ``z_mm`` must grow.
    """
    n = len(z_mm)
    step = (z_mm[-1] - z_mm[0]) / max(n - 1, 1)
    # Neighbors err together, so n slices are worth fewer independent ones.
    inflation = np.sqrt(max(1.0, 2 * CORRELATION_MM / max(step, 0.1)))
    base = np.maximum(np.hypot(sd_mm, 8.0), 4.0)
    centered = z_mm - z_mm.mean()
    distance = np.sqrt(3) * np.abs(z_mm[:, None] - z_mm[None]) / length_mm
    kernel = 500.0**2 + SLOPE_PRIOR_SD**2 * np.outer(centered, centered)
    kernel = kernel + amplitude_mm**2 * (1 + distance) * np.exp(-distance)
    prior = slope * z_mm + np.median(mean_mm - slope * z_mm)
    residual, weight = mean_mm - prior, np.ones(n)
    for _ in range(8):
        noisy = kernel + np.diag((base * inflation) ** 2 / weight)
        fitted = kernel @ np.linalg.solve(noisy, residual)
        weight = 5.0 / (4.0 + ((residual - fitted) / base) ** 2)
    variance = np.diag(kernel) - np.einsum("ij,ji->i", kernel, np.linalg.solve(noisy, kernel))
    return _monotone(z_mm, prior + fitted, 0.5 * slope), np.sqrt(np.maximum(variance, 1.0))


def _monotone(z_mm: np.ndarray, curve: np.ndarray, least_slope: float) -> np.ndarray:
    """The mean of the upper and the lower envelope that climb at least ``least_slope`` everywhere."""
    tilted = curve - least_slope * z_mm
    upper = np.maximum.accumulate(tilted)
    lower = np.minimum.accumulate(tilted[::-1])[::-1]
    return (upper + lower) / 2 + least_slope * z_mm
