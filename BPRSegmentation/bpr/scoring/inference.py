"""Scoring a volume: slices every 2.5 mm through the network, one curve through all of them, scores for each slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bpr.errors import BundleError
from bpr.models import Bundle
from bpr.scoring.curve import LandmarkPosition, ScoreCurve
from bpr.scoring.fit import SLOPE_PRIOR_SD, Trust, clean, fit_line, near_line
from bpr.scoring.scale import scale_ends, to_score
from bpr.scoring.slices import INPUT_PIXELS, network_input, slice_stack
from bpr.scoring.verdict import Fit, judge, slice_order, support
from bpr.scoring.votes import HEAD_TILT, change_point, organ_heights
from bpr.volume import Volume, slice_heights

Predictor = Callable[[np.ndarray], np.ndarray]
BATCH = 16
STANDARD_STEP_MM = 2.5
POSTURE_MARGIN = 0.05  # of log likelihood per slice, by which another posture than face up must win


@dataclass(frozen=True)
class Scale:
    """What a score bundle knows beside its weights.

    Attributes:
        centers: (bins,) ruler mm.
        position, spread, kind: of the landmarks: ruler mm, standard deviation over people in mm, "bone" and so on.
        votes: landmarks with an output of their own, in the order of the outputs after the bins.
        organs, organ_covariance: landmarks that stray from the ruler together, and how, mm^2.
        trust: how well the outputs are believed, fitted on cross-validated training cases.
        pixels: edge of the network's input.
    """

    centers: np.ndarray
    position: dict[str, float]
    spread: dict[str, float]
    kind: dict[str, str] = field(default_factory=dict)
    votes: list[str] = field(default_factory=list)
    organs: list[str] = field(default_factory=list)
    organ_covariance: np.ndarray | None = None
    trust: Trust = Trust()
    pixels: int = INPUT_PIXELS

    @classmethod
    def of(cls, bundle: Bundle) -> Scale:
        """The scale stored in a score bundle's metadata. Raises BundleError when there is none."""
        facts = bundle.facts
        if "bins" not in facts or "landmarks" not in facts:
            raise BundleError(f"The model {bundle.name} is no score model: it states no scale.",
                              "Choose another one, or install the bundle again.")  # fmt: skip
        centers = facts["bins"]["first_mm"] + facts["bins"]["width_mm"] * np.arange(facts["bins"]["count"])
        marks = facts["landmarks"]
        columns = ({name: mark[key] for name, mark in marks.items()} for key in ("ruler_mm", "spread_mm", "kind"))
        trust = Trust(**facts.get("trust", {}))
        organs = facts.get("organs", {"names": [], "covariance_mm2": []})
        covariance, pixels = np.array(organs["covariance_mm2"]), facts.get("pixels", INPUT_PIXELS)
        return cls(centers, *columns, facts.get("votes", []), organs["names"], covariance, trust, pixels)


def score_volume(
    volume: Volume,
    bundle: Bundle,
    predict: Predictor,
    step_mm: float = STANDARD_STEP_MM,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ScoreCurve:
    """Score every slice of a volume.

    Args:
        predict: maps (n, 3, pixels, pixels) float32 to (n, bins + votes) logits; from a bpr.compute engine.
        step_mm: distance of the slices that the network sees; denser costs more and changes little.
        progress: called with slices done and slices in all.
    """
    scale = Scale.of(bundle)
    stack = slice_stack(volume.image, step_mm)
    images = network_input(stack, scale.pixels)
    logits = slice_logits(images, predict, progress)
    turns = posture(images, logits, predict, stack.z_mm, scale)
    if turns:
        logits = slice_logits(np.rot90(images, turns, (2, 3)), predict, progress)
    return curve_from_logits(volume, stack.z_mm, logits, scale, turns)


def slice_logits(
    images: np.ndarray, predict: Predictor, progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """(n, outputs) logits. Every batch has the same size, so the result does not depend on the engine's tiling."""
    out = []
    for start in range(0, len(images), BATCH):
        part = np.ascontiguousarray(images[start : start + BATCH])
        padded = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)])
        out.append(predict(padded)[: len(part)])
        progress(min(start + BATCH, len(images)), len(images))
    return np.concatenate(out).astype(np.float64)


def densities(logits: np.ndarray) -> np.ndarray:
    """(n, bins) probabilities from the logits of the bins."""
    weight = np.exp(logits - logits.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)


def posture(images: np.ndarray, logits: np.ndarray, predict: Predictor, z_mm: np.ndarray, scale: Scale) -> int:
    """Quarter turns after which the patient lies face up, judged on a few slices: the one whose line is likeliest.

    Face up was likeliest in all 43 training and validation scans; the margin keeps what the file says in doubt.

    Args:
        images: (n, 3, pixels, pixels) slices as the file has them, with their ``logits`` (n, outputs).
    """
    few = np.unique(np.linspace(0, len(images) - 1, min(len(images), BATCH)).round().astype(int))
    fits = []
    for turns in range(4):
        told = slice_logits(np.rot90(images[few], turns, (2, 3)), predict) if turns else logits[few]
        density = densities(told[:, : len(scale.centers)])
        line = fit_line(z_mm[few], density, scale.centers, np.linspace(0.8, 1.2, 9), SLOPE_PRIOR_SD)
        fits.append(line.log_likelihood / len(few))
    best = int(np.argmax(fits))
    return best if fits[best] > fits[0] + POSTURE_MARGIN else 0


