"""From fine-tuned weights to a bundle: the parent's facts, what is new in them, and a model card that says how."""

from __future__ import annotations

import re
from pathlib import Path

import SimpleITK as sitk
import torch
from torch import nn

from bpr import __version__
from bpr.models import Bundle, sha256, user_models_dir, write_sums
from bpr.seed.case import SeedCase
from bpr.seed.compare import Comparison, markdown
from bpr.seed.material import Material
from bpr.seed.plan import Plan
from bpr.seed.taught import structures_of
from bpr.training.bundle import write_bundle

SEED_NAME = re.compile(r"(.+)_seed(\d+)")


def new_name(parent: Bundle, project_runs: Path) -> str:
    """ "<parent>_seed<n>", not yet used by an installed model or a run of the project."""
    match = SEED_NAME.fullmatch(parent.name)
    root, number = (match[1], int(match[2])) if match else (parent.name, 0)
    taken = {path.name for path in user_models_dir().glob(f"{root}_seed*")}
    taken |= {path.name for path in project_runs.glob(f"*/{root}_seed*")}
    while (name := f"{root}_seed{(number := number + 1)}") in taken:
        pass
    return name


def write_seed_bundle(folder: Path, network: nn.Module, material: Material, plan: Plan, steps: int) -> Bundle:
    """Write the new bundle, still without numbers in its card (see ``write_card``)."""
    parent = material.bundle
    learned = sorted({*parent.facts.get("domains", []), *material.domains})
    versions = {"bpr": __version__, "torch": torch.__version__, "simpleitk": sitk.Version.VersionString()}
    shared = plan.to_json() | {"together": [Path(name).name for name in plan.together]}  # no folders of this machine
    seed = {"parent": parent.name, "parent_weights": sha256(parent.weights), "plan": shared, "steps": steps,
            "versions": versions}  # fmt: skip
    facts = dict(parent.facts) | {"use": "own", "domains": learned, "seed": seed}
    version = f"{parent.version.partition('+')[0]}+seed.{folder.name.rpartition('_seed')[2]}"
    metadata = dict(parent.metadata) | {
        "version": version,
        "changelog": {version: f"fine-tuned from {parent.name} {parent.version}"}
        | parent.metadata.get("changelog", {}),
        "description": f"{parent.name} fine-tuned on corrected cases of its owner.",
        "license": f"Its owner's to decide; fine-tuned from {parent.name}: {parent.metadata.get('license', '')}",
        "bpr": facts,
    }
    definition, example = parent.network_definition, material.kind.example()
    return write_bundle(folder, network.cpu(), definition, example, metadata, "")


def write_card(
    bundle: Bundle, material: Material, plan: Plan, cases: list[SeedCase], comparison: Comparison, facts: dict
) -> None:
    """The model card: parents, cases, settings, numbers, limits. ``facts``: steps, best, reason, share."""
    memory, parent = plan.recipe.memory, material.bundle
    lines = [
        f"# {bundle.name} {bundle.version}",
        "",
        f"This network is {parent.name} {parent.version}, fine-tuned on corrected cases of its owner. It segments "
        f"{', '.join(one.id for one in structures_of(bundle))}. Research only; not a medical device.",
        "",
        "## Numbers",
        "",
        *comparison.sentences,
        "",
        markdown(comparison),
        "",
        f"Dice {material.kind.measured_on}; intervals: 95 % bootstrap over patients.",
        "",
        "## Cases",
        "",
        "| case | side | domain | SHA-256 of voxels, labels and marks |",
        "|---|---|---|---|",
        *(f"| {case.id} | {case.part.value} | {case.domain} | {plan.cases[case.id][:16]} |" for case in cases),
        "",
        "## Settings",
        "",
        f"{facts['steps']} of {plan.steps} planned steps, the best at step {facts['best']} ({facts['reason']}); "
        f"learning rate {plan.recipe.learning_rate:g}, encoder times {plan.recipe.encoder_scale:g}, batches of "
        f"{plan.recipe.batch}, {plan.precision} precision on {plan.device}, seed {plan.seed}. Memory: "
        f"replay {memory.replay:g}, learning without forgetting {memory.lwf:g}, elastic weights {memory.ewc:g}.",
        "",
        f"The weights are {facts['share']:.0%} of the way from {parent.name} to the trained ones; less than all of it "
        "only where all of it had forgotten something.",
        "",
        *(f"Learned together with the project {Path(name).name}.\n" for name in plan.together),
        "## Limits",
        "",
        f"- Those of {parent.name}, see its card.",
        "- Few cases of one place: other scanners and other people can differ from the numbers above.",
        "",
    ]
    (bundle.folder / "docs" / "README.md").write_text("\n".join(lines), encoding="utf-8")
    write_sums(bundle.folder)
