"""Body composition on the labeled L3 slices, cross-validated by patient: candidates, the shipped one, and finding L3.

make study NAME=bodycomposition   (QUICK=1: two candidates, one fold, a few steps; BPR_BODY_WORK keeps what is trained)

Candidates get the same processor seconds, so the larger ones see fewer steps.
"""

from __future__ import annotations

import csv
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage
from study import QUICK, Row, part, write_study

from bpr.body_composition.evaluation import TissueScore, estimates, score_slices
from bpr.body_composition.level import find_level
from bpr.body_composition.slices import body_of
from bpr.body_composition.spine import refine_level
from bpr.body_composition.tissues import FAT_HU, MUSCLE_HU, TISSUES
from bpr.body_composition.train_commands import cross_validate, fit, labeling, read_config
from bpr.body_composition.training import LabeledSlice, folds_by_patient, load_slices
from bpr.compute.engines import open_engine
from bpr.models import choose_bundles
from bpr.scoring.inference import score_volume
from bpr.training.dataset import first_slice_height, trunk_cases
from bpr.volume import read_volume

FOLDS = 5
CANDIDATES = {  # name -> network, steps that take about 30 processor seconds
    "UNet": ({"kind": "UNet", "filters": (16, 24, 48, 96, 128)}, 160),
    "VNet": ({"kind": "VNet", "dropout": 0.1}, 40),
    "SegResNet": ({"kind": "SegResNet", "filters": 12}, 80),
    "UNETR": ({"kind": "UNETR", "filters": 12, "hidden": 96}, 64),
    "SwinUNETR": ({"kind": "SwinUNETR", "filters": 12}, 60),
}
WALL_MM = 22.0
LEVEL_GOAL_MM = 10.0


