"""Scarce domains: five of them, alone and together, up a ladder from individual networks to everything at once.

make study NAME=domains        (QUICK=1: two rungs, a few steps, nothing is stored)

Head and neck CT, trunk CT (its upper and lower structures as two anatomies) and hippocampus MR in its two intensity
families, each cut to at most 15 training patients; a patient's scans are on one side of the split in every domain. All
networks see each domain's patches equally often. Two rungs transfer: from the individual network of another anatomy,
and from natural images (a slice-wise encoder that photographs taught). Trainings are kept under $BPR_WORK and a later
run goes on with what is missing; BPR_WORKERS of them run at a time (default 2).

About 55 minutes of one core (BPR_WORKERS=1), QUICK 1.5: 240 steps for each of 9 rungs, one seed. A step with two
patches of one domain takes 0.20 s, of all five 1.0 to 1.2 s, of slices 0.35 s; measuring a case 0.1 to 0.9 s.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from study import QUICK, RESULTS, Row
from trials import kept, run_all, work_folder

WORK = work_folder("domains")
PATCH, FILTERS, STEPS, CODER_STEPS, TRAINING, TEST = (
    ((32, 32, 32), [4, 8, 8, 8, 8], 4, 10, 3, 2) if QUICK else ((32, 48, 32), [8, 16, 32, 48, 64], 240, 1500, 15, 10)
)
MR = {"modality": "MR", "inputs": ["standard", "percentile"], "grid_mm": 1.25, "label_table": "hippocampus",
      "folder": "mr_hippocampus", "image": "{id}_mr.nii.gz", "labels": "{id}_seg.nii.gz"}  # fmt: skip
TRUNK = {"modality": "CT", "inputs": ["wide", "soft"], "grid_mm": 6.0, "patient": "patient",
         "image": "ct/{id}.nii.gz", "labels": "ct_labels/{id}.nii.gz"}  # fmt: skip
HEAD = {1: "brainstem", 3: "parotid_right", 4: "parotid_left", 7: "mandible"}
DOMAINS = [
    {"name": "head and neck CT", "modality": "CT", "inputs": ["wide", "soft"], "grid_mm": 4.0, "folder": "hn",
     "image": "{id}_ct.nii.gz", "labels": "{id}_seg.nii.gz", "values": HEAD, "structures": sorted(HEAD.values())},
    TRUNK | {"name": "upper trunk CT", "structures": ["lung_left", "lung_right", "heart", "liver", "spleen"]},
    TRUNK | {"name": "lower trunk CT", "structures": ["urinary_bladder", "hip_left", "hip_right", "sacrum"]},
    MR | {"name": "hippocampus MR, float", "where": {"stored_type": "float32"}},
    MR | {"name": "hippocampus MR, 8 bit", "where": {"stored_type": "uint8"}},
]  # fmt: skip
ONE_SCALE, SCALES = (4,), (2, 4, 6)  # the bottleneck; an encoder level, the bottleneck, a decoder level
RUNGS = {
    "individual": {},
    "transfer": {},
    "natural images": {},
    "shared": {"own": False},
    "own norms and heads": {"own": True},
    "+ contrast, one scale": {"own": True, "contrast": ONE_SCALE},
    "+ contrast, three scales": {"own": True, "contrast": SCALES},
    "+ prior": {"own": True, "prior": 0.05},
    "all": {"own": True, "contrast": SCALES, "prior": 0.05},
}
APART = ("individual", "transfer", "natural images")  # rungs of one network for each domain
KEYS = ("dice", "sensitivity", "specificity", "farthest", "mean_distance", "volume")


@dataclass(frozen=True)
class Trial:
    """One training: a rung, and the number of the domain where each has its own network (else -1)."""

    rung: str
    domain: int = -1

    @property
    def folder(self) -> Path:
        """Where weights and result are kept."""
        return WORK / self.rung.replace(" ", "_").replace(",", "") / (f"{self.domain}" if self.domain >= 0 else "all")


def trials() -> list[Trial]:
    """All trainings but the prior's."""
    rungs = ["individual", "natural images", "all"] if QUICK else ["all", "individual", "shared", *RUNGS]
    found = []
    for rung in dict.fromkeys(rungs):
        found += [Trial(rung, k) for k in range(len(DOMAINS))] if rung in APART else [Trial(rung)]
    return found


