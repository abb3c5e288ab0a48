"""Dice of a network on teaching cases, on the networks' grid and only where something is marked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bpr.evaluation.statistics import Estimate, bootstrap_mean
from bpr.seed.cases import TeachingCase
from bpr.seed.taught import find_structure
from bpr.segmentation.grid import network_channels
from bpr.segmentation.interface import Interface
from bpr.segmentation.labels import structure_by_value
from bpr.segmentation.windows import Predictor, predict_grid
from bpr.training.cases import OUTSIDE

if TYPE_CHECKING:
    from bpr.seed.kinds import Kind, Taught

LEAST_VOXELS = 8  # of an organ in what is marked; below, Dice says nothing


@dataclass(frozen=True)
class OrganDice:
    """One structure in one case; ``dice`` is None where it is absent."""

    case: str
    patient: str
    domain: str
    structure: str
    dice: float | None


def probabilities(case: TeachingCase, predict: Predictor, network: Interface) -> np.ndarray:
    """(1 + classes, z, y, x) float32 of a whole case."""
    return predict_grid(network_channels(case.hu, network.inputs), predict, len(network.classes) + 1, network.tile)


def labels_of(probability: np.ndarray, classes: list[int]) -> np.ndarray:
    """(z, y, x) uint8 label-table values of the most probable channel."""
    return np.array([0, *classes], np.uint8)[probability.argmax(0)]


def dice_of(case: TeachingCase, guess: np.ndarray, classes: list[int]) -> list[OrganDice]:
    """Compare predicted labels with all that is known of a case."""
    results = []
    for value in classes:
        truth_size = guess_size = both = 0
        known = False
        for part in case.parts:
            if not part.known[value]:
                continue
            known = True
            seen = part.labels != OUTSIDE
            truth, found = (part.labels == value) & seen, (guess == value) & seen
            truth_size, guess_size = truth_size + truth.sum(), guess_size + found.sum()
            both += (truth & found).sum()
        if known and (truth_size >= LEAST_VOXELS or truth_size == 0):
            dice = float(2 * both / (truth_size + guess_size)) if truth_size else None
            results.append(OrganDice(case.id, case.patient, case.domain, structure_by_value(value).id, dice))
    return results


def measure(
    kind: Kind, cases: list[Taught], predict: Predictor, advance: Callable[[], None] = lambda: None
) -> list[OrganDice]:
    """Dice of all that is known in the cases; ``advance`` is called after each."""
    results = []
    for case in cases:
        results += kind.measure(case, predict)
        advance()
    return results


def mean_dice(results: list[OrganDice]) -> float:
    """Mean over structures of their mean Dice over cases; NaN without any."""
    names = dict.fromkeys(r.structure for r in results if r.dice is not None)
    means = [np.mean([r.dice for r in results if r.structure == name and r.dice is not None]) for name in names]
    return float(np.mean(means)) if means else float("nan")


def by_structure(results: list[OrganDice]) -> dict[str, Estimate]:
    """Mean Dice with its bootstrap interval over patients, in label-table order."""
    names = sorted({r.structure for r in results if r.dice is not None}, key=lambda name: find_structure(name).value)
    chosen = {name: [r for r in results if r.structure == name and r.dice is not None] for name in names}
    return {name: bootstrap_mean([r.dice for r in rows], [r.patient for r in rows]) for name, rows in chosen.items()}


def change(before: list[OrganDice], after: list[OrganDice]) -> Estimate:
    """Mean change of Dice, after minus before, over the patients' means, with its bootstrap interval over patients."""
    earlier = {(r.case, r.structure): r.dice for r in before if r.dice is not None}
    gains: dict[str, list[float]] = {}
    for r in after:
        if (r.case, r.structure) in earlier and r.dice is not None:
            gains.setdefault(r.patient, []).append(r.dice - earlier[r.case, r.structure])
    return bootstrap_mean([float(np.mean(values)) for values in gains.values()], list(gains))
