"""Few MR cases: what each means against memorising brings, alone and together, at 10, 20 and 53 training cases.

make study NAME=fewcases       (QUICK=1: two means, a few steps, nothing is stored)

Hippocampus in T1 MR, split by patient with both intensity families on both sides; a patch holds nearly all of a crop,
so sampling by structure has nothing to choose here. Every training has the same number of steps; "plain" is a 3D U-Net
with cross entropy, patches anywhere, no augmentation, its last weights. Trainings are kept under $BPR_WORK and a later
run goes on with what is missing; BPR_WORKERS of them run at a time (default 2). About 50 minutes of one core: 24
trainings with 35 networks of 400 steps, 0.2 s each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from study import QUICK, RESULTS, Row
from trials import kept, run_all, work_folder

WORK = work_folder("fewcases")
STEPS, TEST, SEEN, PATCH, FILTERS = (6, 4, 2, (32, 48, 32), [4, 8, 8, 8, 8]) if QUICK else (
    400, 30, 10, (32, 48, 32), [8, 16, 32, 48, 48])  # fmt: skip
ALL = 0  # as a size: every case that is not for the test
MEANS = {
    "augmentation": {"augmentation": "strong"},
    "Dice + focal loss": {"dice": 1.0, "focal": 1.0, "rarity": 0.5},
    "deep supervision": {"deep": True},
    "weight decay, dropout": {"weight_decay": 0.05, "dropout": 0.1},
    "early stopping": {"checks": 10},
    "pretraining (CT)": {},
    "mirrored test": {"mirror": True},
    "three folds": {"folds": 3},
}
PRETRAINED = ("pretraining (CT)", "all")
LEFT_OUT = ("mirrored test",)  # of "all": the crops have one orientation, mirroring makes them what they never are


@dataclass(frozen=True)
class Trial:
    """One training: with how many cases, and with which means."""

    size: int
    name: str

    @property
    def folder(self) -> Path:
        """Where weights and result are kept."""
        return WORK / f"{self.size or 'every'}" / self.name.replace(" ", "_")

    @property
    def weights(self) -> Path:
        """Where the networks are kept; what only tests differently has those of "plain"."""
        return replace(self, name="plain").folder if self.name == "mirrored test" else self.folder

    @property
    def recipe(self):
        """Settings of the training."""
        from bpr.domains.learning import Recipe
        from bpr.domains.sampling import Augmentation

        plain = Recipe(steps=STEPS, dice=0.0, rarity=0.0, deep=False, dropout=0.0, augmentation=Augmentation(),
                       foreground=0.0, checks=0, mirror=False)  # fmt: skip
        if self.name == "plain":
            return plain
        chosen = [name for name in MEANS if name not in LEFT_OUT] if self.name == "all" else [self.name]
        settings = {key: value for name in chosen for key, value in MEANS[name].items()}
        if "augmentation" in settings:
            settings["augmentation"] = replace(Augmentation.of("strong"), mirror=0.0)
        return replace(plain, **settings)


def trials() -> list[Trial]:
    """All trainings, the ones that the bars ask for first."""
    if QUICK:
        return [Trial(6, "plain"), Trial(6, "all"), Trial(6, "mirrored test"), Trial(ALL, "all")]
    bars = [Trial(size, name) for size in (10, 53, ALL) for name in ("plain", "all")]
    single = [Trial(size, name) for size in (10, 53) for name in MEANS]
    return bars + single + [Trial(20, "plain"), Trial(20, "all")]


def hippocampus():
    """The domain and its rows of the table."""
    from bpr.domains.cases import domain_rows
    from bpr.domains.definition import read_domain
    from bpr.training.commands import read_config
    from bpr.training.dataset import data_folder

    domain = read_domain(read_config(Path("segmentation_hippocampus.yaml"))["domains"][0], Path())
    return domain, domain_rows(domain, data_folder(None))


def chosen_rows(rows: list[dict[str, str]], size: int) -> tuple[list, list]:
    """(training, test): shuffled once, both families in every part; smaller training sets lie within larger ones."""
    order = np.random.default_rng(0).permutation(len(rows))
    test, rest = [rows[k] for k in order[:TEST]], [rows[k] for k in order[TEST:]]
    return rest[: size or (12 if QUICK else None)], test


def run(trial: Trial) -> dict:
    """Train and measure, or read what an earlier run kept."""
    return kept(trial.folder, lambda: trained(trial))


def trained(trial: Trial) -> dict:
    """Dice and volume errors of the test cases, and of some that taught."""
    from bpr.domains.cases import load_domain
    from bpr.domains.learning import case_predictor, learn_folds
    from bpr.domains.network import DomainUNet
    from bpr.domains.sampling import DomainSampler
    from bpr.training.dataset import data_folder

    domain, rows = hippocampus()
    training, test = (load_domain(domain, data_folder(None), part) for part in chosen_rows(rows, trial.size))
    recipe = trial.recipe
    start = pretrained(recipe) if trial.name in PRETRAINED else None

    def build(own):
        network = DomainUNet([len(domain.structures)], FILTERS, 1, dropout=own.dropout)
        if start:
            network.start_from(start)
        return network

    networks = learn_folds(build, lambda cases: DomainSampler([domain], cases, PATCH, recipe.augmentation,
                                                              recipe.foreground), [training], recipe, trial.weights,
                           resume=True)  # fmt: skip
    predict = case_predictor(networks, 0, recipe, domain.partner)
    return {"test": measured(predict, test, domain), "training": measured(predict, training[:SEEN], domain)}


def pretrained(recipe) -> dict:
    """Weights after as many steps on brainstem, parotid glands and mandible in 15 head-and-neck CT; trained once."""
    import torch

    from bpr.domains.learning import Learner, learn
    from bpr.domains.network import DomainUNet

    done = WORK / "pretraining" / "weights.pt"
    if not done.exists():
        sampler = head_and_neck_sampler(recipe)
        torch.manual_seed(0)
        network = DomainUNet([len(sampler.domains[0].structures)], FILTERS, 1, dropout=recipe.dropout)
        learn(Learner(network), sampler, replace(recipe, folds=1, checks=0, rarity=0.5, dice=1.0), done.parent)
        torch.save(network.state_dict(), done)
    return torch.load(done, weights_only=True)


def head_and_neck_sampler(recipe):
    """Patches of head-and-neck CT on a 4 mm grid, through one soft-tissue window."""
    from bpr.domains.cases import domain_rows, load_domain
    from bpr.domains.definition import read_domain
    from bpr.domains.sampling import Augmentation, DomainSampler
    from bpr.training.dataset import data_folder

    names = {1: "brainstem", 3: "parotid_right", 4: "parotid_left", 7: "mandible"}
    entry = {"name": "head and neck CT", "modality": "CT", "inputs": ["soft"], "grid_mm": 4.0, "folder": "hn",
             "image": "{id}_ct.nii.gz", "labels": "{id}_seg.nii.gz", "values": names,
             "structures": sorted(names.values()), "where": {"split": "train"}}  # fmt: skip
    domain = read_domain(entry, Path())
    rows = domain_rows(domain, data_folder(None))[: 3 if QUICK else 15]
    return DomainSampler([domain], [load_domain(domain, data_folder(None), rows)], PATCH, Augmentation.of("strong"))


def measured(predict, cases: list, domain) -> list[dict]:
    """Per case: mean Dice over structures, and the relative error of the whole volume."""
    from bpr.domains.inference import labels_of
    from bpr.evaluation.agreement import dice_by_channel

    found = []
    for case in cases:
        guess = labels_of(predict, case, PATCH)
        dice = np.mean(list(dice_by_channel(case.labels, guess, case.known).values()))
        true, told = (((labels > 0) & (labels < 255)).sum() for labels in (case.labels, guess))
        found.append({"case": case.id, "dice": float(dice), "volume": float((told - true) / true)})
    return found


def rows_of(found: dict[Trial, dict]) -> list[Row]:
    """The bars first, then every training."""
    from bpr.evaluation.statistics import bootstrap_mean

    def values(trial: Trial, side: str, key: str = "dice") -> np.ndarray:
        return np.array([entry[key] for entry in found[trial][side]])

    def gap(trial: Trial) -> float:
        return float(values(trial, "training").mean() - values(trial, "test").mean())

    people = [entry["case"] for entry in next(iter(found.values()))["test"]]
    rows = []
    for size, goal in ((53, "<= 0.15"), (10, "<= 0.25")):
        if Trial(size, "all") in found:
            rows.append(Row(f"{size} cases, all means: training minus test", gap(Trial(size, "all")), "Dice", goal))
    if {Trial(53, "all"), Trial(ALL, "all")} <= set(found):
        loss = values(Trial(53, "all"), "test").mean() - values(Trial(ALL, "all"), "test").mean()
        rows.append(Row("53 cases against all, all means: test", float(loss), "Dice", ">= -0.02"))
    for trial in sorted(found, key=lambda t: (t.size or 999, list(("plain", *MEANS, "all")).index(t.name))):
        name = f"{trial.size or 'every'} cases, {trial.name}"
        volume = float(np.abs(values(trial, "test", "volume")).mean())
        rows += [Row(f"{name}: test", float(values(trial, "test").mean()), "Dice"),
                 Row(f"{name}: gap", gap(trial), "Dice"), Row(f"{name}: volume error", volume, "share")]  # fmt: skip
        base = Trial(trial.size, "plain")
        if trial != base and base in found:
            gain = bootstrap_mean(list(values(trial, "test") - values(base, "test")), people)
            rows += [Row(f"{name}: test against plain, {end}", value, "Dice")
                     for end, value in (("mean", gain.mean), ("lower", gain.low), ("upper", gain.high))]  # fmt: skip
    return rows


def write_tables(found: dict[Trial, dict], rows: list[Row]) -> None:
    """``fewcases_means.md`` (one line a training) and ``fewcases.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    value = {row.name: row.value for row in rows}
    names = [row.name.removesuffix(": test") for row in rows if row.name.endswith("cases: test") or (
        row.name.endswith(": test") and "against" not in row.name)]  # fmt: skip
    lines = ["| training | test Dice | against plain (95 % interval) | training minus test | volume error |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name in names:
        change = [value.get(f"{name}: test against plain, {end}") for end in ("mean", "lower", "upper")]
        text = "" if change[0] is None else f"{change[0]:+.3f} ({change[1]:+.3f} to {change[2]:+.3f})"
        lines.append(f"| {name} | {value[f'{name}: test']:.3f} | {text} | {value[f'{name}: gap']:.3f} | "
                     f"{value[f'{name}: volume error']:.1%} |")  # fmt: skip
    (RESULTS / "fewcases_means.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    groups = {size: [n for n in names if n.startswith(f"{size} ")] for size in ("10", "20", "53", "every")}
    groups = {size: own for size, own in groups.items() if own}
    figure, axes = plt.subplots(1, len(groups), figsize=(4.2 * len(groups), 4.2), sharex=True, layout="constrained")
    for axis, (size, own) in zip(np.atleast_1d(axes), groups.items(), strict=True):
        places = np.arange(len(own))[::-1]
        test = np.array([value[f"{n}: test"] for n in own])
        axis.hlines(places, test, test + [value[f"{n}: gap"] for n in own], color="#c8c8c8", lw=5)
        axis.plot(test, places, "o", color="#2b6ca3", label="test")
        axis.plot(
            test + [value[f"{n}: gap"] for n in own], places, "|", color="#a33b2b", ms=12, mew=2, label="training"
        )
        axis.set(yticks=places, yticklabels=[n.split(", ", 1)[1] for n in own], xlabel="Dice", title=f"{size} cases")
        axis.grid(axis="x", alpha=0.3)
    np.atleast_1d(axes)[0].legend(loc="lower left", fontsize=8)
    figure.savefig(RESULTS / "fewcases.png", dpi=110)


def main() -> None:
    run_all("fewcases", trials(), run, rows_of, write_tables)


if __name__ == "__main__":
    main()
