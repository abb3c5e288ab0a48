"""Localized networks against one baseline, where there are patients enough to tell: head and neck.

make study NAME=localized      (QUICK=1: four cases, few steps, nothing is stored)

Seven organs, 112 training and 50 test patients. The ruler cuts the scans into head, neck and upper thorax; each has its
own network. All networks are alike (DynUNet, 8 base filters, 4 mm). As when the shipped networks were made, all arms
start from one network that was trained on everything. Arms, at equal total steps:
  baseline    that network goes on for all further steps
  masked      the same network's result, cut by score after the fact: an organ may lie in its regions only
  localized   three networks with a third of the further steps each
and with one seed: localized with all further steps each, and one wider network with as many weights as the three, from
scratch with all steps.
Heights come from the shipped score bundle (its training set holds some of the test patients; the regions' margins are
centimeters). $BPR_STUDY_WORK keeps checkpoints and results: a stopped study goes on.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from segmentation_arms import WORK, Organ, compare, kept, mean_dice, organs, train
from study import QUICK, RESULTS, Row, write_study

from bpr.compute.engines import open_engine
from bpr.models import choose_bundles
from bpr.scoring.inference import score_volume
from bpr.scoring.scale import to_score
from bpr.segmentation.inference import segment_volume
from bpr.segmentation.labels import structure_by_id
from bpr.training.cases import LabeledCase, crop_to_interval, load_cases, read_labels
from bpr.training.commands import teaching_cases, training_ruler
from bpr.training.dataset import HEAD_AND_NECK, Case, data_folder, head_and_neck_cases, landmark_observations
from bpr.training.packaging import export_segmentation
from bpr.training.regions import MARGIN_MM, organ_extents
from bpr.volume import read_volume

FIRST_STEPS, MORE_STEPS = (8, 6) if QUICK else (1000, 600)  # of the common start; further ones of an arm
SEEDS = (0,) if QUICK else (0, 1, 2)
REGIONS = {  # its own organs, and others that it tells apart from them
    "head": (("brainstem", "parotid_left", "parotid_right", "mandible"), ("spinal_cord",)),
    "neck": (("larynx", "spinal_cord"), ("mandible", "parotid_left", "parotid_right", "esophagus")),
    "upper thorax": (("esophagus",), ("spinal_cord", "larynx")),
}
NAMES = sorted(HEAD_AND_NECK.values(), key=lambda name: structure_by_id(name).value)
SETTINGS = {"version": "0", "use": "open", "cases": "head_and_neck", "inputs": ["wide", "soft", "across", "front"],
            "patch": [32, 64, 64], "batch": 2}  # fmt: skip
NARROW, WIDE = [8, 16, 32, 64, 64], [14, 28, 56, 110, 110]  # WIDE has three times as many weights


@dataclass(frozen=True)
class Network:
    """A network of an arm: the ruler interval in mm that it learns from, and its structures."""

    region: str
    names: tuple[str, ...]
    low_mm: float = -math.inf
    high_mm: float = math.inf


def config(name: str, region: str, steps: int, seed: int, filters: list[int], further: bool = False) -> dict:
    """The configuration of one network, as `bpr train segmentation` takes it."""
    stage = {"steps": steps, "learning_rate": 1.5e-3 if further else 2e-3, "weight_decay": 1e-4, "warmup": 0.1,
             "clip": 12.0, "average": 0.99, "seed": seed, "rarity": 0.5}  # fmt: skip
    local = {"role": "region", "regions": [region]} if region else {"role": "baseline", "regions": []}
    return SETTINGS | local | {"bundle": name, "filters": filters, "stages": [stage], "compile": not QUICK}


def patients(data: Path) -> tuple[list[Case], list[Case]]:
    """Training and test cases: the challenge's validation patients and every fifth of the others are the test."""
    train_cases = head_and_neck_cases(data, long_only=False, split="train")
    test = head_and_neck_cases(data, long_only=False, split="validation") + train_cases[::5][:31]
    teach = [case for case in train_cases if case not in test]
    return (teach[:4], test[:2]) if QUICK else (teach, test)


