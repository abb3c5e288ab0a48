"""The score curve: what the rest of the program knows about a scan's place on the body ruler."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bpr.errors import Notice


@dataclass(frozen=True)
class LandmarkPosition:
    """Where a landmark lies: bones where the cleaned curve crosses their score, airways and organs by slice votes.

    ``score`` is the landmark's mean score over people; ``sd_mm`` joins the doubt of the curve and people's spread.
    """

    name: str
    score: float
    z_mm: float
    sd_mm: float
    in_scan: bool


@dataclass(frozen=True)
class Verdict:
    """What the curve as a whole says about the scan.

    ``quality`` is "good", "doubtful" (results are made, with warnings) or "refused" (out of scope: no results).
    Spacings are mm along the superior axis; ``coverage`` names the first and last landmark inside the scan.
    """

    quality: str
    slice_order: str  # "normal", "reversed" or "unclear"
    stated_spacing_mm: float
    implied_spacing_mm: float
    coverage: tuple[str | None, str | None]
    notices: list[Notice] = field(default_factory=list)


@dataclass(frozen=True)
class ScoreCurve:
    """Scores of the slices of one volume, in the order of the volume's own slice index.

    Attributes:
        z_mm: (n,) RAS superior coordinate of each slice's centre, mm.
        raw: (n,) expected score of each slice on its own, 0 at pelvis_start, 100 at eyes_end.
        cleaned: (n,) score after the robust monotone fit, growing towards the head.
        sd: (n,) standard deviation of the cleaned score, score units.
        mm_per_unit: millimetres that one score unit stands for in this patient.
        landmarks: positions of the bundle's landmarks.
        verdict: order, spacing, coverage, scope.
        quarter_turns: turns about the long axis after which the patient lies face up (see bpr.volume.posture).
    """

    z_mm: np.ndarray
    raw: np.ndarray
    cleaned: np.ndarray
    sd: np.ndarray
    mm_per_unit: float
    landmarks: list[LandmarkPosition]
    verdict: Verdict
    quarter_turns: int = 0

    def score_at(self, z_mm: float | np.ndarray) -> np.ndarray:
        """Cleaned score at RAS heights ``z_mm``, continued beyond the scan with the scan's mean slope."""
        order = np.argsort(self.z_mm)
        z, s = self.z_mm[order], self.cleaned[order]
        z_mm = np.asarray(z_mm, float)
        inside = np.interp(z_mm, z, s)
        below, above = np.minimum(z_mm - z[0], 0), np.maximum(z_mm - z[-1], 0)
        return inside + (below + above) / self.mm_per_unit

    def height_of(self, score: float | np.ndarray) -> np.ndarray:
        """RAS height in mm where the cleaned curve has ``score``, continued beyond the scan with the mean slope."""
        order = np.argsort(self.z_mm)
        z, s = self.z_mm[order], np.maximum.accumulate(self.cleaned[order] + 1e-9 * np.arange(len(order)))
        score = np.asarray(score, float)
        inside = np.interp(score, s, z)
        below, above = np.minimum(score - s[0], 0), np.maximum(score - s[-1], 0)
        return inside + (below + above) * self.mm_per_unit
