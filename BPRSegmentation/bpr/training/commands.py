"""`bpr train score|segmentation CONFIG`: from a YAML file and the data folder to a trained network on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml

from bpr.errors import InputError
from bpr.resources import read_table
from bpr.scoring.scale import to_ruler
from bpr.segmentation.labels import structure_by_id
from bpr.training.dataset import Case, data_folder, head_and_neck_cases, landmark_observations, trunk_cases
from bpr.training.loop import Schedule, Trainer
from bpr.training.processes import first_before_others, rank
from bpr.training.regions import fit_extents, fit_regions, write_extents, write_regions
from bpr.training.ruler import Observation, Ruler, organ_covariance, solve_ruler


def read_config(path: Path) -> dict:
    """The YAML configuration; a bare name means one of those that ship with the package."""
    shipped = Path(__file__).parent / "configs" / path.name
    place = path if path.is_file() else shipped
    if not place.is_file():
        known = ", ".join(sorted(file.name for file in shipped.parent.glob("*.yaml")))
        raise InputError(f"There is no training configuration {path}.", f"Give a file, or one of: {known}.")
    with open(place, encoding="utf-8") as file:
        return yaml.safe_load(file)


def teaching_cases(folder: Path, use: str) -> list[Case]:
    """Trunk cases that may teach: the open ones, or all when ``use`` is "all" (research only)."""
    return [case for case in trunk_cases(folder) if use == "all" or case.use == "open"]


def labeled_cases(folder: Path, config: dict, validation: bool = False) -> list[Case]:
    """The cases of a segmentation configuration that teach, or those that validate.

    Its ``cases`` names the set: "trunk" (the open ones teach, the restricted ones validate) or "head_and_neck".
    """
    if config["cases"] == "head_and_neck":
        return head_and_neck_cases(folder, long_only=False, split="validation" if validation else "train")
    if validation:
        return [case for case in trunk_cases(folder) if case.labels and case.use == "restricted"]
    return [case for case in teaching_cases(folder, config["use"]) if case.labels]


def train_score(config_path: Path, work: Path, resume: bool) -> Path:
    """Train a score network; returns the folder with ``weights.pt``, ``ruler.json`` and the log."""
    from bpr.training.score import train_score_network
    from bpr.training.score_slices import load_scans

    config = read_config(config_path)
    data = data_folder(config.get("data"))
    folder = work / config["bundle"]
    cases = teaching_cases(data, config["use"])
    observations, ruler = training_ruler(data, cases)
    with first_before_others():
        scans = load_scans(cases + head_and_neck_cases(data), observations, ruler, work / "cache" / "slices")
    print(f"{len(scans)} scans, {sum(len(s.target) for s in scans.values())} slices")
    network = train_score_network(config, scans, folder, resume)
    if rank():
        return folder
    torch.save(network.state_dict(), folder / "weights.pt")
    organs, covariance = organ_covariance(observations, ruler)
    stored = asdict(ruler) | {"organs": organs, "organ_covariance": np.round(covariance, 2).tolist()}
    (folder / "ruler.json").write_text(json.dumps(stored, indent=1), encoding="utf-8")
    return folder


def train_segmentation(config_path: Path, work: Path, resume: bool) -> Path:
    """Train the baseline or a region's network; returns the folder with ``weights.pt``, ``classes.json`` and logs."""
    from bpr.segmentation.network import build_network
    from bpr.training.cases import crop_to_interval, load_cases

    config = read_config(config_path)
    if "domains" in config:
        from bpr.domains.commands import train_domains

        return train_domains(config, config_path.parent, work, resume)
    data = data_folder(config.get("data"))
    folder = work / config["bundle"]
    teaching = labeled_cases(data, config)
    _, ruler = training_ruler(data, teaching_cases(data, config["use"]))
    observations = landmark_observations(data)
    with first_before_others():
        cases = load_cases(teaching, observations, ruler, work / "cache" / "grids")
    classes = region_structures(config["regions"])
    if config["role"] == "region":
        fitted = fit_regions(teaching, observations, ruler)
        scores = np.array([fitted[name] for name in config["regions"]])
        bounds = [float(to_ruler(score, ruler.position)) for score in (scores.min(), scores.max())]
        cases = [part for case in cases if (part := crop_to_interval(case, *bounds))]
    torch.manual_seed(config["stages"][0]["seed"])
    network = build_network(len(classes) + 1, config["filters"], len(config["inputs"]))
    if config["initial"]:
        initial = work / config["initial"]
        start_from(network, torch.load(initial / "weights.pt", weights_only=True), classes,
                   json.loads((initial / "classes.json").read_text()))  # fmt: skip
    print(f"{config['bundle']}: {len(cases)} cases, {len(classes)} structures")
    learn(network, cases, classes, config, folder, resume)
    if rank() == 0:
        torch.save(network.state_dict(), folder / "weights.pt")
        (folder / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    return folder


def learn(network, cases: list, classes: list[int], config: dict, folder: Path, resume: bool) -> None:
    """Train a network through the configuration's stages, each one cycle; a complete stage is only loaded on resume."""
    from bpr.training.patches import PatchSampler
    from bpr.training.segmentation import segmentation_loss
    from bpr.training.supervision import DeepSupervision, compiled, has_fast_bfloat16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sampler = PatchSampler(cases, classes, tuple(config["patch"]), inputs=config["inputs"])
    learner = DeepSupervision(network, len(classes) + 1).to(device, memory_format=torch.channels_last_3d)
    forward = compiled(learner) if config.get("compile", True) else learner
    for number, stage in enumerate(config["stages"], 1):
        done = folder / f"stage{number}" / "weights.pt"
        if resume and done.exists():
            learner.load_state_dict(torch.load(done, weights_only=True))
            continue
        loss = segmentation_loss(sampler, forward, config["batch"], stage["rarity"], device, has_fast_bfloat16(device))
        schedule = Schedule(**{key: value for key, value in stage.items() if key != "rarity"})
        trainer = Trainer(learner, [{"params": list(learner.parameters())}], schedule, done.parent)
        if resume and trainer.resume():
            print(f"resuming {done.parent.name} at step {trainer.step}")
        trainer.run(loss)
        if rank() == 0:
            torch.save(learner.state_dict(), done)
    network.to("cpu")


def training_ruler(data: Path, cases: list[Case]) -> tuple[list[Observation], Ruler]:
    """Landmarks and ruler of the cases that may teach, tied together with the head-and-neck scans."""
    names = {case.id for case in cases + head_and_neck_cases(data)}
    observations = [o for o in landmark_observations(data) if o.scan in names]
    return observations, solve_ruler(observations)


def region_structures(regions: list[str]) -> list[int]:
    """Label values that the network of these regions tells apart, in ascending order."""
    rows = read_table("membership")
    for region in regions:
        if region not in {row["region"] for row in rows}:
            raise InputError(f"No structure belongs to a region {region!r}.", "Use names of Anatomy/membership.csv.")
    return sorted({structure_by_id(row["structure"]).value for row in rows if row["region"] in regions})


def start_from(network: torch.nn.Module, weights: dict, classes: list[int], trained_classes: list[int]) -> None:
    """Copy another network's weights; of its output layer the channels of structures that both know, and background."""
    own = network.state_dict()
    pairs = [(0, 0)] + [(k, trained_classes.index(v) + 1) for k, v in enumerate(classes, 1) if v in trained_classes]
    mine, theirs = (list(side) for side in zip(*pairs, strict=True))
    for name, tensor in weights.items():
        if name.startswith("output_block."):
            own[name][mine] = tensor[theirs]
        else:
            own[name] = tensor
    network.load_state_dict(own)


def train_regions(config_path: Path) -> Path:
    """Fit score intervals of regions and structures on the cases that may teach; writes regions.csv and extents.csv."""
    config = read_config(config_path)
    data = data_folder(config.get("data"))
    trunk = teaching_cases(data, config["use"])
    observations, ruler = training_ruler(data, trunk)
    cases = trunk + head_and_neck_cases(data, split="train")
    write_extents(fit_extents(cases, observations, ruler))
    return write_regions(fit_regions(cases, observations, ruler))
