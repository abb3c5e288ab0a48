"""Where a vertebral level lies in a scan: landmarks of the score curve, read between them by vertebrae."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bpr.errors import InputError
from bpr.scoring.curve import ScoreCurve

# Places along the lumbar spine, counted in vertebrae from the disc above L1 downwards: landmarks and middles.
ANCHORS = {"t12_l1": 0.0, "l3_center": 2.5, "l5_s1": 5.0}
LEVELS = {"T12": -0.5, "L1": 0.5, "L2": 1.5, "L3": 2.5, "L4": 3.5, "L5": 4.5}
BETWEEN_SD_MM = 3.0  # people's vertebrae are not equally tall
EDGE_MM = 8.0


@dataclass(frozen=True)
class Level:
    """The middle of a vertebra: RAS superior height and its standard deviation in mm.

    ``place`` is "inside", "edge" (within its uncertainty of the scan's end) or "outside" the scan.
    """

    name: str
    z_mm: float
    sd_mm: float
    place: str


def find_level(curve: ScoreCurve, name: str) -> Level:
    """The level of this name, also beyond the scan (the curve is continued there).

    Raises:
        InputError: there is no such level, or the score model knows no lumbar landmark.
    """
    if name not in LEVELS:
        raise InputError(f"There is no level {name!r}.", f"Levels: {', '.join(LEVELS)}.")
    marks = sorted((ANCHORS[mark.name], mark) for mark in curve.landmarks if mark.name in ANCHORS)
    if len(marks) < 2:
        raise InputError("The score model knows too few landmarks of the lumbar spine.", "Choose another score model.")
    places = np.array([place for place, _ in marks])
    heights, doubts = (np.array([getattr(mark, key) for _, mark in marks]) for key in ("z_mm", "sd_mm"))
    wanted = LEVELS[name]
    segment = int(np.clip(np.searchsorted(places, wanted) - 1, 0, len(places) - 2))
    share = (wanted - places[segment]) / (places[segment + 1] - places[segment])
    z = float(heights[segment] + share * (heights[segment + 1] - heights[segment]))
    sd = float(np.interp(wanted, places, doubts))
    if wanted not in places:
        sd = float(np.hypot(sd, BETWEEN_SD_MM))
    return Level(name, z, sd, place_of(z, sd, float(curve.z_mm.min()), float(curve.z_mm.max())))


def place_of(z_mm: float, sd_mm: float, low_mm: float, high_mm: float) -> str:
    """ "inside", "edge" or "outside" for a height in a scan from ``low_mm`` to ``high_mm``."""
    beyond = max(low_mm - z_mm, z_mm - high_mm)
    return "outside" if beyond > 0 else "edge" if -beyond < max(sd_mm, EDGE_MM) else "inside"


def slab(heights: np.ndarray, low_mm: float, high_mm: float, step_mm: float = 0.0) -> list[int]:
    """Indices of the slices between two heights (at least the nearest one), ``step_mm`` apart or more."""
    middle = (low_mm + high_mm) / 2
    chosen = np.flatnonzero((heights >= low_mm - 1e-6) & (heights <= high_mm + 1e-6))
    if len(chosen) == 0:
        return [int(np.abs(heights - middle).argmin())]
    kept: list[int] = []
    for index in chosen[np.argsort(heights[chosen])]:
        if not kept or heights[index] - heights[kept[-1]] >= step_mm - 1e-6:
            kept.append(int(index))
    return kept
