"""Dice, area and HU errors of labeled slices, by tissue, with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bpr.body_composition.measure import measure
from bpr.body_composition.tissues import TISSUES
from bpr.body_composition.training import LabeledSlice
from bpr.evaluation.statistics import Estimate, bootstrap_mean

Labeling = Callable[[np.ndarray, tuple[float, float]], np.ndarray]


@dataclass(frozen=True)
class TissueScore:
    """One tissue on one slice: Dice (None when neither has it), area and mean-HU error (found minus labeled)."""

    case: str
    patient: str
    index: int
    tissue: str
    dice: float | None
    area_cm2: float
    area_error_cm2: float
    hu_error: float


def score_slices(slices: list[LabeledSlice], label: Labeling) -> list[TissueScore]:
    """Label every slice with ``label(hu, spacing)`` -> (y, x) uint8 and compare on the slice's own pixels."""
    scores = []
    for one in slices:
        found = label(one.hu, one.spacing)
        pixel = one.spacing[0] * one.spacing[1] / 100
        pairs = zip(measure(found, one.hu, pixel), measure(one.labels, one.hu, pixel), strict=True)
        for tissue, (ours, theirs) in zip(TISSUES, pairs, strict=True):
            a, b = found == tissue.value, one.labels == tissue.value
            total = int(a.sum() + b.sum())
            dice = float(2 * (a & b).sum() / total) if total else None
            scores.append(TissueScore(one.case, one.patient, one.index, tissue.id, dice, theirs.area_cm2,
                                      ours.area_cm2 - theirs.area_cm2, ours.mean_hu - theirs.mean_hu))  # fmt: skip
    return scores


def estimates(scores: list[TissueScore], tissue: str) -> dict[str, Estimate]:
    """Mean Dice, absolute area error (cm2), area bias (cm2) and absolute HU error of one tissue."""
    own = [s for s in scores if s.tissue == tissue and s.dice is not None]
    patients = [s.patient for s in own]
    valid = [s for s in own if np.isfinite(s.hu_error)]
    return {
        "Dice": bootstrap_mean([s.dice for s in own], patients),
        "area error, cm2": bootstrap_mean([abs(s.area_error_cm2) for s in own], patients),
        "area bias, cm2": bootstrap_mean([s.area_error_cm2 for s in own], patients),
        "HU error": bootstrap_mean([abs(s.hu_error) for s in valid], [s.patient for s in valid]),
    }
