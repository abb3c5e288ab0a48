"""Localized networks against one baseline on the trunk, cross-validated by patient, beside a second reader's Dice.

make study NAME=trunk      (QUICK=1: one fold, few cases and steps, nothing is stored)

33 people with up to 22 structures, labeled in part. Each fold trains a baseline on two thirds of the people, then from
its weights either four region networks or the baseline itself for the same number of extra steps. Arms:
  localized   thorax, upper abdomen, lower abdomen, pelvis: a network each, merged as in the main job
  baseline    the one network with equal total steps
  masked      its result cut by score after the fact: an organ may lie in its regions only
Regions and structures' intervals are fitted on the fold's training people. Heights come from the shipped score bundle,
whose training set holds the open scans; its cross-validated error is 9 mm, the margins of regions are wider. What lies
outside of all four regions (the spine of the neck) does not count. BPR_FOLDS chooses folds ("0" or "0,1,2");
$BPR_STUDY_WORK keeps checkpoints and results: a stopped study goes on.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from segmentation_arms import WORK, Organ, compare, kept, mean_dice, organs, train
from study import QUICK, RESULTS, Row, write_study

from bpr.compute.engines import open_engine
from bpr.models import choose_bundles
from bpr.regions import region_table
from bpr.scoring.inference import score_volume
from bpr.scoring.scale import to_ruler
from bpr.segmentation.inference import segment_volume
from bpr.segmentation.labels import structure_by_id
from bpr.training.cases import crop_to_interval, load_cases, read_labels
from bpr.training.commands import read_config, region_structures, training_ruler
from bpr.training.dataset import Case, data_folder, landmark_observations, trunk_cases
from bpr.training.packaging import export_segmentation
from bpr.training.regions import fit_extents, fit_regions
from bpr.volume import read_volume

FOLDS = 3
FIRST_STEPS, MORE_STEPS = (8, 4) if QUICK else (2500, 700)  # of the common start; of each region's network
REGIONS = ("thorax", "upper abdomen", "lower abdomen", "pelvis")
GOALS = {"lung_left": 0.96, "lung_right": 0.96, "liver": 0.91, "hip_left": 0.87, "hip_right": 0.87, "femur_left": 0.87,
         "femur_right": 0.87, "spine": 0.87, "spleen": 0.85, "kidney_left": 0.85, "kidney_right": 0.85, "heart": 0.85,
         "sacrum": 0.85, "aorta": 0.80, "iliopsoas_left": 0.77, "iliopsoas_right": 0.77, "urinary_bladder": 0.77,
         "trachea": 0.80, "stomach": 0.65}  # fmt: skip


def folds(cases: list[Case]) -> list[list[str]]:
    """Patients of each fold; people with a pelvis or a labeled trachea, who are few, are spread evenly."""

    def rare(patient: str) -> tuple:
        names = {name for case in cases if case.patient == patient for name in case.hint["labelled"]}
        return ("femur_left" in names, "trachea" in names, "pancreas" in names, patient)

    ordered = sorted({case.patient for case in cases}, key=rare)
    return [ordered[k::FOLDS] for k in range(FOLDS)]


def setting(name: str, regions: list[str], steps: int, seed: int, local: bool) -> dict:
    """Configuration of a network: that of the shipped one with other steps."""
    shipped = read_config(Path("segmentation_baseline.yaml"))
    stage = shipped["stages"][0] | {"steps": steps, "seed": seed, "learning_rate": 2e-3 if seed == 0 else 1.5e-3}
    role = {"role": "region", "regions": regions} if local else {"role": "baseline", "regions": list(REGIONS)}
    return shipped | role | {"bundle": name, "use": "all", "stages": [stage], "compile": not QUICK}


def networks(fold: int, teach: list[Case], ruler, observations, cache: Path):
    """Bundles of the fold's arms, and the regions and intervals fitted on its training cases."""
    cases = load_cases(teach, observations, ruler, cache)
    intervals = fit_regions(teach, observations, ruler)
    regions = {r.name: replace(r, low_score=intervals[r.name][0], high_score=intervals[r.name][1])
               for r in region_table()}  # fmt: skip
    everything = region_structures(list(REGIONS))
    start = train(f"trunk/fold{fold}/start", setting("start", [], FIRST_STEPS, 0, False), cases, everything)
    bundles = {}
    for name in REGIONS:
        key = name.replace(" ", "_")
        config = setting(key, [name], MORE_STEPS, 1, True)
        bounds = [float(to_ruler(score, ruler.position)) for score in intervals[name]]
        parts = [part for case in cases if (part := crop_to_interval(case, *bounds))]
        folder = train(f"trunk/fold{fold}/{key}", config, parts, region_structures([name]), start)
        bundles[name] = export_segmentation(config, folder, WORK / f"trunk/fold{fold}/bundles")[0]
    config = setting("baseline", [], len(REGIONS) * MORE_STEPS, 1, False)
    folder = train(f"trunk/fold{fold}/baseline", config, cases, everything, start)
    baseline = export_segmentation(config, folder, WORK / f"trunk/fold{fold}/bundles")[0]
    return bundles, baseline, regions, fit_extents(teach, observations, ruler)