def curve_from_logits(volume: Volume, z_mm: np.ndarray, logits: np.ndarray, scale: Scale, turns: int = 0) -> ScoreCurve:
    """Fit the curve to the slices' distributions and read scores at the volume's own slices.

    When the anatomy runs against the stated direction, the curve is fitted upside down, so that each slice still gets
    its own score; the verdict says so.
    """
    bins = len(scale.centers)
    density, votes = densities(logits[:, :bins]), logits[:, bins:]
    free = fit_line(z_mm, density, scale.centers, np.geomspace(0.4, 2.5, 47), np.inf)
    reverse = fit_line(z_mm, density, scale.centers, -np.geomspace(0.4, 2.5, 47), np.inf)
    order = slice_order(float(z_mm[-1] - z_mm[0]), free, reverse)
    sign = -1.0 if order == "reversed" else 1.0
    z, p, votes = (z_mm, density, votes) if sign > 0 else (-z_mm[::-1], density[::-1], votes[::-1])
    line = fit_line(z, p, scale.centers, np.linspace(0.8, 1.2, 21), SLOPE_PRIOR_SD)
    mean, sd = near_line(p, scale.centers, line.at(z))
    ruler_mm, ruler_sd = clean(z, mean, sd, line.slope)
    low, high = scale_ends(scale.position)
    unit = (high - low) / 100
    own = slice_heights(volume.image)
    cleaned = _read(sign * own, z, to_score(ruler_mm, scale.position), line.slope / unit)
    seen = to_score(density @ scale.centers, scale.position)
    raw = np.interp(own, z_mm, seen)
    sd_score = np.interp(sign * own, z, ruler_sd / unit) * scale.trust.curve_factor
    slope = (ruler_mm[-1] - ruler_mm[0]) / (z[-1] - z[0]) if len(z) > 1 else line.slope
    upright = ScoreCurve(sign * own, raw, cleaned, sd_score, unit / slope, [], None)
    landmarks = _landmarks(upright, scale, z, votes, sign)
    fit = Fit(order, line, free if sign > 0 else reverse, support(z, p, scale.centers, line), scale.trust)
    verdict = judge(volume, z_mm, seen, landmarks, fit, turns)
    return ScoreCurve(own, raw, cleaned, sd_score, unit / slope, landmarks, verdict, turns)


def _read(z: np.ndarray, known_z: np.ndarray, known: np.ndarray, slope: float) -> np.ndarray:
    """Linear interpolation, continued with ``slope`` beyond the ends."""
    inside = np.interp(z, known_z, known)
    return inside + slope * (np.minimum(z - known_z[0], 0) + np.maximum(z - known_z[-1], 0))


def _landmarks(
    curve: ScoreCurve, scale: Scale, z: np.ndarray, votes: np.ndarray, sign: float
) -> list[LandmarkPosition]:
    """Bones where the cleaned curve crosses their score; airways, vessels, jaw, orbits and organs by the slices' votes.

    The curve is the prior of the votes: an organ lies where the ruler puts it, give or take what people differ.
    """
    unit = (scale_ends(scale.position)[1] - scale_ends(scale.position)[0]) / 100
    order = np.argsort(curve.z_mm)
    names = sorted(scale.position, key=lambda name: scale.position[name])
    score = {name: float(to_score(scale.position[name], scale.position)) for name in names}
    height = {name: float(curve.height_of(score[name])) for name in names}
    sd = {name: float(np.interp(height[name], curve.z_mm[order], curve.sd[order])) * unit for name in names}
    doubt = {name: float(np.hypot(sd[name], scale.spread[name])) for name in names}
    correlation = scale.trust.vote_correlation_mm
    voted = {}
    for name in scale.votes:
        if scale.kind[name] == "airway_vessel" or name in HEAD_TILT:
            own = votes[:, scale.votes.index(name)]
            voted[name] = change_point(z, own, height[name], doubt[name], correlation)
    if scale.organs:
        prior = np.array([height[name] for name in scale.organs])
        spread = np.diag([sd[name] ** 2 for name in scale.organs]) + scale.organ_covariance
        own = votes[:, [scale.votes.index(name) for name in scale.organs]]
        found, doubts = organ_heights(z, own, prior, spread, correlation)
        voted |= dict(zip(scale.organs, zip(found, doubts * scale.trust.organ_factor, strict=True), strict=True))
    height |= {name: float(found) for name, (found, _) in voted.items()}
    doubt |= {name: float(sd_mm) for name, (_, sd_mm) in voted.items()}
    low, high = curve.z_mm.min(), curve.z_mm.max()
    inside = {name: bool(low <= height[name] <= high) for name in names}
    return [LandmarkPosition(n, score[n], sign * height[n], doubt[n], inside[n]) for n in names]
