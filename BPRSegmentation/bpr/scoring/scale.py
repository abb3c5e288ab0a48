"""The scale of the scores: 0 at pelvis_start, 100 at eyes_end, as in the published body-part-regression packages."""

from __future__ import annotations

import numpy as np

BIN_MM, BINS, FIRST_BIN_MM = 20.0, 50, -10.0  # bin centers -10, 10, ..., 970 mm on the ruler
BIN_CENTERS = FIRST_BIN_MM + BIN_MM * np.arange(BINS)
PELVIS_START = "ischium_bottom"
ORBIT = "orbit_center"
COLORED_SCORES = (0.0, 100.0)  # that colors tell apart, in reports and in Slicer; beyond, the end colors are kept
ORBIT_HALF_HEIGHT_MM = 15.0  # eyes_end is the upper rim of the orbit; the annotated landmark is its center


def scale_ends(position: dict[str, float]) -> tuple[float, float]:
    """Ruler positions (mm) of score 0 and score 100."""
    return position[PELVIS_START], position[ORBIT] + ORBIT_HALF_HEIGHT_MM


def to_score(ruler_mm: float | np.ndarray, position: dict[str, float]) -> np.ndarray:
    """Ruler mm to score."""
    low, high = scale_ends(position)
    return (np.asarray(ruler_mm, float) - low) * 100 / (high - low)


def to_ruler(score: float | np.ndarray, position: dict[str, float]) -> np.ndarray:
    """Score to ruler mm."""
    low, high = scale_ends(position)
    return low + np.asarray(score, float) * (high - low) / 100