def measured(arm: str, fold: int, windows_of, extents: dict, cases: list[Case], curves: dict, regions) -> list[Organ]:
    """Results of an arm on a fold's test cases; ``windows_of`` gives the networks' windows for a curve."""
    values = region_structures(list(REGIONS))
    names = [s for s in sorted(extents, key=lambda n: structure_by_id(n).value) if structure_by_id(s).value in values]

    def run() -> list[Organ]:
        engine, predictors, found = open_engine(), {}, []
        load = lambda bundle, **_: predictors.setdefault(bundle.name, engine.predictor(bundle))  # noqa: E731
        for case in cases:
            curve = curves[case.id]
            limits = {structure_by_id(n).value: tuple(curve.height_of(np.array(extents[n]))) for n in names}
            result = segment_volume(read_volume(case.path), windows_of(curve), load, values,
                                    heights=limits if arm != "baseline" else None)  # fmt: skip
            truth = read_labels(case)
            z = truth.GetOrigin()[2] + np.arange(truth.GetSize()[2]) * truth.GetSpacing()[2]
            ends = np.array([regions[name].heights(curve) for name in REGIONS])
            found += organs(case, truth, result.labels, names, (z >= ends.min()) & (z <= ends.max()))
        return found

    return run() if QUICK else kept(f"trunk/fold{fold}/results/{arm}", run)


def one_fold(fold: int, cases: list[Case], test: list[str], observations, curve_of) -> dict[str, list[Organ]]:
    """Train and measure all arms of a fold."""
    teach = [case for case in cases if case.patient not in test]
    held_out = [case for case in cases if case.patient in test][: 1 if QUICK else None]
    folder = data_folder(None)
    _, ruler = training_ruler(folder, [case for case in trunk_cases(folder) if case.patient not in test])
    local, baseline, regions, extents = networks(fold, teach, ruler, observations, WORK / "cache" / "grids")
    curves = {case.id: curve_of(case) for case in held_out}

    def windows(curve) -> dict:
        return {local[name]: tuple(regions[name].heights(curve)) for name in REGIONS}

    whole = lambda curve: {baseline: (-np.inf, np.inf)}  # noqa: E731
    arms = {"localized": windows, "baseline": whole, "masked": whole}
    return {name: measured(name, fold, of, extents, held_out, curves, regions) for name, of in arms.items()}


def second_reader(folder: Path, cases: list[Case]) -> list[Organ]:
    """The second reader's labels measured like a network's."""
    found = []
    for case in cases:
        other = folder / "ct_labels" / "second_reader" / case.labels.name
        if other.is_file():
            truth = read_labels(case)
            found += organs(case, truth, sitk.ReadImage(str(other)), case.hint["labelled"],
                            np.ones(truth.GetSize()[2], bool))  # fmt: skip
    return [organ for organ in found if organ.dice]  # a structure that the second reader left out is no disagreement


def main() -> None:
    """All folds that are asked for, then the tables."""
    started, folder = time.time(), data_folder(None)
    cases = [case for case in trunk_cases(folder) if case.labels]
    observations = landmark_observations(folder)
    score = choose_bundles([])["score"]
    predict = open_engine().predictor(score)
    chosen = [0] if QUICK else [int(k) for k in os.environ.get("BPR_FOLDS", "0,1,2").split(",")]
    arms: dict[str, list[Organ]] = {}
    for fold in chosen:
        test = folds(cases)[fold]
        pool = [c for c in cases if c.patient in test] + [c for c in cases if c.patient not in test][:3]
        found = one_fold(fold, pool if QUICK else cases, test, observations,
                         lambda case: score_volume(read_volume(case.path), score, predict))  # fmt: skip
        for name, results in found.items():
            arms.setdefault(name, []).extend(results)
    write_study("trunk", rows(arms, len(chosen)), started)
    if not QUICK:
        (RESULTS / "trunk_organs.md").write_text(table(arms, second_reader(folder, cases)), encoding="utf-8")


def rows(arms: dict[str, list[Organ]], folds_done: int) -> list[Row]:
    """Dice by structure against the goals, and the arms' difference."""
    gains, overall = compare(arms["localized"], arms["baseline"])
    _, over_masked = compare(arms["localized"], arms["masked"])
    found = [Row("folds", folds_done, "of 3", ">= 3")]
    for name, estimate in mean_dice(arms["localized"]).items():
        found.append(Row(f"Dice, {name}", estimate.mean, "", f">= {GOALS[name]}" if name in GOALS else ""))
    found += [
        Row(f"structures in which localized is better, of {len(gains)}", sum(g.gain.mean > 0 for g in gains), ""),
        Row("mean gain of Dice, localized over baseline", overall.mean, ""),
        Row("its lower 95 % bound", overall.low, ""),
        Row("mean gain of Dice, localized over masked baseline", over_masked.mean, ""),
        Row("its lower 95 % bound, masked", over_masked.low, ""),
    ]
    for name, results in arms.items():
        found.append(Row(f"mean Dice, {name}", float(np.nanmean([e.mean for e in mean_dice(results).values()])), ""))
    return found


def table(arms: dict[str, list[Organ]], reader: list[Organ]) -> str:
    """Dice by structure and arm with intervals, beside the second reader's."""
    tables, second = {name: mean_dice(results) for name, results in arms.items()}, mean_dice(reader)
    lines = ["| structure | n | localized | 95 % interval | baseline | masked | gain | p (Holm) | second reader |",
             "|" + "---|" * 9]  # fmt: skip
    for gain in compare(arms["localized"], arms["baseline"])[0]:
        e = tables["localized"][gain.structure]
        other = f"{second[gain.structure].mean:.2f}" if gain.structure in second else ""
        lines.append(
            f"| {gain.structure} | {e.n} | {e.mean:.3f} | {e.low:.3f} to {e.high:.3f} "
            f"| {tables['baseline'][gain.structure].mean:.3f} | {tables['masked'][gain.structure].mean:.3f} "
            f"| {gain.gain.mean:+.3f} | {gain.p:.2g} | {other} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
