"""`bpr train segmentation` and `bpr bundle segmentation` for a configuration that lists domains."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bpr.domains.cases import DomainCase, domain_rows, load_domain
from bpr.domains.contrast import Contrast
from bpr.domains.definition import Domain, read_domain
from bpr.domains.ensemble import Ensemble
from bpr.domains.inference import labels_of
from bpr.domains.learning import Network, Recipe, case_predictor, learn_folds
from bpr.domains.natural import NATURAL, SliceUNet, start_from_photographs
from bpr.domains.nearest import FeatureStatistics
from bpr.domains.network import DomainUNet
from bpr.domains.prior import LabelCoder, PriorTerm, coarse_sampler, coder_loss
from bpr.domains.sampling import Augmentation, DomainSampler
from bpr.errors import InputError
from bpr.evaluation.agreement import agreement_by_channel
from bpr.evaluation.statistics import Estimate, bootstrap_mean
from bpr.models import Bundle, user_models_dir
from bpr.training.bundle import bundle_metadata, write_bundle
from bpr.training.dataset import data_folder
from bpr.training.loop import Schedule, Trainer

SEEN = 20  # training cases that are measured beside the test cases, to see memorising
CODER_AUGMENTATION = Augmentation(scale=0.12, turn=0.15, bend=0.03)


@dataclass(frozen=True)
class Plan:
    """A configuration that lists domains, understood.

    Attributes:
        domains, rows: with each domain's (training, test) rows of its table; ``held_out`` of the patients are test.
        own_norms, own_heads: see DomainUNet. natural: whether the encoder starts from photographs (see SliceUNet).
        contrast: settings of Contrast, or none. prior: weight of the anatomical prior's loss term, 0 for none, and
            ``prior_steps`` of its own training.
    """

    config: dict
    data: Path
    domains: list[Domain]
    rows: list[tuple[list[dict], list[dict]]]
    recipe: Recipe
    own_norms: bool
    own_heads: bool
    natural: bool
    contrast: dict
    prior: float
    prior_steps: int

    @classmethod
    def read(cls, config: dict, beside: Path) -> Plan:
        """Raises InputError naming the domain or setting that does not fit."""
        data = data_folder(config.get("data"))
        domains = [read_domain(entry, beside) for entry in config["domains"]]
        if len({len(domain.inputs) for domain in domains}) != 1:
            raise InputError("The domains have different numbers of inputs.", "Give each as many names in inputs.")
        try:
            recipe = Recipe.of(config.get("recipe", {}))
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"The recipe of {config['bundle']} does not fit: {error}.",
                             "docs/domains.md lists the settings.") from None  # fmt: skip
        rows = [split_rows(domain, domain_rows(domain, data), config.get("held_out", 0.2), config.get("cases"))
                for domain in domains]  # fmt: skip
        encoder = config.get("encoder", "")
        if encoder not in ("", NATURAL):
            raise InputError(f"There is no encoder {encoder!r}.", f"Write {NATURAL}, or leave it out.")
        for domain, (teaching, _) in zip(domains, rows, strict=True):
            if not teaching:
                raise InputError(f"No case of {domain.name} is left to teach.", "Add cases or lower held_out.")
        own = (config.get("own_norms", True), config.get("own_heads", True), bool(encoder))
        prior = (float(config.get("prior", 0)), int(config.get("prior_steps", 300)))
        return cls(config, data, domains, rows, recipe, *own, config.get("contrast") or {}, *prior)

    @property
    def patch(self) -> tuple[int, int, int]:
        """(z, y, x) voxels."""
        return tuple(self.config["patch"])

    def training(self) -> list[list[DomainCase]]:
        """The cases that teach, by domain."""
        return [load_domain(d, self.data, rows[0]) for d, rows in zip(self.domains, self.rows, strict=True)]

    def test(self, domain: int) -> list[DomainCase]:
        """A domain's cases of patients that neither teach nor choose weights."""
        return load_domain(self.domains[domain], self.data, self.rows[domain][1])

    def build(self, recipe: Recipe) -> Network:
        """An untrained network."""
        classes, channels = [len(domain.structures) for domain in self.domains], len(self.domains[0].inputs)
        if self.natural:
            return SliceUNet(classes, channels)
        return DomainUNet(classes, self.config["filters"], channels, self.own_norms, self.own_heads, recipe.dropout)

    def started(self, recipe: Recipe) -> Network:
        """What a training begins with. Raises InputError where the weights from photographs are not installed."""
        network = self.build(recipe)
        if self.natural:
            start_from_photographs(network)
        return network

    def sampler(self, cases: list[list[DomainCase]]) -> DomainSampler:
        """Patches of these cases."""
        recipe = self.recipe
        return DomainSampler(self.domains, cases, self.patch, recipe.augmentation, recipe.foreground, recipe.balance)

    def terms(self, network: Network, coder: LabelCoder | None) -> list[nn.Module]:
        """The additional loss terms."""
        terms = [Contrast(network.depth_channels, **self.contrast)] if self.contrast else []
        return terms + ([PriorTerm(coder, self.prior)] if coder else [])