def domains() -> list:
    """The five domains."""
    from bpr.domains.definition import read_domain

    return [read_domain(entry, Path()) for entry in DOMAINS]


@cache
def cases_of(number: int) -> tuple[list, list]:
    """(training, test) cases of a domain, by patient; prepared once."""
    from bpr.domains.cases import DomainCase, domain_rows, load_domain
    from bpr.training.dataset import data_folder

    domain, data, cache = domains()[number], data_folder(None), WORK / "cases" / f"{number}"
    sides = ([], [])
    rows = sorted(domain_rows(domain, data), key=lambda row: drawn(row.get(domain.patient, row["id"])))
    for row in rows:
        side = int(drawn(row.get(domain.patient, row["id"])) < 0.4)
        if len(sides[side]) >= (TEST if side else TRAINING):
            continue
        file = cache / f"{row['id']}.npz"
        if not file.exists():
            (case,) = load_domain(domain, data, [row])
            cache.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{os.getpid()}.{file.name}")
            np.savez_compressed(partial, image=case.image, labels=case.labels, known=case.known)
            os.replace(partial, file)
        stored = np.load(file)
        case = DomainCase.of(row["id"], row.get(domain.patient, row["id"]), stored["image"].astype(np.float32),
                             stored["labels"], stored["known"])  # fmt: skip
        if case.voxels:  # trunk scans that do not reach the lower part are no cases of it
            sides[side].append(case)
    return sides


def drawn(patient: str) -> float:
    """A number in 0..1 that belongs to a patient: the same side of the split in every domain."""
    return int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 2**32


def run(trial: Trial) -> dict:
    """Train and measure, or read what an earlier run kept."""
    return kept(trial.folder, judged_prior if trial.rung == "prior" else lambda: trained(trial))


def trained(trial: Trial) -> dict:
    """Dice and more of the test cases, by domain name."""
    import torch

    from bpr.domains.commands import measured
    from bpr.domains.learning import case_predictor

    recipe = recipe_of()
    numbers = [trial.domain] if trial.domain >= 0 else list(range(len(DOMAINS)))
    torch.manual_seed(0)
    network = taught(trial, numbers, recipe)
    found = {}
    for place, number in enumerate(numbers):
        domain, (training, test) = domains()[number], cases_of(number)
        predict = case_predictor([network], place, recipe, domain.partner)
        found[domain.name] = {"test": measured(predict, test, domain, PATCH),
                              "training": measured(predict, training[:3], domain, PATCH)}  # fmt: skip
    return {"domains": found}


def recipe_of():
    """The same for all rungs: every domain in every step, the last weights."""
    from dataclasses import replace

    from bpr.domains.learning import Recipe
    from bpr.domains.sampling import Augmentation

    augmentation = replace(Augmentation.of("strong"), mirror=0.0)
    return Recipe(steps=STEPS, groups=0, checks=0, mirror=False, dropout=0.0, augmentation=augmentation)


def taught(trial: Trial, numbers: list[int], recipe):
    """A trained network for these domains."""
    import torch

    from bpr.domains.contrast import Contrast, depth_channels
    from bpr.domains.learning import Learner, learn
    from bpr.domains.natural import SliceUNet, start_from_photographs
    from bpr.domains.network import DomainUNet
    from bpr.domains.prior import PriorTerm

    own = RUNGS[trial.rung].get("own", True)
    chosen = [domains()[number] for number in numbers]
    classes, natural = [len(d.structures) for d in chosen], trial.rung == "natural images"
    network = SliceUNet(classes, 2) if natural else DomainUNet(classes, FILTERS, 2, own, own, recipe.dropout)
    done = trial.folder / "weights.pt"
    if done.exists():
        network.load_state_dict(torch.load(done, weights_only=True))
        return network
    if natural:
        start_from_photographs(network)
    if trial.rung == "transfer":
        network.start_from(source_weights(trial.domain, recipe))
    terms = []
    if depths := RUNGS[trial.rung].get("contrast"):
        terms.append(Contrast(depth_channels(FILTERS), depths, 0.1 / len(depths)))
    if weight := RUNGS[trial.rung].get("prior"):
        terms.append(PriorTerm(coder(), weight))
    learn(Learner(network, terms), sampler_of(numbers, recipe), recipe, trial.folder, resume=True)
    torch.save(network.state_dict(), done)
    return network


