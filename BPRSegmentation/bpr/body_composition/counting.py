"""Which vertebra is which: a network looks at pictures of the spine, the score curve says about where to look.

For each row of the pictures the network gives a distribution over places along the spine, counted in vertebrae from the
disc above L1 downwards (bpr.body_composition.level). A spine of even vertebrae is fitted to all rows, with the curve's
L3 as prior; then discs and endplates say where exactly the middle of the vertebra lies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bpr.body_composition.level import LEVELS, Level, find_level, place_of
from bpr.body_composition.pattern import Pattern, best_pattern
from bpr.body_composition.spine import CHANNELS, STEP_MM, WIDTH, SpinePictures
from bpr.scoring.curve import ScoreCurve

ROWS = 160  # 400 mm around the guess
ROWS_OUT = ROWS // 2
PLACES = np.arange(-5.0, 8.01, 0.25)  # of the network's bins
FLOOR = 0.01  # share of a row's probability that is spread over all places: no row can rule out everything
NEIGHBORS_MM = 25.0  # rows within it err together, so that they count once
GUESS_SD_MM = 14.0  # of the score curve's L3
REACH_MM = 70.0
PERIODS_MM = np.arange(27.0, 42.0)  # of the vertebrae above L3's middle
USUAL_PERIOD_MM, PERIOD_SD_MM = 33.0, 4.0
RATIOS = np.array([0.95, 1.0, 1.05, 1.1, 1.15])  # of the period below L3's middle to the one above it
USUAL_RATIO, RATIO_SD = 1.05, 0.06
SAME_MM = 15.0  # two heights that are the same vertebra
COUNTED_SD_MM, SNAPPED_SD_MM = 6.0, 3.0
LEAST_FIT = 0.5  # correlation below which the count stays as it is
Predictor = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Spine:
    """A spine of even vertebrae: L3's middle, period above and below it (mm), the chance of the right count."""

    l3_mm: float
    above_mm: float
    below_mm: float
    chance: float

    def height(self, place: float) -> float:
        """RAS height in mm of a place, counted in vertebrae from the disc above L1 downwards."""
        down = place - LEVELS["L3"]
        return self.l3_mm - down * (self.below_mm if down > 0 else self.above_mm)


def find_counted_level(
    pictures: SpinePictures, curve: ScoreCurve, name: str, predict: Predictor
) -> tuple[Level, Spine | None]:
    """The middle of a vertebra, counted and centered; as the curve has it where the pictures show too little.

    Raises:
        InputError: there is no such level.
    """
    guess = find_level(curve, name)
    spine = count_vertebrae(pictures, find_level(curve, "L3").z_mm, predict)
    if spine is None:
        return guess, None
    z = spine.height(LEVELS[name])
    pattern = centered(pictures, z)
    sd = SNAPPED_SD_MM if pattern else COUNTED_SD_MM
    z = pattern.z_mm if pattern else z
    ends = float(pictures.z_mm[0]), float(pictures.z_mm[-1])
    return replace(guess, z_mm=z, sd_mm=sd, place=place_of(z, sd, *ends)), spine


def count_vertebrae(pictures: SpinePictures, l3_mm: float, predict: Predictor) -> Spine | None:
    """Fit a spine to what the network sees around a guess of L3's middle; None when no row lies within the scan.

    Args:
        predict: maps (1, 3, 160, 112) float32 to (1, places, 80) logits.
    """
    window, z_mm, inside = rows_around(pictures, l3_mm)
    if not inside.any():
        return None
    logits = predict(window[None])[0].T.astype(np.float64)[inside]
    peak = logits.max(1, keepdims=True)
    log_p = logits - peak - np.log(np.exp(logits - peak).sum(1, keepdims=True))
    return fit_spine(z_mm[inside], log_p, l3_mm)


def rows_around(pictures: SpinePictures, z_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Network input (3, 160, 112), heights (80,) of the network's rows, and which of them lie within the scan."""
    first = round((z_mm - pictures.z_mm[0]) / STEP_MM - (ROWS - 1) / 2)
    window = np.zeros((CHANNELS, ROWS, WIDTH), np.float32)
    low, high = max(first, 0), max(min(first + ROWS, len(pictures.z_mm)), max(first, 0))
    window[:, low - first : high - first] = pictures.image[:, low:high]
    heights = pictures.z_mm[0] + (first + np.arange(ROWS).reshape(-1, 2).mean(1)) * STEP_MM
    return window, heights, (heights >= pictures.z_mm[0]) & (heights <= pictures.z_mm[-1])


def fit_spine(z_mm: np.ndarray, log_p: np.ndarray, guess_mm: float) -> Spine:
    """The likeliest spine.

    Args:
        z_mm: (n,) heights of rows. log_p: (n, places) log probabilities there. guess_mm: the curve's L3.
    """
    log_p = np.logaddexp(log_p, np.log(FLOOR / len(PLACES)))
    middles = np.arange(guess_mm - REACH_MM, guess_mm + REACH_MM + 1)
    up = z_mm[None] - middles[:, None]
    rows = np.arange(len(z_mm))[None]
    share = 2 * STEP_MM / NEIGHBORS_MM
    best, periods = np.full(len(middles), -np.inf), np.zeros((len(middles), 2))
    for above in PERIODS_MM:
        for ratio in RATIOS:
            places = LEVELS["L3"] - np.where(up > 0, up / above, up / (above * ratio))
            position = (np.clip(places, PLACES[0], PLACES[-1]) - PLACES[0]) / (PLACES[1] - PLACES[0])
            low = np.minimum(position.astype(int), len(PLACES) - 2)
            part = position - low
            told = (log_p[rows, low] * (1 - part) + log_p[rows, low + 1] * part).sum(1) * share
            told -= ((above - USUAL_PERIOD_MM) / PERIOD_SD_MM) ** 2 / 2 + ((ratio - USUAL_RATIO) / RATIO_SD) ** 2 / 2
            better = told > best
            best[better], periods[better] = told[better], (above, above * ratio)
    posterior = best - ((middles - guess_mm) / GUESS_SD_MM) ** 2 / 2
    weight = np.exp(posterior - posterior.max())
    weight /= weight.sum()
    top = int(posterior.argmax())
    near = np.abs(middles - middles[top]) < 10
    l3 = float(weight[near] @ middles[near] / weight[near].sum())
    chance = float(weight[np.abs(middles - l3) < SAME_MM].sum())
    return Spine(l3, float(periods[top, 0]), float(periods[top, 1]), chance)


def centered(pictures: SpinePictures, z_mm: float) -> Pattern | None:
    """The pattern of discs and endplates nearest to a counted height; None where none shows."""
    near = np.abs(pictures.z_mm - z_mm) < 65.0
    pattern = best_pattern(pictures.z_mm[near], pictures.density[near], z_mm, COUNTED_SD_MM)
    return pattern if pattern is not None and pattern.fit >= LEAST_FIT else None
