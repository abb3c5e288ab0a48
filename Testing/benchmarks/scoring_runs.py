"""Cross-validated trainings behind the scoring study: one folder of logits per row, kept where a later run finds it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from bpr.scoring.slices import network_input, slice_stack
from bpr.training.commands import training_ruler
from bpr.training.dataset import Case, first_slice_height, head_and_neck_cases, trunk_cases
from bpr.training.ruler import Observation, Ruler
from bpr.training.score import train_score_network
from bpr.training.score_slices import load_scans

WORK = Path(os.environ.get("BPR_WORK", "/tmp/bpr-study"))
STEP_MM = 2.5


@dataclass(frozen=True)
class Recipe:
    """One row of the table: what is trained, in how many folds, from which seed; ``config`` as in the YAML files."""

    name: str
    folds: int
    config: dict = field(hash=False)

    def folder(self, fold: int) -> Path:
        """Where this fold's network and predictions are kept."""
        return WORK / "scoring" / self.name / f"fold{fold}"


@dataclass(frozen=True)
class Prediction:
    """What a network says about one held-out scan: logits (n, outputs) at heights z_mm from the file's first slice."""

    z_mm: np.ndarray
    logits: np.ndarray


def annotated_cases(data: Path, observations: list[Observation]) -> list[Case]:
    """All trunk scans with landmarks, open and restricted: studies may use both, bundles may not."""
    names = {o.scan for o in observations}
    return [case for case in trunk_cases(data) if case.id in names]


def split(cases: list[Case], folds: int) -> dict[str, int]:
    """Patient to fold: patients are dealt in the order of their number of scans, then by name."""
    patients = sorted({c.patient for c in cases}, key=lambda p: (-sum(c.patient == p for c in cases), p))
    return {patient: k % folds for k, patient in enumerate(patients)}


@dataclass(frozen=True)
class FoldRun:
    """One fold: the ruler of its teaching scans, and the predictions of its held-out scans.

    ``teaching`` holds predictions of some teaching scans too where the outputs need calibration on them.
    """

    ruler: Ruler
    held_out: dict[str, Prediction]
    teaching: dict[str, Prediction]


def run_fold(recipe: Recipe, fold: int, data: Path, cases: list[Case]) -> FoldRun:
    """Train on the other folds and predict this one; what is done already is read from disk."""
    place = split(cases, recipe.folds)
    teaching = [case for case in cases if place[case.patient] != fold]
    held_out = [case for case in cases if place[case.patient] == fold]
    observations, ruler = training_ruler(data, teaching)
    folder = recipe.folder(fold)
    calibrated = recipe.config.get("objective", "few_label") != "few_label"
    asked = held_out + (teaching if calibrated else [])
    if not (folder / "predictions.npz").exists():
        scans = load_scans(teaching + head_and_neck_cases(data), observations, ruler, WORK / "cache" / "slices")
        network = train_score_network(recipe.config, scans, folder, resume=True).eval()
        torch.save(network.state_dict(), folder / "weights.pt")
        np.savez_compressed(folder / "predictions.npz", **_predict_all(network, asked, recipe.config.get("pixels")))
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    stored = np.load(folder / "predictions.npz")
    found = {case.id: Prediction(stored[f"{case.id} z"], stored[f"{case.id} logits"]) for case in asked}
    return FoldRun(ruler, {c.id: found[c.id] for c in held_out}, {c.id: found[c.id] for c in teaching if calibrated})


def _predict_all(network: torch.nn.Module, cases: list[Case], pixels: int | None) -> dict[str, np.ndarray]:
    stored = {}
    for case in cases:
        stack = slice_stack(sitk.ReadImage(str(case.path)), STEP_MM)
        stored[f"{case.id} z"] = stack.z_mm - first_slice_height(case.path)
        stored[f"{case.id} logits"] = predict(network, network_input(stack, pixels))
    return stored


def predict(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits of all slices, in batches of 64."""
    with torch.inference_mode():
        parts = [network(torch.from_numpy(images[i : i + 64].copy())) for i in range(0, len(images), 64)]
    return torch.cat(parts).float().numpy()