def source_weights(number: int, recipe) -> dict:
    """What transfer starts from: the individual network of head and neck, for that one hippocampus's."""
    source = Trial("individual", 0 if number else 3)
    return taught(source, [source.domain], recipe).state_dict()


def sampler_of(numbers: list[int], recipe):
    """Patches of the training cases of these domains."""
    from bpr.domains.sampling import DomainSampler

    chosen = domains()
    return DomainSampler([chosen[k] for k in numbers], [cases_of(k)[0] for k in numbers], PATCH, recipe.augmentation,
                         recipe.foreground)  # fmt: skip


def coder():
    """The anatomical prior over all five domains' training cases; trained once."""
    from bpr.domains.commands import train_coder

    return train_coder(sampler_of(list(range(len(DOMAINS))), recipe_of()), WORK / "coder", CODER_STEPS, resume=True)


def judged_prior() -> dict:
    """By domain and case of the left-out patients: plausibility of the real label map and of two of each corruption."""
    from bpr.domains.corruption import KINDS, corrupted
    from bpr.domains.critic import train_critic
    from bpr.domains.plausibility import plausibility

    found = {}
    for number, domain in enumerate(domains()):
        training, test = cases_of(number)
        critic = train_critic(domain, training, WORK / "critic" / f"{number}", resume=True)
        found[domain.name] = []
        for place, case in enumerate(test):
            rng = np.random.default_rng(place)
            judged = {"patient": case.patient, "real": [plausibility(critic, case.labels, case.known).score]}
            for kind in KINDS:
                pairs = [corrupted(case.labels, domain.partner, rng, kind) for _ in range(2)]
                judged[kind] = [plausibility(critic, changed, case.known).score for changed, done in pairs if done]
            found[domain.name].append(judged)
    return {"plausibility": found}


def auc(cases: list[dict], kinds: tuple[str, ...]) -> float:
    """Chance that a real map of these judged cases is more plausible than one corrupted so; ties count half."""
    real = np.array([score for case in cases for score in case["real"]])[:, None]
    corrupt = np.array([score for case in cases for kind in kinds for score in case[kind]])[None]
    return float((real > corrupt).mean() + 0.5 * (real == corrupt).mean())


def prior_rows(found: dict) -> list[Row]:
    """AUC of the plausibility: mean over the domains with its interval, then by domain and by corruption."""
    from bpr.domains.corruption import KINDS

    judged, rng = found["plausibility"], np.random.default_rng(0)
    again = [np.mean([auc(redrawn(cases, rng), KINDS) for cases in judged.values()]) for _ in range(500)]
    by_domain = {name: auc(cases, KINDS) for name, cases in judged.items()}
    by_kind = {kind: np.mean([auc(cases, (kind,)) for cases in judged.values()]) for kind in KINDS}
    return [Row("plausibility of real against corrupted label maps: AUC", float(np.mean([*by_domain.values()])), "",
                ">= 0.9"),
            Row("plausibility: AUC, lower end of the 95 % interval", float(np.percentile(again, 2.5)), ""),
            *(Row(f"plausibility, {what}: AUC", float(value), "") for what, value in (by_domain | by_kind).items()),
            *(Row(f"plausibility, {name}, {kind}: AUC", auc(cases, (kind,)), "")
              for name, cases in judged.items() for kind in KINDS)]  # fmt: skip


def redrawn(cases: list[dict], rng: np.random.Generator) -> list[dict]:
    """As many patients, drawn with replacement, with all their cases."""
    patients = sorted({case["patient"] for case in cases})
    drawn_again = rng.choice(patients, len(patients))
    return [case for patient in drawn_again for case in cases if case["patient"] == patient]


def by_case(found: dict[Trial, dict], rung: str) -> dict[tuple[str, str, str], dict]:
    """(domain, patient, structure and case) to the numbers of a rung's test cases; empty when some are missing."""
    results = [result["domains"] for trial, result in found.items() if trial.rung == rung]
    if rung in APART and len(results) < len(DOMAINS):
        return {}
    return {
        (name, entry["patient"], f"{entry['case']} {entry['structure']}"): entry
        for part in results for name, sides in part.items() for entry in sides["test"]
    }  # fmt: skip


