"""The verdict over a score curve: is the scan in scope, in order, and spaced as it says?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bpr.errors import Notice
from bpr.scoring.curve import LandmarkPosition, Verdict
from bpr.scoring.fit import Line, Trust
from bpr.volume import POSTURES, Volume, slice_heights

SHORT_MM = 60.0
LONG_ENOUGH_MM = 150.0  # below this the slope is too uncertain to doubt the stated spacing
REVERSE_MARGIN = 3.0  # log likelihood by which the reversed order must win
NEAR_MM = 60.0
LEG_SCORE, LEGS_SHARE = -4.0, 0.6  # 30 mm below the ischium; share of such slices that makes a scan one of legs
DOUBTFUL_SUPPORT, REFUSED_SUPPORT = 0.45, 0.2


@dataclass(frozen=True)
class Fit:
    """What the line search found: slice order, the line with slope near 1, the line with free slope, the support."""

    order: str
    line: Line
    free: Line
    support: float
    trust: Trust = Trust()

    @property
    def spacing_ratio(self) -> float:
        """Spacing that the anatomy implies over the spacing that the file states."""
        return abs(self.free.slope) / self.trust.typical_slope


def slice_order(length_mm: float, free: Line, reverse: Line) -> str:
    """ "normal", "reversed" or "unclear" from the likelihoods of the best lines that climb and that fall."""
    gain = reverse.log_likelihood - free.log_likelihood
    if abs(gain) <= REVERSE_MARGIN:
        return "unclear"
    return "reversed" if gain > 0 and length_mm > SHORT_MM else "normal"


def support(z_mm: np.ndarray, density: np.ndarray, centers: np.ndarray, line: Line) -> float:
    """Mean probability that the slices put within 60 mm of the line; low for what the network has never seen."""
    near = np.abs(centers - line.at(z_mm)[:, None]) <= NEAR_MM
    return float((density * near).sum(1).mean())


def judge(
    volume: Volume, z_mm: np.ndarray, raw: np.ndarray, landmarks: list[LandmarkPosition], fit: Fit, quarter_turns: int
) -> Verdict:
    """The verdict in words. ``z_mm`` are the heights that the network saw, growing, ``raw`` the scores found there."""
    length = float(z_mm[-1] - z_mm[0])
    stated = float(np.abs(np.diff(slice_heights(volume.image))).mean())
    implied = stated * fit.spacing_ratio
    notices, quality = [], "good"
    if fit.order == "reversed":
        quality = "doubtful"
        notices.append(Notice("order_reversed", "The anatomy runs from head to feet against the direction that the "
                              "file states: the slice order or the orientation is wrong."))  # fmt: skip
    longest = length * max(1.0, fit.spacing_ratio)  # a spacing stated too small makes the scan look short
    if (
        longest >= LONG_ENOUGH_MM
        and fit.order != "unclear"
        and abs(math.log(fit.spacing_ratio)) > fit.trust.slope_tolerance
    ):
        quality = "doubtful"
        notices.append(Notice("spacing_doubtful", f"The anatomy suggests slices every {implied:.1f} mm, but the file "
                              f"states {stated:.1f} mm."))  # fmt: skip
    if length < SHORT_MM:
        quality = "doubtful"
        notices.append(Notice("too_short", f"The scan is only {length:.0f} mm long; scores of so few slices can be off "
                              "by several centimeters."))  # fmt: skip
    if quarter_turns:
        notices.append(Notice("posture", f"The patient lies {POSTURES[quarter_turns]}; the slices were turned for the "
                              "networks, and all results lie on the scan as it is."))  # fmt: skip
    legs = float((raw < LEG_SCORE).mean())
    if legs > LEGS_SHARE:
        quality = "refused"
        notices.append(Notice("legs", "Most slices show legs, which lie below the body ruler."))
    elif legs > 0.1:
        notices.append(Notice("legs", f"The lowest {legs * length:.0f} mm show legs, which lie below the body ruler."))
    if fit.support < DOUBTFUL_SUPPORT:
        quality = "refused" if fit.support < REFUSED_SUPPORT or quality == "refused" else "doubtful"
        notices.append(Notice("out_of_scope", "The slices do not look like an axial CT of head, neck or trunk; scores "
                              "are not reliable here."))  # fmt: skip
    inside = [mark.name for mark in landmarks if mark.in_scan]
    coverage = (inside[0], inside[-1]) if inside else (None, None)
    return Verdict(quality, fit.order, stated, implied, coverage, notices)
