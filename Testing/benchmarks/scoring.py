"""Body part regression against the paper and the published package: backbones, objectives, verdict, stress, speed.

make study NAME=scoring      (about three hours on two cores; QUICK=1: a few steps of one backbone, nothing is stored)
make study NAME=scoring ARGS=speed       one part alone: landmarks, verdict, stress or speed; the others stay stored

Landmark errors are cross-validated by patient over all annotated scans but the sample, open and restricted: distance
of predicted and annotated height in mm, landmarks within 8 mm of a scan's end left out. Stress, thickness and scope are
measured with the shipped bundle on the restricted people. Beside the networks stand two that look at no image: each
landmark at its mean share of the scan's length ("no image"), and a straight line through the scan's own annotated
landmarks ("oracle line", the floor for scores that are linear in mm). Networks and logits are kept under $BPR_WORK: a
later run continues there.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scoring_checks import scope_rows, speed_rows, stress_rows, thickness_rows, verdict_rows
from scoring_runs import Prediction, Recipe, annotated_cases, run_fold, split
from scoring_tables import Errors, comparison_rows, landmark_plot, landmark_table, recipe_table
from study import QUICK, RESULTS, Row, earlier_rows, write_study

from bpr.scoring.fit import Trust
from bpr.scoring.inference import Scale, curve_from_logits
from bpr.scoring.scale import BIN_CENTERS
from bpr.training.commands import read_config, training_ruler
from bpr.training.dataset import Case, data_folder, landmark_observations
from bpr.training.ruler import Observation, Ruler, dense_target, organ_covariance
from bpr.volume import Volume

BACKBONES = {  # configuration and number of seeds
    "vgg": 1,
    "vgg_bn": 1,
    "resnet": 1,
    "densenet": 1,
    "convnext": 1,
    "efficientnet_scratch": 1,
}
EDGE_MM = 8.0


def recipes() -> list[Recipe]:
    """All rows: the shipped recipe, each backbone from scratch, VGG16 with the two self-supervised objectives."""
    shipped = read_config(Path("score_efficientnet.yaml"))
    if QUICK:
        few = {**read_config(Path("score_resnet.yaml")), "groups": 2}
        return [Recipe("quick", 2, {**few, "schedule": {**few["schedule"], "steps": 3}})]
    rows = [Recipe("shipped", 5, shipped)]
    rows += [_seeded(name, 0) for name in BACKBONES]
    for objective in ("ssbr", "bpreg"):
        config = {**read_config(Path("score_vgg_bn.yaml")), "objective": objective, "groups": 6, "per_group": 8}
        rows.append(Recipe(objective, 3, config))
    return rows + [_seeded(name, seed) for seed in (1, 2) for name in BACKBONES if seed < BACKBONES[name]]


def _seeded(name: str, seed: int) -> Recipe:
    """A backbone's configuration with another seed."""
    config = read_config(Path(f"score_{name}.yaml"))
    return Recipe(f"{name}-{seed}", 3, {**config, "schedule": {**config["schedule"], "seed": seed}})


def scale_of(config: dict, ruler: Ruler, observations: list[Observation]) -> Scale:
    """The scale that a bundle of this configuration, trained on these observations, would carry."""
    trust = Trust(**config.get("trust", {}))
    return Scale(BIN_CENTERS, ruler.position, ruler.spread, ruler.kind, sorted(ruler.position),
                 *organ_covariance(observations, ruler), trust)  # fmt: skip


def as_volume(z_mm: np.ndarray) -> Volume:
    """A volume of the right heights without content: fitting a curve needs no more."""
    image = sitk.Image(2, 2, len(z_mm), sitk.sitkInt16)
    image.SetSpacing((1.0, 1.0, float(z_mm[1] - z_mm[0])))
    image.SetOrigin((0.0, 0.0, float(z_mm[0])))
    return Volume(image, "study", {}, [])


def self_supervised_logits(
    teaching: dict[str, Prediction], found: Prediction, observations, ruler: Ruler
) -> np.ndarray:
    """One output per slice to logits over the ruler: a straight map fitted on teaching scans, with its residual."""
    x, y = [], []
    for name, prediction in teaching.items():
        target = dense_target([o for o in observations if o.scan == name], prediction.z_mm, ruler)
        if target is not None:
            x.append(prediction.logits[:, 0])
            y.append(target[0])
    x, y = np.concatenate(x), np.concatenate(y)
    slope, offset = np.polyfit(x, y, 1)
    sd = max(float(np.std(y - slope * x - offset)), 20.0)
    return -0.5 * ((BIN_CENTERS - (slope * found.logits[:, :1] + offset)) / sd) ** 2


@dataclass(frozen=True)
class Fold:
    """What one fold's network says of its held-out scans, with the scale of its teaching scans."""

    scale: Scale
    predictions: dict[str, Prediction]


def folds_of(recipe: Recipe, data: Path, cases: list[Case], observations: list[Observation]) -> list[Fold]:
    """Train or read all folds of a recipe."""
    folds = []
    for k in range(recipe.folds):
        run = run_fold(recipe, k, data, cases)
        own = [o for o in observations if o.scan not in run.held_out]
        scale = scale_of(recipe.config, run.ruler, own)
        if recipe.config.get("objective", "few_label") != "few_label":
            scale = Scale(scale.centers, scale.position, scale.spread, scale.kind)
            predictions = {
                name: Prediction(p.z_mm, self_supervised_logits(run.teaching, p, own, run.ruler))
                for name, p in run.held_out.items()
            }
            folds.append(Fold(scale, predictions))
        else:
            folds.append(Fold(scale, run.held_out))
    return folds