def split_rows(domain: Domain, rows: list[dict], held_out: float, most: int | None = None) -> tuple[list, list]:
    """(training, test) rows, by patient, always the same; ``most`` cuts the training cases."""
    patients = sorted({row.get(domain.patient, row["id"]) for row in rows})
    order = np.random.default_rng(0).permutation(len(patients))
    test = {patients[k] for k in order[: round(len(patients) * held_out)]}
    place = {patients[k]: number for number, k in enumerate(order)}
    rows = sorted(rows, key=lambda row: (place[row.get(domain.patient, row["id"])], row["id"]))
    sides = ([r for r in rows if (r.get(domain.patient, r["id"]) in test) == side] for side in (False, True))
    training, tested = sides
    return training[:most], tested


def train_domains(config: dict, beside: Path, work: Path, resume: bool) -> Path:
    """Train; returns the folder with a network for each fold, ``report.json`` and what each domain's branch needs."""
    plan, folder = Plan.read(config, beside), work / config["bundle"]
    cases = plan.training()
    for domain, own in zip(plan.domains, cases, strict=True):
        print(f"{domain.name} ({domain.modality}): {len(own)} cases teach, {len(domain.structures)} structures")
    coder = train_coder(plan.sampler(cases), folder / "prior", plan.prior_steps, resume) if plan.prior else None
    networks = learn_folds(plan.started, plan.sampler, cases, plan.recipe, folder,
                           lambda network: plan.terms(network, coder), resume)  # fmt: skip
    report = {}
    for number, domain in enumerate(plan.domains):
        predict = case_predictor(networks, number, plan.recipe, domain.partner)
        sides = {"test": plan.test(number), "training": cases[number][:SEEN]}
        report[domain.name] = {side: measured(predict, own, domain, plan.patch) for side, own in sides.items()}
        print(gap_sentence(domain.name, report[domain.name]))
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return folder


def train_coder(sampler: DomainSampler, folder: Path, steps: int, resume: bool = False, seed: int = 0) -> LabelCoder:
    """The anatomical prior of these domains, from the label maps of the sampler's cases."""
    own = coarse_sampler(sampler, CODER_AUGMENTATION)
    torch.manual_seed(seed)
    coder, done = LabelCoder([len(d.structures) for d in sampler.domains], own.patch), folder / "weights.pt"
    if resume and done.exists():
        coder.load_state_dict(torch.load(done, weights_only=True))
        return coder.eval()
    schedule = Schedule(
        steps, 2e-3, clip=5.0, average=0.98, seed=seed, checkpoint_s=60, threads=torch.get_num_threads()
    )
    trainer = Trainer(coder, [{"params": list(coder.parameters())}], schedule, folder)
    if resume:
        trainer.resume()
    trainer.run(coder_loss(own), report_every=100)
    torch.save(coder.state_dict(), done)
    trainer.checkpoint.unlink(missing_ok=True)
    return coder.eval()


def measured(predict, cases: list[DomainCase], domain: Domain, tile: tuple[int, int, int]) -> list[dict]:
    """One entry for each structure that a case shows: case, patient, structure and the numbers of ``Agreement``."""
    found = []
    for case in cases:
        guess = labels_of(predict, case, tile)
        for channel, numbers in agreement_by_channel(case.labels, guess, case.known, domain.grid_mm).items():
            facts = {"case": case.id, "patient": case.patient, "structure": domain.structures[channel - 1].id}
            found.append(facts | {key: round(value, 4) for key, value in asdict(numbers).items()})
    return found


def mean_of(entries: Sequence[dict], key: str = "dice") -> Estimate:
    """Mean over what was measured, with its bootstrap interval over patients; what is not a number is left out."""
    valid = [entry for entry in entries if np.isfinite(entry[key])]
    return bootstrap_mean([entry[key] for entry in valid], [entry["patient"] for entry in valid])


def gap(report: dict) -> float:
    """Dice of training cases minus test cases: what was only memorised."""
    return mean_of(report["training"]).mean - mean_of(report["test"]).mean