def localized_networks(cases: list[Case], observations, ruler) -> list[Network]:
    """The three regions, each wide enough for its own organs in the training cases."""
    whole = [replace(case, hint=case.hint | {"partial": []}) for case in cases]  # contoured parts count as they are
    extents = organ_extents(whole, observations, ruler, cut_ends=True)
    networks = []
    for region, (own, others) in REGIONS.items():
        ends = np.array([end for name in own if name != "spinal_cord" for end in extents[name]])
        low, high = np.nanpercentile(ends[:, 0], 1) - MARGIN_MM, np.nanpercentile(ends[:, 1], 99) + MARGIN_MM
        networks.append(Network(region, own + others, float(low), float(high)))
    return networks


def parts_of(network: Network, cases: list[LabeledCase]) -> list[LabeledCase]:
    """What a network learns from: the cases, or their parts in its interval."""
    if not network.region:
        return cases
    return [part for case in cases if (part := crop_to_interval(case, network.low_mm, network.high_mm))]


def values_of(network: Network) -> list[int]:
    return sorted(structure_by_id(name).value for name in network.names)


def trained(arm: str, networks: list[Network], steps: int, seed: int, cases: list[LabeledCase], start: Path) -> list:
    """Bundles of an arm's networks, trained further from the common start."""
    bundles = []
    for network in networks:
        name = f"{arm}_{network.region.replace(' ', '_') or 'all'}_{seed}"
        setting = config(name, network.region, steps, seed, NARROW, further=True)
        folder = train(f"localized/{name}", setting, parts_of(network, cases), values_of(network), start)
        bundles.append(export_segmentation(setting, folder, WORK / "localized" / "bundles")[0])
    return bundles


def measured(arm: str, bundles: list, networks: list[Network], cases: list[Case], curves: dict, ruler, masked=None):
    """Results of an arm on the test cases; ``masked`` are the networks by whose regions organs are cut."""

    def heights(curve, *ends_mm: float) -> tuple[float, ...]:
        return tuple(
            float(curve.height_of(to_score(mm, ruler.position))) if math.isfinite(mm) else mm for mm in ends_mm
        )

    def run() -> list[Organ]:
        engine, predictors, found = open_engine(), {}, []
        load = lambda bundle, **_: predictors.setdefault(bundle.name, engine.predictor(bundle))  # noqa: E731
        for case in cases:
            volume, curve = read_volume(case.path), curves[case.id]
            windows = {b: heights(curve, n.low_mm, n.high_mm) for b, n in zip(bundles, networks, strict=True)}
            limits = {}
            for name in NAMES if masked else ():
                ends = [heights(curve, n.low_mm, n.high_mm) for n in masked if name in n.names]
                limits[structure_by_id(name).value] = (min(e[0] for e in ends), max(e[1] for e in ends))
            wanted = [structure_by_id(name).value for name in NAMES]
            result = segment_volume(volume, windows, load, wanted, heights=limits)
            truth = read_labels(case)
            found += organs(case, truth, result.labels, NAMES, np.ones(truth.GetSize()[2], bool))
        return found

    return kept(f"localized/results/{arm}", run) if not QUICK else run()