def by_threshold(hu: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """The baseline without learning: HU ranges, and the body wall as a band of 22 mm under the subcutaneous fat."""
    body = body_of(hu, spacing[1])
    fat, muscle = ((hu >= low) & (hu <= high) for low, high in (FAT_HU, MUSCLE_HU))
    deep = body & (ndimage.distance_transform_edt(body, spacing) > 6) & (hu > FAT_HU[1])  # without the skin
    padded = np.pad(deep, 20)
    closed = ndimage.binary_closing(padded, iterations=max(1, round(16 / spacing[0])))[20:-20, 20:-20]
    parts, count = ndimage.label(ndimage.binary_opening(ndimage.binary_fill_holes(closed), iterations=2))
    inner = parts == (1 + np.argmax(np.bincount(parts.ravel())[1:]) if count else -1)
    wall = inner & (ndimage.distance_transform_edt(inner, spacing) <= WALL_MM)
    labels = np.zeros(hu.shape, np.uint8)
    labels[body & ~inner & fat] = 2
    labels[inner & fat] = 3
    labels[wall & fat] = 4
    labels[wall & muscle] = 1
    return labels


def compare(name: str, network: dict, steps: int, folds: list[list[LabeledSlice]], work: Path) -> tuple[list, float]:
    """Scores of every slice by the candidate that did not see its patient, and the seconds of training."""
    schedule = {
        "steps": steps,
        "learning_rate": 3e-3,
        "warmup": 0.15,
        "average": 0.98,
        "threads": 1,
        "checkpoint_s": 1e9,
    }
    config, scores, seconds = {"network": network, "batch": 4, "schedule": schedule}, [], 0.0
    for k, held_out in enumerate(folds[:1] if QUICK else folds):
        rest = [s for fold in folds if fold is not held_out for s in fold]
        model, took = fit(config, rest, work / f"{name}_{k}", resume=True)
        seconds += took
        scores += score_slices(held_out, labeling(model))
    return scores, seconds


def rows_of(name: str, scores: list[TissueScore], goals: bool) -> list[Row]:
    """Rows of one method; the bars apply to the one that ships."""
    rows = []
    for tissue in TISSUES:
        for measure, value in estimates(scores, tissue.id).items():
            judged = goals and tissue.id == "skeletal_muscle"
            goal = {"Dice": ">= 0.93", "area error, cm2": "<= 6"}.get(measure, "") if judged else ""
            rows.append(Row(f"{name}: {tissue.name}, {measure}", value.mean, "", goal))
    return rows


def level_errors(data: Path) -> dict[str, list[tuple[float, float]]]:
    """Found minus annotated height of L3's middle, mm, by the score curve alone and with the vertebrae's pattern.

    Scans that taught the score bundle (open) and scans that did not (restricted) apart.
    """
    engine, bundles = open_engine(), choose_bundles([])
    score, tissue = (engine.predictor(bundles[slot]) for slot in ("score", "body_composition"))
    cases = {case.id: case for case in trunk_cases(data)}
    with open(data / "landmarks.csv", newline="", encoding="utf-8") as file:
        marks = [row for row in csv.DictReader(file) if row["landmark"] == "l3_center" and row["at_edge"] == "0"]
    errors: dict[str, list[tuple[float, float]]] = {"open": [], "restricted": []}
    for row in marks[:3] if QUICK else marks:
        case = cases[row["volume"]]
        volume = read_volume(case.path)
        guess = find_level(score_volume(volume, bundles["score"], score), "L3")
        refined, pattern = refine_level(volume, guess, tissue)
        true = float(row["z_mm_from_first_slice"]) + first_slice_height(case.path)
        errors[case.use].append((guess.z_mm - true, refined.z_mm - true))
        alone, both, chance = guess.z_mm - true, refined.z_mm - true, pattern and round(pattern.chance, 2)
        print(
            f"L3 of {case.id} ({case.use}): {alone:+.1f} mm, with pattern {both:+.1f} mm, chance {chance}", flush=True
        )
    return errors


def level_rows(data: Path) -> list[Row]:
    """The bar applies to scans that taught the score bundle nothing."""
    rows = []
    errors = part("bodycomposition_levels", lambda: level_errors(data))
    for use, who in (("restricted", "scans that taught the score bundle nothing"), ("open", "scans that taught it")):
        for k, how in enumerate(("score curve alone", "with the vertebrae's pattern")):
            size = np.abs([pair[k] for pair in errors[use]])
            if not len(size):
                continue
            goal = ">= 90" if use == "restricted" and k else ""
            name = f"L3, {who} (n {len(size)}), {how}"
            rows += [Row(f"{name}: median error", float(np.median(size)), "mm"),
                     Row(f"{name}: within 10 mm", 100 * float((size <= LEVEL_GOAL_MM).mean()), "%", goal)]  # fmt: skip
    return rows


def main() -> None:
    started = time.time()
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("BPR_SHARED_DATA", root.parent / "shared" / "data"))
    slices = load_slices(data)
    folds = folds_by_patient(slices, FOLDS)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(os.environ.get("BPR_BODY_WORK", scratch))
        work.mkdir(parents=True, exist_ok=True)
        rows = [Row("labeled slices", len(slices), ""), Row("people", len({s.patient for s in slices}), "")]
        rows += rows_of("HU threshold in the body wall", score_slices(slices, by_threshold), False)
        for name, (network, steps) in dict(list(CANDIDATES.items())[:2] if QUICK else CANDIDATES.items()).items():
            scores, seconds = compare(name, network, 3 if QUICK else steps, folds, work)
            rows += [Row(f"{name}: seconds of training, all folds", seconds, "s"), *rows_of(name, scores, False)]
        if not QUICK:
            config = read_config(Path("body_composition.yaml"))
            scores = cross_validate(config, slices, work / config["bundle"], resume=True)
            rows += rows_of("shipped", scores, True)
    rows += level_rows(data)
    write_study("bodycomposition", rows, started)


if __name__ == "__main__":
    main()
