"""From the score curve's guess to the middle of a vertebra: discs and endplates in the density along the spine.

The score curve places L3 to about 12 mm, a third of a vertebra, so its slice may lie in a disc, with another area of
muscle. Along the axis of the vertebral bodies the density drops in each disc and rises in the endplates beside it: this
pattern of period 28 to 40 mm says where the middles are, and the guess says which of them is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from bpr.body_composition.level import Level, place_of
from bpr.body_composition.measure import find_compartments
from bpr.body_composition.slices import AxialSlice, axial_slice
from bpr.body_composition.tissues import COMPARTMENTS
from bpr.volume import Volume, slice_heights

GUESS_SD_MM = 12.0  # of the score curve's L3 on scans that taught it nothing
REACH_MM, SEARCH_MM, STEP_MM = 65.0, 25.0, 2.4
PERIODS_MM = np.arange(28.0, 41.0)
USUAL_PERIOD_MM, PERIOD_SD_MM = 34.0, 7.3
PERIODS_SEEN = 1.5  # to either side of the middle
FEWEST_SLICES = 8
BODY_DEPTH_MM, BODY_RADIUS_MM = 15.0, 13.0  # behind the vertebra's front edge
HIGHEST_HU = 400
WEIGHT = 6.0  # log likelihood of a perfect pattern
LEAST_FIT = 0.5  # correlation below which the guess stays as it is
SNAPPED_SD_MM = 3.0


@dataclass(frozen=True)
class Pattern:
    """The best pattern: a middle's height and the period in mm, the correlation, the chance of the right vertebra."""

    z_mm: float
    period_mm: float
    fit: float
    chance: float


def refine_level(
    volume: Volume, level: Level, predict: Callable[[np.ndarray], np.ndarray]
) -> tuple[Level, Pattern | None]:
    """The level moved to the nearest likely middle of a vertebra; as it was when no pattern shows."""
    if level.place == "outside":
        return level, None
    heights, hu = density_along_spine(volume, level.z_mm, predict)
    pattern = best_pattern(heights, hu, level.z_mm)
    if pattern is None or pattern.fit < LEAST_FIT:
        return level, None
    place = place_of(pattern.z_mm, SNAPPED_SD_MM, *np.sort(slice_heights(volume.image))[[0, -1]])
    return replace(level, z_mm=pattern.z_mm, sd_mm=SNAPPED_SD_MM, place=place), pattern


def density_along_spine(volume: Volume, z_mm: float, predict) -> tuple[np.ndarray, np.ndarray]:
    """Heights (RAS mm, growing) of slices around a height, and the mean HU in the middle of the vertebra on each."""
    heights = slice_heights(volume.image)
    found: list[tuple[float, float]] = []
    for index in np.argsort(heights):
        z = float(heights[index])
        if abs(z - z_mm) > REACH_MM or (found and z - found[-1][0] < STEP_MM - 0.5):
            continue
        one = axial_slice(volume.image, int(index), z)
        hu = vertebra_hu(one, find_compartments(one.hu, one.spacing, predict).number)
        if hu is not None:
            found.append((z, hu))
    pairs = np.array(found).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def vertebra_hu(one: AxialSlice, number: np.ndarray) -> float | None:
    """Mean HU of a disc of 13 mm radius in the vertebral body; None where no bone was found."""
    parts, count = ndimage.label(number == COMPARTMENTS.index("bone"))
    if not count:
        return None
    rows, columns = np.nonzero(parts == 1 + np.bincount(parts.ravel())[1:].argmax())
    y_mm, x_mm = one.spacing
    middle = np.median(columns)
    front = rows[np.abs(columns - middle) * x_mm < 8]
    if not len(front):
        return None
    y, x = np.ogrid[: one.hu.shape[0], : one.hu.shape[1]]
    distance = np.hypot((y - front.min()) * y_mm - BODY_DEPTH_MM, (x - middle) * x_mm)
    inside = distance < BODY_RADIUS_MM
    return float(np.clip(one.hu[inside].mean(), 0, HIGHEST_HU)) if inside.any() else None


def best_pattern(z_mm: np.ndarray, hu: np.ndarray, guess_mm: float) -> Pattern | None:
    """Fit the pattern of discs and endplates around a guess; None with too few slices."""
    if len(z_mm) < FEWEST_SLICES:
        return None
    step = float(np.median(np.diff(z_mm)))
    middles = np.arange(guess_mm - SEARCH_MM, guess_mm + SEARCH_MM + 0.5)
    best: tuple[float, Pattern] | None = None
    for period in PERIODS_MM:
        for middle in middles:
            fit = _correlation(z_mm, hu, middle, period, step)
            if fit is None:
                continue
            likelihood = WEIGHT * fit - ((middle - guess_mm) / GUESS_SD_MM) ** 2 / 2
            likelihood -= ((period - USUAL_PERIOD_MM) / PERIOD_SD_MM) ** 2 / 2
            if best is None or likelihood > best[0]:
                best = likelihood, Pattern(float(middle), float(period), fit, _chance(middle, period, guess_mm))
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


def _chance(middle: float, period: float, guess_mm: float) -> float:
    """Chance that this middle and not its neighbors is the one that the guess meant."""
    places = middle + period * np.arange(-2, 3)
    weight = np.exp(-(((places - guess_mm) / GUESS_SD_MM) ** 2) / 2)
    return float(weight[2] / weight.sum())
