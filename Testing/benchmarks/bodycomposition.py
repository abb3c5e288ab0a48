"""Body composition on the labeled L3 slices, cross-validated by patient: candidates, the shipped one, and finding L3.

make study NAME=bodycomposition   (QUICK=1: two candidates, one fold, a few steps; BPR_BODY_WORK keeps what is trained)

ARGS=levels measures alone how L3 is found; the table keeps the rows of the slices then.

Candidates get the same processor seconds, so the larger ones see fewer steps.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage
from study import QUICK, Row, earlier_rows, part, write_study

from bpr.body_composition.evaluation import TissueScore, estimates, score_slices
from bpr.body_composition.slices import body_of
from bpr.body_composition.tissues import FAT_HU, MUSCLE_HU, TISSUES
from bpr.body_composition.train_commands import cross_validate, fit, labeling, read_config
from bpr.body_composition.training import LabeledSlice, folds_by_patient, load_slices
from bpr.compute.engines import open_engine
from bpr.models import choose_bundles
from bpr.training.dataset import first_slice_height

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


def level_errors(data: Path, work: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Found minus annotated height of L3's middle, mm, by the score curve alone and counted.

    "crossed": every scan by a score network (of the scoring study, under $BPR_WORK) and by a counting network that
    never saw its patient. "unseen": the shipped bundles on the people who taught neither.
    """
    from bpr.body_composition.spine_commands import all_spines, curve_by_bundle, folds, level_errors, predictor

    config = read_config(Path("vertebrae.yaml"))
    if QUICK:
        config |= {"folds": 2, "schedule": config["schedule"] | {"steps": 3}}
    spines = all_spines(config, work)
    spines = [spine for spine in spines if "l3_center" in spine.marks][:6] if QUICK else spines
    shipped = curve_by_bundle()
    curve = shipped if QUICK else held_out_curves(data, shipped)
    crossed: dict[str, tuple[float, float]] = {}
    for held_out, network in folds(config, spines, work / config["bundle"]):
        crossed |= level_errors(held_out, curve, predictor(network))
    bundle = choose_bundles([]).get("vertebrae")
    unseen = [spine for spine in spines if spine.case.use != "open"]
    shipped_errors = level_errors(unseen, shipped, open_engine().predictor(bundle)) if bundle else {}
    return {"crossed": crossed, "unseen": shipped_errors}


def held_out_curves(data: Path, shipped):
    """Score curves by the scoring study's networks, each scan by the one that never saw its patient."""
    from scoring import as_volume, folds_of, recipes
    from scoring_runs import annotated_cases

    from bpr.scoring.inference import curve_from_logits
    from bpr.training.dataset import landmark_observations

    observations = landmark_observations(data)
    cases = annotated_cases(data, observations)
    found = {}
    for fold in folds_of(recipes()[0], data, cases, observations):
        for name, seen in fold.predictions.items():
            found[name] = (fold.scale, seen)

    def curve_of(spine):
        scale, seen = found[spine.case.id]
        z_mm = seen.z_mm + first_slice_height(spine.case.path)
        return curve_from_logits(as_volume(z_mm), z_mm, seen.logits.astype(float), scale)

    return curve_of


def level_rows(data: Path, work: Path) -> list[Row]:
    """The bar applies to the cross-validated figure."""
    rows = []
    errors = part("bodycomposition_levels", lambda: level_errors(data, work))
    whose = {"crossed": "cross-validated by patient", "unseen": "shipped bundles, people who taught neither"}
    for key, who in whose.items():
        for k, how in enumerate(("score curve alone", "counted in pictures of the spine")):
            size = np.abs([pair[k] for pair in errors[key].values()])
            if not len(size):
                continue
            name = f"L3, {who} (n {len(size)}), {how}"
            goal = ">= 90" if key == "crossed" and k else ""
            rows += [Row(f"{name}: median error", float(np.median(size)), "mm"),
                     Row(f"{name}: largest error", float(size.max()), "mm"),
                     Row(f"{name}: within 10 mm", 100 * float((size <= LEVEL_GOAL_MM).mean()), "%", goal)]  # fmt: skip
    return rows


def tissue_rows(data: Path, work: Path) -> list[Row]:
    """The baseline, the candidates and the shipped network on the labeled slices."""
    slices = load_slices(data)
    folds = folds_by_patient(slices, FOLDS)
    rows = [Row("labeled slices", len(slices), ""), Row("people", len({s.patient for s in slices}), "")]
    rows += rows_of("HU threshold in the body wall", score_slices(slices, by_threshold), False)
    for name, (network, steps) in dict(list(CANDIDATES.items())[:2] if QUICK else CANDIDATES.items()).items():
        scores, seconds = compare(name, network, 3 if QUICK else steps, folds, work)
        rows += [Row(f"{name}: seconds of training, all folds", seconds, "s"), *rows_of(name, scores, False)]
    if not QUICK:
        config = read_config(Path("body_composition.yaml"))
        scores = cross_validate(config, slices, work / config["bundle"], resume=True)
        rows += rows_of("shipped", scores, True)
    return rows


def main(levels_alone: bool) -> None:
    started = time.time()
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("BPR_SHARED_DATA", root.parent / "shared" / "data"))
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(os.environ.get("BPR_BODY_WORK", scratch))
        work.mkdir(parents=True, exist_ok=True)
        if levels_alone:
            rows = [row for row in earlier_rows("bodycomposition") if not row.name.startswith("L3,")]
        else:
            rows = tissue_rows(data, work)
        rows += level_rows(data, work)
    write_study("bodycomposition", rows, started)


if __name__ == "__main__":
    main(sys.argv[1:] == ["levels"])
