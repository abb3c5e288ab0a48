"""Dice of segmentation bundles on labeled cases, on the labels' own grid and within the heights that they shall see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy.stats import spearmanr

from bpr.evaluation.statistics import Estimate, bootstrap_mean
from bpr.models import Bundle
from bpr.regions import find_regions, network_windows, structure_heights
from bpr.scoring.inference import Predictor, score_volume
from bpr.segmentation.inference import segment_volume
from bpr.segmentation.labels import structure_by_id
from bpr.training.cases import read_labels
from bpr.training.dataset import Case
from bpr.volume import read_volume

LEAST_VOXELS = 50  # of a label inside the heights; below, Dice says nothing


@dataclass(frozen=True)
class OrganResult:
    """One structure in one case. Absent structures have no Dice but the false-positive volume counts.

    ``doubt`` is what a person sees beside the organ (0 sure to 1), None where nothing was found.
    """

    case: str
    patient: str
    structure: str
    dice: float | None
    false_ml: float
    doubt: float | None = None


def evaluate_segmentation(
    bundles: list[Bundle],
    score: tuple[Bundle, Predictor],
    load: Callable[[Bundle], Predictor],
    cases: list[Case],
) -> list[OrganResult]:
    """Segment every labeled case with the given networks, each in its own region, as the main job does."""
    results = []
    for case in cases:
        if case.labels is None:
            continue
        volume = read_volume(case.path)
        curve = score_volume(volume, *score)
        held = [region.name for region in find_regions(volume, curve)]
        windows = network_windows([b for b in bundles if b.role == "region"], curve, held)
        windows |= {b: (-math.inf, math.inf) for b in bundles if b.role != "region"}
        structures = sorted({name for b in bundles for name in b.facts["structures"]})
        wanted = [structure_by_id(name).value for name in structures]
        found = segment_volume(volume, windows, load, wanted, heights=structure_heights(curve))
        truth = read_labels(case)
        predicted = sitk.Resample(found.labels, truth, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        results += compare(case, truth, predicted, structures, windows, found.doubts)
    return results


def compare(
    case: Case,
    truth: sitk.Image,
    predicted: sitk.Image,
    structures: list[str],
    windows: dict,
    doubts: dict[int, float],
) -> list[OrganResult]:
    """Dice per labeled structure, false-positive ml per absent one; only slices that a network saw count."""
    heights = truth.GetOrigin()[2] + np.arange(truth.GetSize()[2]) * truth.GetSpacing()[2]
    labels, guess = sitk.GetArrayFromImage(truth), sitk.GetArrayFromImage(predicted)
    voxel_ml = float(np.prod(truth.GetSpacing())) / 1000
    absent = {text.split(" ")[0] for text in case.hint["absent"]}
    results = []
    for name in structures:
        seen = np.zeros(len(heights), bool)
        for bundle, (low, high) in windows.items():
            if name in bundle.facts["structures"]:
                seen |= (heights >= low) & (heights <= high)
        value = structure_by_id(name).value
        if name in case.hint.get("partial", []):
            contoured = np.flatnonzero((labels == value).any((1, 2)))
            seen[: contoured.min(initial=len(seen))], seen[contoured.max(initial=0) + 1 :] = False, False
        a, b = labels[seen] == value, guess[seen] == value
        if name in case.hint["labelled"] and a.sum() >= LEAST_VOXELS:
            dice = float(2 * (a & b).sum() / (a.sum() + b.sum()))
            false = float((b & ~a).sum() * voxel_ml)
            results.append(OrganResult(case.id, case.patient, name, dice, false, doubts.get(value)))
        elif name in absent:
            results.append(OrganResult(case.id, case.patient, name, None, float(b.sum() * voxel_ml)))
    return results


def doubt_correlation(results: list[OrganResult]) -> tuple[float, int]:
    """Spearman's correlation of doubt and 1 - Dice over organs and cases where something was found, and their count."""
    pairs = [(r.doubt, 1 - r.dice) for r in results if r.dice is not None and r.doubt is not None]
    return (float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) > 2 else math.nan), len(pairs)


def dice_table(results: list[OrganResult]) -> dict[str, Estimate]:
    """Mean Dice with its interval per structure, in label-table order, and over all structures' means under "mean"."""
    names = sorted({r.structure for r in results}, key=lambda name: structure_by_id(name).value)
    table = {}
    for name in names:
        scored = [r for r in results if r.structure == name and r.dice is not None]
        if scored:
            table[name] = bootstrap_mean([r.dice for r in scored], [r.patient for r in scored])
    means = [estimate.mean for estimate in table.values()]
    table["mean"] = bootstrap_mean(means, [str(k) for k in range(len(means))])
    return table
