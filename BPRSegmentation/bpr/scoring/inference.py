"""Scoring a volume: slices every 2.5 mm through the network, one curve through all of them, scores for each slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bpr.errors import BundleError
from bpr.models import Bundle
from bpr.scoring.curve import LandmarkPosition, ScoreCurve
from bpr.scoring.fit import SLOPE_PRIOR_SD, clean, fit_line, near_line
from bpr.scoring.scale import scale_ends, to_score
from bpr.scoring.slices import network_input, slice_stack
from bpr.scoring.verdict import Fit, judge, slice_order, support
from bpr.volume import Volume, slice_heights

Predictor = Callable[[np.ndarray], np.ndarray]
BATCH = 16
STANDARD_STEP_MM = 2.5


@dataclass(frozen=True)
class Scale:
    """What a score bundle knows beside its weights: bins, landmark positions and spreads in mm on the ruler."""

    centers: np.ndarray
    position: dict[str, float]
    spread: dict[str, float]

    @classmethod
    def of(cls, bundle: Bundle) -> Scale:
        """The scale stored in a score bundle's metadata. Raises BundleError when there is none."""
        facts = bundle.facts
        if "bins" not in facts or "landmarks" not in facts:
            raise BundleError(f"The model {bundle.name} is no score model: it states no scale.",
                              "Choose another one, or install the bundle again.")  # fmt: skip
        centers = facts["bins"]["first_mm"] + facts["bins"]["width_mm"] * np.arange(facts["bins"]["count"])
        marks = facts["landmarks"]
        position = {name: mark["ruler_mm"] for name, mark in marks.items()}
        return cls(centers, position, {name: mark["spread_mm"] for name, mark in marks.items()})


def score_volume(
    volume: Volume,
    bundle: Bundle,
    predict: Predictor,
    step_mm: float = STANDARD_STEP_MM,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ScoreCurve:
    """Score every slice of a volume.

    Args:
        predict: maps (n, 3, 112, 112) float32 to (n, bins) logits; from a bpr.compute engine.
        step_mm: distance of the slices that the network sees; denser costs more and changes little.
        progress: called with slices done and slices in all.
    """
    scale = Scale.of(bundle)
    stack = slice_stack(volume.image, step_mm)
    density = slice_densities(network_input(stack), predict, progress)
    return curve_from_densities(volume, stack.z_mm, density, scale)


def slice_densities(images: np.ndarray, predict: Predictor, progress: Callable[[int, int], None]) -> np.ndarray:
    """(n, bins) probabilities. Every batch has the same size, so the result does not depend on the engine's tiling."""
    out = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        padded = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)])
        out.append(predict(padded)[: len(part)])
        progress(min(start + BATCH, len(images)), len(images))
    logits = np.concatenate(out).astype(np.float64)
    weight = np.exp(logits - logits.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)


def curve_from_densities(volume: Volume, z_mm: np.ndarray, density: np.ndarray, scale: Scale) -> ScoreCurve:
    """Fit the curve to the slices' distributions and read scores at the volume's own slices.

    When the anatomy runs against the stated direction, the curve is fitted upside down, so that each slice still gets
    its own score; the verdict says so.
    """
    free = fit_line(z_mm, density, scale.centers, np.geomspace(0.4, 2.5, 47), np.inf)
    reverse = fit_line(z_mm, density, scale.centers, -np.geomspace(0.4, 2.5, 47), np.inf)
    order = slice_order(float(z_mm[-1] - z_mm[0]), free, reverse)
    sign = -1.0 if order == "reversed" else 1.0
    z, p = (z_mm, density) if sign > 0 else (-z_mm[::-1], density[::-1])
    line = fit_line(z, p, scale.centers, np.linspace(0.8, 1.2, 21), SLOPE_PRIOR_SD)
    mean, sd = near_line(p, scale.centers, line.at(z))
    ruler_mm, ruler_sd = clean(z, mean, sd, line.slope)
    low, high = scale_ends(scale.position)
    unit = (high - low) / 100
    own = slice_heights(volume.image)
    cleaned = _read(sign * own, z, to_score(ruler_mm, scale.position), line.slope / unit)
    raw = np.interp(own, z_mm, to_score(density @ scale.centers, scale.position))
    sd_score = np.interp(sign * own, z, ruler_sd / unit)
    slope = (ruler_mm[-1] - ruler_mm[0]) / (z[-1] - z[0]) if len(z) > 1 else line.slope
    upright = ScoreCurve(sign * own, raw, cleaned, sd_score, unit / slope, [], None)
    landmarks = _landmarks(upright, scale, unit, sign)
    fit = Fit(order, line, free if sign > 0 else reverse, support(z, p, scale.centers, line))
    return ScoreCurve(own, raw, cleaned, sd_score, unit / slope, landmarks, judge(volume, z_mm, landmarks, fit))


def _read(z: np.ndarray, known_z: np.ndarray, known: np.ndarray, slope: float) -> np.ndarray:
    """Linear interpolation, continued with ``slope`` beyond the ends."""
    inside = np.interp(z, known_z, known)
    return inside + slope * (np.minimum(z - known_z[0], 0) + np.maximum(z - known_z[-1], 0))


def _landmarks(curve: ScoreCurve, scale: Scale, unit: float, sign: float) -> list[LandmarkPosition]:
    """Where the cleaned curve crosses each landmark's score; the doubt joins the curve's and the landmark's own."""
    low, high = curve.z_mm.min(), curve.z_mm.max()
    order = np.argsort(curve.z_mm)
    found = []
    for name, position in sorted(scale.position.items(), key=lambda item: item[1]):
        score = float(to_score(position, scale.position))
        z = float(curve.height_of(score))
        curve_sd = float(np.interp(z, curve.z_mm[order], curve.sd[order])) * unit
        doubt = float(np.hypot(curve_sd, scale.spread[name]))
        found.append(LandmarkPosition(name, score, sign * z, doubt, bool(low <= z <= high)))
    return found
