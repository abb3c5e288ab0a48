"""`bpr evaluate segmentation` for bundles of domains: agreement by domain and structure, and what was memorised."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.compute.engines import open_engine
from bpr.domains.cases import domain_rows, known_channels
from bpr.domains.commands import SEEN, bundle_name, mean_of, split_rows
from bpr.domains.definition import Domain, read_domain
from bpr.domains.run import segment_domain
from bpr.errors import InputError
from bpr.evaluation.agreement import agreement
from bpr.models import Bundle, find_bundle
from bpr.scoring.inference import Predictor
from bpr.training.commands import read_config
from bpr.volume import read_volume

KEYS = ("dice", "sensitivity", "mean_distance", "volume")


def domain_numbers(name: str, data: Path, config_path: Path | None) -> dict:
    """Agreement on each domain's patients left out, and on training cases, as a person gets it from ``bpr run``.

    Args:
        name: a domain's bundle, or the configuration's ``bundle`` for all of its domains.
        config_path: the training configuration; without it the shipped one of that family.

    Raises:
        InputError: no configuration tells the cases, it is not the bundle's, or its data are not there.
    """
    config = read_config(config_path or _shipped(name))
    beside = config_path.parent if config_path and config_path.is_file() else Path()
    if "domains" not in config:
        raise InputError(f"{config_path} lists no domains.", "Give the configuration that the bundle was trained with.")
    domains = [read_domain(entry, beside) for entry in config["domains"]]
    names = {bundle_name(config, domain): domain for domain in domains}
    if name not in names and name != config["bundle"]:
        raise InputError(f"{name} is no bundle of {config['bundle']}.", f"Its bundles: {', '.join(names)}.")
    numbers: dict = {"dice": {}, "gap": {}, "by case": []}
    for own in [name] if name in names else names:
        bundle = find_bundle(own)
        rows = split_rows(names[own], domain_rows(names[own], data), config.get("held_out", 0.2), config.get("cases"))
        _measure(bundle, _source(bundle, names[own]), data, rows, numbers)
    return numbers


def _shipped(name: str) -> Path:
    """The shipped configuration of a bundle's family."""
    family = find_bundle(name).facts.get("family", "")
    path = Path(f"segmentation_{family.removeprefix('bpr_')}.yaml")
    try:
        if read_config(path).get("bundle") == family:
            return path
    except InputError:
        pass
    raise InputError(f"{name} is a model of a domain, and its cases are not known.",
                     "Give its training configuration: --config FILE.yaml.")  # fmt: skip


def _source(bundle: Bundle, domain: Domain) -> Domain:
    """What the bundle says of itself, and where the configuration says that its cases lie."""
    if bundle.role != "domain" or [s.id for s in domain.structures] != bundle.facts["structures"]:
        raise InputError(f"{bundle.name} does not have the structures of {domain.name}.",
                         "Give the configuration that it was trained with.")  # fmt: skip
    told = Domain.from_json(bundle.facts["domain"])
    return replace(domain, name=told.name, modality=told.modality, structures=told.structures)


def _measure(bundle: Bundle, domain: Domain, data: Path, rows: tuple[list, list], numbers: dict) -> None:
    """Add one domain's results to the numbers."""
    predict = open_engine().predictor(bundle)
    training, test = ([entry for row in part for entry in _case(bundle, predict, domain, data, row)]
                      for part in (rows[0][:SEEN], rows[1]))  # fmt: skip
    if not test:
        raise InputError(f"No case of {domain.name} is left to test.", "Raise held_out in the configuration.")
    for structure in domain.structures:
        own = [entry for entry in test if entry["structure"] == structure.id]
        if own:
            numbers["dice"][f"{domain.name}: {structure.name}"] = asdict(mean_of(own))
    numbers["dice"][f"{domain.name}: all structures"] = asdict(mean_of(test))
    for key in KEYS[1:]:
        numbers.setdefault(key.replace("_", " "), {})[domain.name] = asdict(mean_of(test, key))
    if training:
        numbers["dice"][f"{domain.name}: training cases"] = asdict(mean_of(training))
        numbers["gap"][domain.name] = mean_of(training).mean - mean_of(test).mean
    numbers["by case"] += [entry | {"domain": domain.name, "taught": entry in training} for entry in test + training]


def _case(bundle: Bundle, predict: Predictor, domain: Domain, data: Path, row: dict[str, str]) -> list[dict]:
    """Agreement of each labeled structure of a case, on the labels' own grid."""
    folder = data / domain.folder
    label_path = folder / domain.labels.format(id=row["id"])
    volume = read_volume(folder / domain.image.format(id=row["id"]), domain.modality)
    truth = sitk.ReadImage(str(label_path), sitk.sitkUInt8)
    labels, _ = segment_domain(volume, bundle, predict, lambda done, total: None)
    found = sitk.Resample(labels, truth, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    drawn, guess = sitk.GetArrayFromImage(truth), sitk.GetArrayFromImage(found)
    known, entries = known_channels(domain, row, label_path), []
    for channel, structure in enumerate(domain.structures, 1):
        mask = np.isin(drawn, [value for value, name in domain.values.items() if name == structure.id])
        if known[channel] and mask.any():
            numbers = asdict(agreement(mask, guess == structure.value, truth.GetSpacing()[::-1]))
            facts = {"case": row["id"], "patient": row.get(domain.patient, row["id"]), "structure": structure.id}
            entries.append(facts | {key: float(np.round(value, 4)) for key, value in numbers.items()})
    return entries
