"""Landmark errors, rank correlation and verdicts of a score bundle on annotated scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from bpr.evaluation.statistics import Estimate, bootstrap_mean
from bpr.models import Bundle
from bpr.scoring.curve import ScoreCurve
from bpr.scoring.inference import Predictor, score_volume
from bpr.training.dataset import Case, first_slice_height
from bpr.training.ruler import Observation
from bpr.volume import Volume, read_volume

LONG_SCAN_MM = 100.0
EDGE_MM = 8.0
KINDS = {"bone and airway": ("bone", "airway_vessel"), "organ": ("organ",), "all": ("bone", "airway_vessel", "organ")}


@dataclass(frozen=True)
class LandmarkError:
    """Predicted minus annotated height of one landmark in one scan, mm."""

    scan: str
    patient: str
    landmark: str
    kind: str
    error_mm: float


@dataclass(frozen=True)
class ScoreEvaluation:
    """All errors, per-scan Spearman correlation of score and height (scans over 100 mm), and the curves."""

    errors: list[LandmarkError]
    spearman: dict[str, float]
    curves: dict[str, ScoreCurve]

    def landmark_error(self, kind: str) -> tuple[Estimate, float]:
        """Mean absolute error with its interval and the 90th percentile, mm, of one of KINDS."""
        chosen = [e for e in self.errors if e.kind in KINDS[kind]]
        absolute = [abs(e.error_mm) for e in chosen]
        p90 = float(np.percentile(absolute, 90)) if absolute else float("nan")
        return bootstrap_mean(absolute, [e.patient for e in chosen]), p90


def evaluate_score(
    bundle: Bundle,
    predict: Predictor,
    cases: list[Case],
    observations: list[Observation],
    change: Callable[[Volume], Volume] = lambda volume: volume,
) -> ScoreEvaluation:
    """Score every case and compare. Landmarks within 8 mm of a scan's end are left out: they may be cut.

    ``change`` alters a volume before it is scored, to study what stress does; heights are compared in RAS mm.
    """
    errors, spearman, curves = [], {}, {}
    for case in cases:
        volume = change(read_volume(case.path))
        curve = score_volume(volume, bundle, predict)
        curves[case.id] = curve
        bottom, length = first_slice_height(case.path), np.ptp(curve.z_mm)
        low, high = curve.z_mm.min() - bottom + EDGE_MM, curve.z_mm.max() - bottom - EDGE_MM
        if length > LONG_SCAN_MM:
            spearman[case.id] = float(spearmanr(curve.raw, curve.z_mm).statistic)
        predicted = {mark.name: mark.z_mm - bottom for mark in curve.landmarks}
        for o in observations:
            if o.scan == case.id and o.landmark in predicted and low <= o.z_mm <= high:
                error = predicted[o.landmark] - o.z_mm
                errors.append(LandmarkError(case.id, case.patient, o.landmark, o.kind, error))
    return ScoreEvaluation(errors, spearman, curves)
