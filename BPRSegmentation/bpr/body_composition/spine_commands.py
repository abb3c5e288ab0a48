"""`bpr train vertebrae` and `bpr bundle vertebrae`: the network that ships, its card; folds for the study."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

from bpr.body_composition.counting import PLACES, ROWS_OUT, find_counted_level
from bpr.body_composition.level import find_level
from bpr.body_composition.spine import STEP_MM
from bpr.body_composition.spine_network import SpineNetwork
from bpr.body_composition.spine_training import LabeledSpine, example, fit_spines, load_spines
from bpr.body_composition.train_commands import LICENSE, read_config
from bpr.compute.engines import open_engine
from bpr.models import Bundle, choose_bundles
from bpr.resources import resources_dir
from bpr.scoring.curve import ScoreCurve
from bpr.scoring.inference import score_volume
from bpr.scoring.slices import PIXEL_MM
from bpr.training.bundle import bundle_metadata, write_bundle
from bpr.training.dataset import data_folder, landmark_observations, trunk_cases
from bpr.volume import read_volume

ROLE = "vertebrae"
TARGET = "SpineNetwork"
LEVEL, MARK = "L3", "l3_center"
EDGE_MM, GOAL_MM = 8.0, 10.0
Errors = dict[str, tuple[float, float]]  # by scan: of the score curve alone, of the count; found minus annotated, mm


def all_spines(config: dict, work: Path) -> list[LabeledSpine]:
    """The labeled spines of the data folder, open and restricted."""
    data = data_folder(config.get("data"))
    return load_spines(trunk_cases(data), landmark_observations(data), work / "cache" / "spines")


def parts_by_patient(spines: list[LabeledSpine], count: int) -> list[list[LabeledSpine]]:
    """The spines split by patient into ``count`` parts, those with an annotated L3 spread evenly."""
    with_mark = {spine.case.patient for spine in spines if MARK in spine.marks}
    patients = sorted({spine.case.patient for spine in spines}, key=lambda p: (p not in with_mark, p))
    part = {patient: number % count for number, patient in enumerate(patients)}
    return [[spine for spine in spines if part[spine.case.patient] == number] for number in range(count)]


def folds(config: dict, spines: list[LabeledSpine], folder: Path) -> Iterator[tuple[list[LabeledSpine], SpineNetwork]]:
    """Each part with the network that never saw its patients; a network that is trained already is read."""
    parts = parts_by_patient(spines, config["folds"])
    for number, held_out in enumerate(parts):
        done = folder / f"fold{number}" / "weights.pt"
        if done.is_file():
            network = SpineNetwork(**config["network"])
            network.load_state_dict(torch.load(done, weights_only=True))
        else:
            rest = [spine for part in parts if part is not held_out for spine in part]
            network = fit_spines(config, rest, done.parent, resume=True)
            torch.save(network.state_dict(), done)
        yield held_out, network.eval()


def predictor(network: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """What an engine makes of a bundle, from a network in memory."""

    def predict(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(batch)).numpy()

    return predict


def level_errors(spines: list[LabeledSpine], curve_of: Callable[[LabeledSpine], ScoreCurve], predict) -> Errors:
    """Errors of L3's middle on the scans where it is annotated and not within 8 mm of the scan's end."""
    errors = {}
    for spine in spines:
        true, z = spine.marks.get(MARK), spine.pictures.z_mm
        if true is None or min(true - z[0], z[-1] - true) < EDGE_MM:
            continue
        curve = curve_of(spine)
        level, _ = find_counted_level(spine.pictures, curve, LEVEL, predict)
        errors[spine.case.id] = (find_level(curve, LEVEL).z_mm - true, level.z_mm - true)
        print(f"{LEVEL} of {spine.case.id}: curve {errors[spine.case.id][0]:+.1f} mm, counted "
              f"{errors[spine.case.id][1]:+.1f} mm", flush=True)  # fmt: skip
    return errors


def curve_by_bundle() -> Callable[[LabeledSpine], ScoreCurve]:
    """The score curve of a scan by the shipped score bundle; each scan is scored once."""
    bundle = choose_bundles([])["score"]
    predict = open_engine().predictor(bundle)
    scored: dict[str, ScoreCurve] = {}

    def curve_of(spine: LabeledSpine) -> ScoreCurve:
        if spine.case.id not in scored:
            scored[spine.case.id] = score_volume(read_volume(spine.case.path), bundle, predict)
        return scored[spine.case.id]

    return curve_of


def train_vertebrae(config_path: Path, work: Path, resume: bool) -> Path:
    """Train on the open scans; returns the folder with ``weights.pt``. The study trains the folds."""
    config = read_config(config_path)
    spines, folder = all_spines(config, work), work / config["bundle"]
    print(f"{len(spines)} spines of {len({s.case.patient for s in spines})} people")
    teaching = [s for s in spines if config["use"] == "all" or s.case.use == "open"]
    network = fit_spines(config, teaching, folder, resume)
    torch.save(network.state_dict(), folder / "weights.pt")
    (folder / "cases.json").write_text(json.dumps(sorted(s.case.id for s in teaching)), encoding="utf-8")
    return folder


def package_vertebrae(config_path: Path, work: Path) -> Bundle:
    """The bundle in Resources/Models, with its errors on the people whom it never saw."""
    config = read_config(config_path)
    spines, folder = all_spines(config, work), work / config["bundle"]
    network = SpineNetwork(**config["network"])
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    unseen = [spine for spine in spines if spine.case.use != "open"]
    errors = level_errors(unseen, curve_by_bundle(), predictor(network.eval()))
    names = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    facts = {"role": ROLE, "modality": "CT", "use": config["use"], "pixel_mm": PIXEL_MM, "step_mm": STEP_MM}
    task = "Places along the lumbar spine in two pictures of it, to count vertebrae"
    shape = example()
    channels = {str(k): f"{place:g} vertebrae below the disc above L1" for k, place in enumerate(PLACES)}
    metadata = bundle_metadata(config, task, facts, shape, len(PLACES), channels, LICENSE, (-1.5, 1.6))
    metadata["network_data_format"]["outputs"]["pred"]["spatial_shape"] = [ROWS_OUT]
    definition = {"_target_": TARGET} | config["network"]
    target = resources_dir() / "Models" / config["bundle"]
    return write_bundle(target, network, definition, shape, metadata, _card(config, names, errors))


def _numbers(errors: Errors) -> list[str]:
    """A table of how often and how far each way of finding L3 errs."""
    rows = ["| L3 found by | within 10 mm | 95 % interval | median error, mm | largest, mm | scans |",
            "|---|---|---|---|---|---|"]  # fmt: skip
    for column, how in enumerate(("the score curve alone", "curve, count and discs")):
        size = np.abs([pair[column] for pair in errors.values()])
        within = int((size <= GOAL_MM).sum())
        low, high = binomtest(within, len(size)).proportion_ci(method="wilson")
        rows.append(f"| {how} | {100 * within / len(size):.0f} % | {100 * low:.0f} to {100 * high:.0f} % | "
                    f"{np.median(size):.1f} | {size.max():.1f} | {len(size)} |")  # fmt: skip
    return rows


def _card(config: dict, names: list[str], errors: Errors) -> str:
    """The model card."""
    lines = [
        f"# {config['bundle']} {config['version']}", "",
        "This network says of each height in two pictures of the spine, from the front and from the side, which "
        "vertebra lies there. With the score curve's guess it finds the middle of L3 and of its neighbors.", "",
        "## Data and splits", "",
        f"Trained on {len(names)} open CT with annotated T12/L1, L3 or L5/S1. The vertebrae were counted from the "
        "ribs by careful non-radiologists; a transitional vertebra shifts a level, in the annotation as here.", "",
        "## Numbers: L3 of people who taught neither this bundle nor the score bundle", "", *_numbers(errors), "",
        "`make study NAME=bodycomposition ARGS=levels` cross-validates both networks by patient on all annotated "
        "scans: Testing/benchmarks/results/bodycomposition.md.", "",
        "## Limits", "",
        "- Adults with five lumbar vertebrae. Six or four shift the count by one.",
        "- It wants ribs, pelvis or at least three vertebrae in sight; the chance that it states tells.",
        "- One of 21 scans (scoliosis, the kidney displaced) is counted one vertebra off, with a high chance stated.",
        "- Metal in the spine was never seen.", "",
        "## Settings", "",
        f"`bpr train vertebrae vertebrae.yaml`, {config['schedule']['steps']} steps, then `bpr bundle vertebrae "
        "vertebrae.yaml`.", "", "## Training cases", "", ", ".join(names), "",
    ]  # fmt: skip
    return "\n".join(lines)