def change(before: dict, after: dict, domain: str = ""):
    """Mean over patients of the change of their mean Dice in a domain, with its interval."""
    from bpr.evaluation.statistics import bootstrap_mean

    gains: dict[tuple[str, str], list[float]] = {}
    for key in before.keys() & after.keys():
        if not domain or key[0] == domain:
            gains.setdefault(key[:2], []).append(after[key]["dice"] - before[key]["dice"])
    return bootstrap_mean([float(np.mean(values)) for values in gains.values()], [key[1] for key in gains])


def rows_of(found: dict[Trial, dict]) -> list[Row]:
    """The bars first, then every rung by domain."""
    rows = [row for trial, result in found.items() if trial.rung == "prior" for row in prior_rows(result)]
    cases = {rung: numbers for rung in RUNGS if (numbers := by_case(found, rung))}
    names = [entry["name"] for entry in DOMAINS]
    for after, before, goals in (("all", "individual", (">= 0.0", ">= 0.0", ">= -0.005")), ("all", "shared", ("",) * 3),
                                 ("shared", "individual", ("",) * 3)):  # fmt: skip
        if after in cases and before in cases:
            gain, each = (
                change(cases[before], cases[after]),
                [change(cases[before], cases[after], n).mean for n in names],
            )
            rows += [Row(f"{after} against {before}: mean change", gain.mean, "Dice", goals[0]),
                     Row(f"{after} against {before}: lower end of the 95 % interval", gain.low, "Dice", goals[1]),
                     Row(f"{after} against {before}: worst domain", float(min(each)), "Dice", goals[2])]  # fmt: skip
    for rung, numbers in cases.items():
        for name in names:
            own = [entry for key, entry in numbers.items() if key[0] == name]
            rows += [Row(f"{rung}, {name}: {key}", mean_of_patients(own, key), "mm" if key in KEYS[3:5] else "")
                     for key in KEYS]  # fmt: skip
    return rows


def mean_of_patients(entries: list[dict], key: str) -> float:
    """Mean over structures and cases of what is a number; of volume differences the sizes."""
    values = np.array([entry[key] for entry in entries], float)
    return float(np.nanmean(np.abs(values) if key == "volume" else values))


def write_tables(found: dict[Trial, dict], rows: list[Row]) -> None:
    """``domains_ladder.md`` and ``domains.png``: Dice of every rung in every domain, and its change over individual."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [entry["name"] for entry in DOMAINS]
    cases = {rung: numbers for rung in RUNGS if (numbers := by_case(found, rung))}
    if not cases:
        return
    table = {rung: [mean_of_patients([e for k, e in own.items() if k[0] == name], "dice") for name in names]
             for rung, own in cases.items()}  # fmt: skip
    lines = [
        f"| rung | {' | '.join(names)} | change over individual (95 % interval) |",
        "|---" * (len(names) + 2) + "|",
    ]
    for rung, values in table.items():
        gain = change(cases["individual"], cases[rung]) if "individual" in cases and rung != "individual" else None
        text = f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" if gain else ""
        lines.append(f"| {rung} | {' | '.join(f'{value:.3f}' for value in values)} | {text} |")
    (RESULTS / "domains_ladder.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    places, width = np.arange(len(names)), 0.8 / len(table)
    for k, (rung, values) in enumerate(table.items()):
        axis.bar(
            places + (k - (len(table) - 1) / 2) * width, values, width, label=rung, color=plt.cm.viridis(k / len(RUNGS))
        )
    axis.set(
        xticks=places,
        xticklabels=[name.replace(", ", ",\n") for name in names],
        ylabel="Dice of left-out patients",
        ylim=(0, 1),
    )
    axis.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, ncols=5)
    figure.savefig(RESULTS / "domains.png", dpi=110)


def main() -> None:
    coder()  # two rungs need it, and several processes at once would each train it
    run_all("domains", [Trial("prior"), *trials()], run, rows_of, write_tables)


if __name__ == "__main__":
    main()
