"""What the segmentation studies share: training an arm, measuring a result by organ, comparing arms."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.stats import wilcoxon

from bpr.evaluation.statistics import Estimate, bootstrap_mean
from bpr.segmentation.labels import structure_by_id
from bpr.segmentation.network import build_network
from bpr.training.cases import LabeledCase
from bpr.training.commands import learn
from bpr.training.dataset import Case

WORK = Path(os.environ.get("BPR_STUDY_WORK", "study-work"))
LEAST_VOXELS = 30  # of a label; below, Dice says nothing
TOLERANCE_MM = 3.0  # of the normalized surface Dice


@dataclass(frozen=True)
class Organ:
    """One structure in one test case. Where it is absent there is no Dice, but what was found counts as false."""

    case: str
    patient: str
    structure: str
    dice: float | None
    nsd: float | None
    hd95_mm: float | None
    false_ml: float


def train(name: str, config: dict, cases: list[LabeledCase], classes: list[int], start: Path | None = None) -> Path:
    """Train a network, or go on where its training was stopped; returns the folder with its weights."""
    folder = WORK / name
    if not (folder / "weights.pt").is_file():
        print(f"training {name}: {len(cases)} cases, {len(classes)} structures", flush=True)
        torch.manual_seed(config["stages"][0]["seed"])
        network = build_network(len(classes) + 1, config["filters"], len(config["inputs"]))
        if start:
            copy_weights(network, start, classes)
        began = time.time()
        learn(network, cases, classes, config, folder, resume=True)
        (folder / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
        (folder / "seconds.json").write_text(json.dumps(time.time() - began), encoding="utf-8")
        torch.save(network.state_dict(), folder / "weights.pt")
    return folder


def copy_weights(network: torch.nn.Module, start: Path, classes: list[int]) -> None:
    """Begin from another arm's weights, output channels by structure."""
    from bpr.training.commands import start_from

    known = json.loads((start / "classes.json").read_text(encoding="utf-8"))
    start_from(network, torch.load(start / "weights.pt", weights_only=True), classes, known)


def organs(case: Case, truth: sitk.Image, found: sitk.Image, names: list[str], seen: np.ndarray) -> list[Organ]:
    """Compare labels on the truth's grid, in the slices ``seen`` (z,) bool only."""
    labels = sitk.GetArrayFromImage(truth)
    guess = sitk.GetArrayFromImage(sitk.Resample(found, truth, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    step = truth.GetSpacing()[::-1]
    absent = {text.split(" ")[0] for text in case.hint["absent"]}
    results = []
    for name in names:
        value, looked = structure_by_id(name).value, seen.copy()
        if name in case.hint.get("partial", []):
            contoured = np.flatnonzero((labels == value).any((1, 2)))
            looked[: contoured.min(initial=len(looked))], looked[contoured.max(initial=0) + 1 :] = False, False
        a, b = labels[looked] == value, guess[looked] == value
        false = float((b & ~a).sum() * np.prod(step) / 1000)
        if name in case.hint["labelled"] and a.sum() >= LEAST_VOXELS:
            results.append(Organ(case.id, case.patient, name, *_overlap(a, b, step), false))
        elif name in absent:
            results.append(Organ(case.id, case.patient, name, None, None, None, false))
    return results


def _overlap(a: np.ndarray, b: np.ndarray, step: tuple[float, ...]) -> tuple[float, float, float]:
    """Dice, surface Dice at 3 mm and 95 % Hausdorff distance in mm; a structure that was missed counts 0, 0 and 200."""
    dice = float(2 * (a & b).sum() / (a.sum() + b.sum()))
    if not b.any():
        return dice, 0.0, 200.0
    box = tuple(slice(max(k.min() - 2, 0), k.max() + 3) for k in np.nonzero(a | b))
    pair = [torch.from_numpy(mask[box][None, None].copy()).float() for mask in (b, a)]
    nsd = compute_surface_dice(*pair, [TOLERANCE_MM], include_background=True, spacing=step)
    distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=step)
    return dice, float(nsd), float(distance)


def kept(name: str, run) -> list[Organ]:
    """What ``run`` returns, stored so that a stopped study goes on."""
    path = WORK / f"{name}.json"
    if not path.is_file():
        found = [asdict(organ) for organ in run()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
    return [Organ(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def mean_dice(results: list[Organ]) -> dict[str, Estimate]:
    """Mean Dice per structure with its interval over patients."""
    table = {}
    for name in sorted({r.structure for r in results}, key=lambda name: structure_by_id(name).value):
        rows = [r for r in results if r.structure == name and r.dice is not None]
        table[name] = bootstrap_mean([r.dice for r in rows], [r.patient for r in rows])
    return table


@dataclass(frozen=True)
class Gain:
    """Dice of one arm minus another's by structure, ``p`` by Wilcoxon's test over patients, Holm-corrected."""

    structure: str
    gain: Estimate
    p: float


def compare(first: list[Organ], second: list[Organ]) -> tuple[list[Gain], Estimate]:
    """``first`` minus ``second``: by structure, and over all (mean of a patient's organs, bootstrap by patient)."""
    pairs: dict[str, dict[str, list[float]]] = {}
    for name, rows in (("first", first), ("second", second)):
        for r in rows:
            if r.dice is not None:
                pairs.setdefault(r.structure, {}).setdefault(f"{r.case}", {}).setdefault(name, []).append(r.dice)
    patient = {r.case: r.patient for r in first}
    changes = {
        structure: {case: np.mean(d["first"]) - np.mean(d["second"]) for case, d in cases.items() if len(d) == 2}
        for structure, cases in pairs.items()
    }
    raw = {s: float(wilcoxon(list(c.values())).pvalue) if np.any(list(c.values())) else 1.0 for s, c in changes.items()}
    corrected = holm(raw)
    gains = [
        Gain(s, bootstrap_mean(list(c.values()), [patient[case] for case in c]), corrected[s])
        for s, c in sorted(changes.items(), key=lambda item: structure_by_id(item[0]).value)
    ]
    cases = sorted({case for c in changes.values() for case in c})
    overall = [np.mean([c[case] for c in changes.values() if case in c]) for case in cases]
    return gains, bootstrap_mean(overall, [patient[case] for case in cases])


def holm(p: dict[str, float]) -> dict[str, float]:
    """Holm's step-down correction of several p values."""
    corrected, worst = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.get)):
        worst = max(worst, min(1.0, p[name] * (len(p) - rank)))
        corrected[name] = worst
    return corrected