def gap_sentence(name: str, report: dict) -> str:
    """Test, training and the gap in words."""
    test, training = (mean_of(report[side]) for side in ("test", "training"))
    return f"{name}: Dice {test} on patients left out, {training.mean:.3f} on training cases, gap {gap(report):.3f}"


def package_domains(config: dict, beside: Path, work: Path) -> list[Bundle]:
    """A bundle for each domain's branch (all folds in one graph), written into the user's models folder."""
    plan, folder = Plan.read(config, beside), work / config["bundle"]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    networks = []
    for number in range(plan.recipe.folds):
        networks.append(plan.build(plan.recipe))
        networks[-1].load_state_dict(torch.load(folder / f"fold{number}" / "weights.pt", weights_only=True))
    return [_package(plan, number, networks, report[domain.name]) for number, domain in enumerate(plan.domains)]


def bundle_name(config: dict, domain: Domain) -> str:
    """The configuration's bundle, with the domain's name where there are several."""
    if len(config["domains"]) == 1:
        return config["bundle"]
    return f"{config['bundle']}_{re.sub(r'[^a-z0-9]+', '_', domain.name.lower()).strip('_')}"


def _package(plan: Plan, number: int, networks: list[Network], report: dict) -> Bundle:
    domain, config = plan.domains[number], plan.config
    branches = [network.eval().branch(number) for network in networks]
    classes, channels = len(domain.structures) + 1, len(domain.inputs)
    definition = {"_target_": "Ensemble", "members": len(branches), "classes": classes, "channels": channels,
                  "filters": [] if plan.natural else config["filters"]}  # fmt: skip
    statistics = FeatureStatistics.of(branches[0], plan.training()[number], plan.patch)
    structures = [structure.id for structure in domain.structures]
    facts = {"role": "domain", "modality": domain.modality, "use": config["use"], "structures": structures,
             "grid_mm": domain.grid_mm, "tile": list(plan.patch), "inputs": list(domain.inputs),
             "domain": domain.to_json(), "family": config["bundle"], "features": statistics.to_json(),
             "mirror": plan.recipe.mirror, "gap": round(gap(report), 4)}  # fmt: skip
    example = torch.zeros(1, channels, *plan.patch)
    names = {"0": "background"} | {str(k): name for k, name in enumerate(structures, 1)}
    metadata = bundle_metadata(config, f"Segmentation of {domain.modality}, {domain.name}", facts, example, classes,
                               names, config["license"], (-3, 3))  # fmt: skip
    metadata["network_data_format"]["inputs"]["image"] |= {
        "modality": domain.modality, "format": "hounsfield" if domain.modality == "CT" else "magnitude"}  # fmt: skip
    target = user_models_dir() / bundle_name(config, domain)
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_bundle(target, Ensemble(branches), definition, example, metadata, card(plan, domain, report))


def card(plan: Plan, domain: Domain, report: dict) -> str:
    """The model card."""
    recipe, config = plan.recipe, plan.config
    lines = [f"# {bundle_name(config, domain)} {config['version']}", "",
             f"This network segments {', '.join(s.name for s in domain.structures)} in {domain.modality} "
             f"({domain.name}). It gives no scores and no regions: those are for CT. Research only; not a medical "
             "device.", "", "## Numbers", "", gap_sentence(domain.name, report) + ".", "",
             "| structure | Dice | sensitivity | mean surface distance, mm | volume difference |",
             "|---|---|---|---|---|"]  # fmt: skip
    for structure in domain.structures:
        own = [entry for entry in report["test"] if entry["structure"] == structure.id]
        if own:
            numbers = [mean_of(own, key) for key in ("dice", "sensitivity", "mean_distance", "volume")]
            lines.append(f"| {structure.name} | {' | '.join(map(str, numbers))} |")
    taught = sorted({entry["patient"] for entry in report["test"]})
    lines += ["", f"Measured on {len(taught)} patients who taught nothing and chose no weights, on a grid of "
              f"{domain.grid_mm:g} mm; intervals: 95 % bootstrap over patients.", "", "## Settings", "",
              f"Learned together with: {', '.join(d.name for d in plan.domains if d is not domain) or 'nothing else'}. "
              f"{recipe.folds} folds of at most {recipe.steps} steps, dropout {recipe.dropout:g}, weight decay "
              f"{recipe.weight_decay:g}, the best of {recipe.checks} measurements on left-out patients; license: "
              f"{config['license']}.", "", "## Limits", "",
              "- Few cases: other scanners and other people can differ from the numbers above.", ""]  # fmt: skip
    return "\n".join(lines)