def errors_of(folds: list[Fold], cases: list[Case], observations: list[Observation]) -> Errors:
    """Errors of all landmarks of all held-out scans."""
    patient = {case.id: case.patient for case in cases}
    rows = []
    for fold in folds:
        for name, found in fold.predictions.items():
            curve = curve_from_logits(as_volume(found.z_mm), found.z_mm, found.logits.astype(float), fold.scale)
            marks = {mark.name: mark for mark in curve.landmarks}
            for o in observations:
                inside = EDGE_MM <= o.z_mm <= found.z_mm[-1] - EDGE_MM
                if o.scan == name and o.landmark in marks and inside:
                    mark = marks[o.landmark]
                    rows.append((name, patient[name], o.landmark, o.kind, mark.z_mm - o.z_mm, mark.sd_mm))
    return Errors(*map(np.array, zip(*rows, strict=True)))


def blind_errors(cases: list[Case], observations: list[Observation], lengths: dict[str, float], folds: int) -> Errors:
    """Errors when every landmark is put at its mean share of a scan's length over the other folds' people."""
    patient, place = {case.id: case.patient for case in cases}, split(cases, folds)
    inside = [o for o in observations if o.scan in patient and EDGE_MM <= o.z_mm <= lengths[o.scan] - EDGE_MM]
    rows = []
    for o in inside:
        others = [x.z_mm / lengths[x.scan] for x in inside
                  if x.landmark == o.landmark and place[patient[x.scan]] != place[patient[o.scan]]]  # fmt: skip
        if others:
            error = float(np.mean(others)) * lengths[o.scan] - o.z_mm
            rows.append((o.scan, patient[o.scan], o.landmark, o.kind, error, np.nan))
    return Errors(*map(np.array, zip(*rows, strict=True)))


def oracle_errors(
    cases: list[Case], observations: list[Observation], lengths: dict[str, float], ruler: Ruler
) -> Errors:
    """Errors of a straight line through a scan's own annotated bones and airways, three of them at least."""
    patient, rows = {case.id: case.patient for case in cases}, []
    for scan in patient:
        own = [o for o in observations if o.scan == scan and o.landmark in ruler.position]
        fixed = [o for o in own if o.kind != "organ"]
        if len(fixed) < 3:
            continue
        line = np.polyfit([ruler.position[o.landmark] for o in fixed], [o.z_mm for o in fixed], 1)
        for o in own:
            if EDGE_MM <= o.z_mm <= lengths[scan] - EDGE_MM:
                error = float(np.polyval(line, ruler.position[o.landmark])) - o.z_mm
                rows.append((scan, patient[scan], o.landmark, o.kind, error, np.nan))
    return Errors(*map(np.array, zip(*rows, strict=True)))


def landmark_rows(data: Path, cases: list[Case], observations: list[Observation]) -> list[Row]:
    """Landmark errors of all recipes, with their tables and the plot."""
    results, lengths = {}, {}
    for recipe in recipes():
        folds = folds_of(recipe, data, cases, observations)
        lengths |= {name: float(p.z_mm[-1]) for fold in folds for name, p in fold.predictions.items()}
        results[recipe.name] = errors_of(folds, cases, observations)
        print(f"{recipe.name}: {results[recipe.name].summary()}", flush=True)
    if QUICK:
        return [Row("quick", results["quick"].mean("all"), "mm")]
    rows = comparison_rows(results)
    known = [o for o in observations if o.scan in lengths]
    results["no image"] = blind_errors(cases, known, lengths, 5)
    results["oracle line"] = oracle_errors(cases, known, lengths, training_ruler(data, cases)[1])
    rows += [Row(f"{name}, all, mean error", results[name].mean("all"), "mm") for name in ("no image", "oracle line")]
    (RESULTS / "scoring_recipes.md").write_text(recipe_table(results), encoding="utf-8")
    (RESULTS / "scoring_landmarks.md").write_text(landmark_table(results["shipped"]), encoding="utf-8")
    landmark_plot(results, RESULTS / "scoring.png")
    return rows


def main(asked: list[str]) -> None:
    """Measure the parts that were asked for, all when none is named; what was measured before stays in the table."""
    started, data = time.time(), data_folder(os.environ.get("BPR_DATA"))
    observations = landmark_observations(data)
    cases = annotated_cases(data, observations)
    if QUICK:
        cases = cases[:6]
    parts = {
        "landmarks": lambda: landmark_rows(data, cases, observations),
        "verdict": lambda: verdict_rows(folds_of(recipes()[0], data, cases, observations), as_volume),
        "stress": lambda: scope_rows(data) + stress_rows(data) + thickness_rows(data),
        "speed": speed_rows,
    }
    if unknown := set(asked) - set(parts):
        sys.exit(f"There is no part {unknown.pop()!r}: {', '.join(parts)}.")
    found = {row.name: row for row in (earlier_rows("scoring") if asked else [])}
    for name in asked or (["landmarks"] if QUICK else parts):
        found |= {row.name: row for row in parts[name]()}
    write_study("scoring", list(found.values()), started)


if __name__ == "__main__":
    main(sys.argv[1:])