def main() -> None:
    """Train, measure, compare."""
    started, data = time.time(), data_folder(None)
    teach, test = patients(data)
    _, ruler = training_ruler(data, teaching_cases(data, "open"))
    observations = landmark_observations(data)
    cases = load_cases(teach, observations, ruler, WORK / "cache" / "grids")
    regions = localized_networks(teach, observations, ruler)
    whole = [Network("", tuple(NAMES))]
    score = choose_bundles([])["score"]
    predict = open_engine().predictor(score)
    curves = {case.id: score_volume(read_volume(case.path), score, predict) for case in test}
    arms: dict[str, list[Organ]] = {name: [] for name in ("baseline", "masked", "localized")}
    for seed in SEEDS:
        start = train(f"localized/start_{seed}", config("start", "", FIRST_STEPS, seed, NARROW), cases,
                      values_of(whole[0]))  # fmt: skip
        one = trained("baseline", whole, MORE_STEPS, seed, cases, start)
        three = trained("localized", regions, MORE_STEPS // 3, seed, cases, start)
        arms["baseline"] += measured(f"baseline_{seed}", one, whole, test, curves, ruler)
        arms["masked"] += measured(f"masked_{seed}", one, whole, test, curves, ruler, masked=regions)
        arms["localized"] += measured(f"localized_{seed}", three, regions, test, curves, ruler)
    store(arms, started)  # the arms with one seed take as long again
    if not QUICK:
        start = WORK / "localized" / "start_0"
        long = trained("long", regions, MORE_STEPS, 0, cases, start)
        arms["localized, equal steps each"] = measured("long_0", long, regions, test, curves, ruler)
        setting = config("wide_all_0", "", FIRST_STEPS + MORE_STEPS, 0, WIDE)
        folder = train("localized/wide_all_0", setting, cases, values_of(whole[0]))
        wide = [export_segmentation(setting, folder, WORK / "localized" / "bundles")[0]]
        arms["one wider network"] = measured("wide_0", wide, whole, test, curves, ruler)
        store(arms, started)


def store(arms: dict[str, list[Organ]], started: float) -> None:
    """Write the results of the arms that are done."""
    write_study("localized", rows(arms), started)
    if not QUICK:
        (RESULTS / "localized_organs.md").write_text(table(arms), encoding="utf-8")


def rows(arms: dict[str, list[Organ]]) -> list[Row]:
    """Goals: better in six of seven organs, mean gain at least 0.015 with an interval above 0, better than masked."""
    gains, overall = compare(arms["localized"], arms["baseline"])
    _, over_masked = compare(arms["localized"], arms["masked"])
    found = [
        Row("organs in which localized is better than the baseline", sum(g.gain.mean > 0 for g in gains), "", ">= 6"),
        Row("mean gain of Dice, localized over baseline", overall.mean, "", ">= 0.015"),
        Row("its lower 95 % bound", overall.low, "", ">= 0"),
        Row("mean gain of Dice, localized over masked baseline", over_masked.mean, "", ">= 0"),
        Row("its lower 95 % bound, masked", over_masked.low, ""),
        Row("test patients", len({r.patient for r in arms["baseline"]}), "", ">= 40"),
    ]
    for name, results in arms.items():
        scored = [r for r in results if r.dice is not None]
        found.append(Row(f"mean Dice, {name}", float(np.mean([e.mean for e in mean_dice(results).values()])), ""))
        found.append(Row(f"surface Dice at 3 mm, {name}", float(np.mean([r.nsd for r in scored])), ""))
        found.append(Row(f"95 % Hausdorff distance, {name}", float(np.mean([r.hd95_mm for r in scored])), "mm"))
        found.append(Row(f"false volume per organ, {name}", float(np.mean([r.false_ml for r in results])), "ml"))
    return found


def table(arms: dict[str, list[Organ]]) -> str:
    """Dice by organ and arm, with the gain of the localized networks."""
    tables = {name: mean_dice(results) for name, results in arms.items()}
    lines = ["| organ | " + " | ".join(tables) + " | gain | 95 % interval | p (Holm) |", "|" + "---|" * (len(arms) + 4)]
    for gain in compare(arms["localized"], arms["baseline"])[0]:
        values = " | ".join(f"{t[gain.structure].mean:.3f}" for t in tables.values())
        e = gain.gain
        lines.append(f"| {gain.structure} | {values} | {e.mean:+.3f} | {e.low:+.3f} to {e.high:+.3f} | {gain.p:.2g} |")
    seconds = [json.loads(p.read_text()) for p in sorted(WORK.glob("localized/*/seconds.json"))]
    return "\n".join(lines) + f"\n\nTraining of all arms: {sum(seconds) / 60:.0f} minutes.\n"


if __name__ == "__main__":
    main()
