"""From trained weights to a bundle that can ship: exported, measured on validation cases, with its model card."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bpr.evaluation.report import markdown, score_numbers, segmentation_numbers
from bpr.models import Bundle
from bpr.resources import resources_dir
from bpr.scoring.network import ScoreNetwork
from bpr.scoring.scale import BIN_MM, BINS, FIRST_BIN_MM, to_score
from bpr.scoring.slices import INPUT_PIXELS
from bpr.segmentation.grid import GRID_MM
from bpr.segmentation.labels import structure_by_value
from bpr.segmentation.network import build_network
from bpr.training.bundle import bundle_metadata, write_bundle
from bpr.training.commands import labeled_cases, read_config, teaching_cases
from bpr.training.dataset import data_folder
from bpr.training.ruler import Ruler
from bpr.training.score import network_definition

BATCH = 16  # of the score network's graph
LICENSE = "Apache-2.0 (weights trained on CT under CC BY, Apache-2.0, BSD-3-Clause, MIT and public-domain licences)"


def package_score(config_path: Path, work: Path) -> Bundle:
    """Bundle of a trained score network, written into Resources/Models."""
    config = read_config(config_path)
    data, folder = data_folder(config.get("data")), work / config["bundle"]
    stored = json.loads((folder / "ruler.json").read_text(encoding="utf-8"))
    organs = {"names": stored.pop("organs"), "covariance_mm2": stored.pop("organ_covariance")}
    ruler = Ruler(**stored)
    definition = network_definition(config, len(ruler.position))
    network = ScoreNetwork(**definition)
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    landmarks = {
        name: {
            "ruler_mm": round(position, 2),
            "spread_mm": round(ruler.spread[name], 2),
            "kind": ruler.kind[name],
            "score": round(float(to_score(position, ruler.position)), 2),
        }
        for name, position in ruler.position.items()
    }
    pixels = config.get("pixels", INPUT_PIXELS)
    facts = {"role": "score", "modality": "CT", "use": config["use"], "pixels": pixels,
             "bins": {"first_mm": FIRST_BIN_MM, "width_mm": BIN_MM, "count": BINS}, "landmarks": landmarks,
             "votes": sorted(ruler.position), "organs": organs, "trust": config.get("trust", {})}  # fmt: skip
    definition = {"_target_": "ScoreNetwork"} | definition
    example = torch.zeros(BATCH, 3, pixels, pixels)
    channels = {"0": "8 mm below", "1": "slice", "2": "8 mm above"}
    metadata = bundle_metadata(
        config,
        "Score of axial CT slices on the body ruler",
        facts,
        example,
        definition["bins"] + definition["votes"],
        channels,
        LICENSE,
    )
    target = resources_dir() / "Models" / config["bundle"]
    bundle = write_bundle(target, network, definition, example, metadata, "")
    return _with_card(bundle, network, definition, example, metadata, config, score_numbers(bundle, data), data,
                      "gives every axial CT slice a score on the body ruler (0 at the lower end of the ischium, 100 at "
                      "the upper rim of the orbits) and positions of landmarks")  # fmt: skip


def package_segmentation(config_path: Path, work: Path) -> Bundle:
    """Bundle of a trained region or baseline network, written into Resources/Models and measured."""
    config = read_config(config_path)
    if "domains" in config:
        from bpr.domains.commands import package_domains

        return package_domains(config, config_path.parent, work)[0]
    data = data_folder(config.get("data"))
    bundle, contents = export_segmentation(config, work / config["bundle"], resources_dir() / "Models")
    numbers = segmentation_numbers([bundle], labeled_cases(data, config, validation=True))
    structures, where = bundle.facts["structures"], contents[3]["task"].partition(", ")[2]
    return _with_card(bundle, *contents, config, numbers, data,
                      f"segments {len(structures)} structures in CT ({where}): {', '.join(structures)}")  # fmt: skip


def export_segmentation(config: dict, trained: Path, target: Path):
    """Write a trained network (``weights.pt`` and ``classes.json`` in ``trained``) as a bundle into ``target``.

    Returns:
        The bundle, and network, definition, example input and metadata, as ``write_bundle`` takes them.
    """
    values = json.loads((trained / "classes.json").read_text(encoding="utf-8"))
    network = build_network(len(values) + 1, config["filters"], len(config["inputs"]))
    network.load_state_dict(torch.load(trained / "weights.pt", weights_only=True))
    structures = [structure_by_value(value).id for value in values]
    local = config["role"] == "region"
    where = " and ".join(config["regions"]) if local else "whole trunk"
    facts = {"role": config["role"]} | ({"region": where, "regions": config["regions"]} if local else {})
    facts |= {"modality": "CT", "use": config["use"], "structures": structures, "grid_mm": GRID_MM,
              "tile": config["patch"], "inputs": config["inputs"]}  # fmt: skip
    if config["cases"] == "head_and_neck":
        facts["masked"] = True  # taught on scans that hold nothing outside of the body
    definition = {"_target_": "DynUNet", "classes": len(values) + 1, "filters": config["filters"],
                  "channels": len(config["inputs"])}  # fmt: skip
    example = torch.zeros(1, len(config["inputs"]), *config["patch"])
    channels = {"0": "background"} | {str(k): name for k, name in enumerate(structures, 1)}
    metadata = bundle_metadata(
        config, f"Segmentation of CT, {where}", facts, example, len(values) + 1, channels, LICENSE
    )
    contents = (network, definition, example, metadata)
    return write_bundle(target / config["bundle"], *contents, ""), contents


def _with_card(
    bundle: Bundle, network, definition, example, metadata, config: dict, numbers: dict, data: Path, purpose: str
) -> Bundle:
    """Write the bundle again with its measured card."""
    scoring = metadata["bpr"]["role"] == "score"
    labeled = teaching_cases(data, config["use"]) if scoring else labeled_cases(data, config)
    study = resources_dir().parent / "Testing" / "benchmarks" / "results" / "scoring_recipes.md"
    comparison, kind = [], "score" if scoring else "segmentation"
    if scoring and study.is_file():
        introduction = (
            "Cross-validated by patient over all annotated scans (`make study NAME=scoring`). `shipped` is this one: "
            "natural-image weights, 112 pixels, 600 steps. The others start from scratch and see equally many slices "
            "of 64 pixels in 150 steps: they compare backbones with each other, not with what long trainings reach."
        )
        comparison = ["", introduction, "", study.read_text(encoding="utf-8").strip()]
    lines = [
        f"# {bundle.name} {config['version']}",
        "",
        f"This network {purpose}.",
        "",
        "## Data and splits",
        "",
        f"Trained on {len(labeled)} open CT scans of {len({c.patient for c in labeled})} people"
        + (" and 110 open head-and-neck planning CT" if scoring else "")
        + ". Splits are by patient. Sources and licences: NOTICE and the list below. Validated on "
        f"{len(numbers['cases'])} scans of other people "
        + (
            "that their source sets aside"
            if config.get("cases") == "head_and_neck"
            else "whose licence keeps them out of training"
        )
        + f" ({', '.join(numbers['cases'])}). "
        + _selection(metadata["bpr"]["role"]),
        "",
        "## Numbers on the validation cases",
        "",
        markdown(numbers),
        "",
        f"Intervals: 95 % bootstrap over patients. Made by `bpr bundle {kind} {_config_name(config)}`.",
        *comparison,
        "",
        "## Settings",
        "",
        f"`bpr train {kind} {_config_name(config)}` "
        f"with {_steps(config)} steps; the configuration holds seeds and rates.",
        "",
        "## Limits",
        "",
        *_limits(config),
        "",
        "## Training cases",
        "",
        ", ".join(sorted(case.id for case in labeled)),
        "",
    ]
    return write_bundle(bundle.folder, network, definition, example, metadata, "\n".join(lines))


def _selection(role: str) -> str:
    """What the validation cases were used for beside measuring: selection makes numbers optimistic."""
    if role == "score":
        return (
            "They chose no weights and no steps. That the slices' votes place airways, jaw and orbits, but no other "
            "bones, was decided on cross-validated errors over all annotated scans, these among them."
        )
    return (
        "They chose no weights and no steps; that earlier networks missed small structures in them was the reason to "
        "draw patches by structure."
    )


def _steps(config: dict) -> str:
    """Steps of each stage of the training."""
    return " + ".join(str(stage["steps"]) for stage in config.get("stages") or [config["schedule"]])


def _config_name(config: dict) -> str:
    if config["bundle"].startswith("bpr_score"):
        return config["bundle"].removeprefix("bpr_") + ".yaml"
    return f"segmentation_{config['bundle'].removeprefix('bpr_')}.yaml"


def _limits(config: dict) -> list[str]:
    if "regions" not in config:
        return [
            "- Adults, axial CT of head, neck and trunk. Legs, animals and children were not in the training data.",
            "- Organs do not follow the spine: their predicted heights can be 30 to 50 mm off in some people.",
            "- Scans shorter than 60 mm can be misplaced by several centimeters.",
        ]
    own = (
        "- Taught on radiotherapy planning CT (supine, mask, arms down) masked to the body; cord and esophagus are "
        "contoured along a part of their length there. Diagnostic CT with tilted heads is untested."
        if config["cases"] == "head_and_neck"
        else "- Taught on few, semi-automatically labeled cases; two readers of such labels agree to Dice .80 to .95."
    )
    return [
        own,
        "- Voxels of 4 mm: walls and thin structures are rounded.",
        "- Where Dice is low in the table above, the structure needs a person's correction or is missing.",
        "- Tumors, effusions, metal, anatomical variants and children are rare or absent in the training data.",
    ]
