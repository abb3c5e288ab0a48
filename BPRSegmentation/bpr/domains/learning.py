"""Training over domains: the settings against memorising, the loss of a step, early stopping, folds, mirrored tests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bpr.domains.cases import DomainCase
from bpr.domains.inference import ensemble, labels_of, mirrored
from bpr.domains.natural import SliceUNet
from bpr.domains.network import DomainUNet, Outputs, placed
from bpr.domains.sampling import Augmentation, DomainSampler, Patch
from bpr.evaluation.agreement import dice_by_channel
from bpr.segmentation.windows import Predictor
from bpr.training.loop import Schedule, Trainer
from bpr.training.segmentation import LOW_WEIGHT, marginal_loss
from bpr.training.supervision import compiled, has_fast_bfloat16

LEAST_GAIN = 0.001  # of Dice that counts as better
SLOW = 0.1  # share of the learning rate for weights that were taught elsewhere


Network = DomainUNet | SliceUNet


@dataclass(frozen=True)
class Recipe:
    """Settings of a training; the defaults are those that the studies found good.

    Attributes:
        steps, learning_rate, weight_decay, average: as in bpr.training.loop.Schedule.
        batch: patches of each domain that a step sees; ``groups`` domains take part in it, 0 for all.
        dice, focal, rarity: weight of the Dice term, exponent of focal cross entropy (0: plain), see ``marginal_loss``.
        deep: whether half resolution is supervised too. dropout: of channels below full resolution.
        augmentation, foreground, balance: see bpr.domains.sampling.
        checks: measurements on left-out patients, of which the best one stays; 0 keeps the last weights.
        patience: checks without a gain after which the training ends.
        mirror: whether tests average over left-right mirrored inputs. folds: networks whose answers are averaged.
    """

    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    average: float = 0.98
    batch: int = 2
    groups: int = 1
    dice: float = 1.0
    focal: float = 0.0
    rarity: float = 0.5
    deep: bool = True
    dropout: float = 0.1
    augmentation: Augmentation = field(default_factory=lambda: Augmentation.of("strong"))
    foreground: float = 0.75
    balance: float = 1.0
    checks: int = 10
    patience: int = 4
    mirror: bool = True
    folds: int = 1
    seed: int = 0
    compile: bool = False

    @classmethod
    def of(cls, settings: dict) -> Recipe:
        """From a configuration's values by name. Raises ValueError for a setting that does not exist."""
        unknown = set(settings) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
        if "augmentation" in settings:
            settings = settings | {"augmentation": Augmentation.of(settings["augmentation"])}
        return cls(**settings)

    def schedule(self) -> Schedule:
        """The loop's schedule."""
        return Schedule(self.steps, self.learning_rate, self.weight_decay, clip=12.0, average=self.average,
                        seed=self.seed, checkpoint_s=60.0, threads=torch.get_num_threads())  # fmt: skip


@dataclass(frozen=True)
class Step:
    """What an additional loss term sees: patches and outputs by group, features and domain number by sample."""

    patches: list[list[Patch]]
    outputs: list[Outputs]
    features: list[torch.Tensor]
    domain: torch.Tensor


class Learner(nn.Module):
    """The network with what learns beside it. ``terms`` map a Step to a weighted scalar; their parameters train too."""

    def __init__(self, network: Network, terms: Sequence[nn.Module] = ()):
        super().__init__()
        self.network, self.terms = network, nn.ModuleList(terms)


def domain_loss(learner: Learner, sampler: DomainSampler, recipe: Recipe, device: str = "cpu"):
    """The function that bpr.training.loop.Trainer calls at each step."""
    network = learner.network
    walk = compiled(network.features) if recipe.compile else network.features
    bfloat, kind = has_fast_bfloat16(device), device.partition(":")[0]

    def loss_of(_: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        drawn = _groups(sampler, recipe, rng)
        patches = [[sampler.draw(number, rng) for _ in range(recipe.batch)] for number in drawn]
        images = torch.cat([patch.image for group in patches for patch in group]).to(device)
        domain = torch.tensor(np.repeat(drawn, recipe.batch), device=device)
        with torch.autocast(kind, torch.bfloat16, enabled=bfloat):
            features = walk(images.contiguous(memory_format=torch.channels_last_3d), domain)
            parts = [slice(k * recipe.batch, (k + 1) * recipe.batch) for k in range(len(drawn))]
            outputs = [network.outputs([f[part] for f in features[-2:]], number)
                       for part, number in zip(parts, drawn, strict=True)]  # fmt: skip
        total = sum(_supervised(group, output, recipe, device) for group, output in zip(patches, outputs, strict=True))
        step = Step(patches, outputs, features, domain)
        return total / len(drawn) + sum(term(step) for term in learner.terms)

    return loss_of


def _groups(sampler: DomainSampler, recipe: Recipe, rng: np.random.Generator) -> list[int]:
    """Numbers of the domains of a step."""
    count = len(sampler.domains)
    if recipe.groups == 0 or recipe.groups >= count:
        return list(range(count))
    return sorted(rng.choice(count, recipe.groups, replace=False, p=sampler.share).tolist())


def _supervised(patches: list[Patch], outputs: Outputs, recipe: Recipe, device: str) -> torch.Tensor:
    """Mean loss of a group's patches on both resolutions."""
    total = 0.0
    settings = {"rarity": recipe.rarity, "dice": recipe.dice, "focal": recipe.focal}
    for k, patch in enumerate(patches):
        target, known = patch.target.to(device), patch.known.to(device)
        total = total + marginal_loss(outputs.logits[k : k + 1], target, known, **settings)
        if recipe.deep:
            half = target[::2, ::2, ::2]
            total = total + LOW_WEIGHT * marginal_loss(outputs.low[k : k + 1], half, known, **settings)
    return total / len(patches)


def learn(
    learner: Learner,
    sampler: DomainSampler,
    recipe: Recipe,
    folder: Path,
    validation: list[list[DomainCase]] | None = None,
    resume: bool = False,
    report_every: int = 50,
) -> list[dict]:
    """Train; afterwards the network holds its best averaged weights.

    Args:
        validation: by domain, cases of patients left out; they choose the weights when ``recipe.checks`` is not 0.

    Returns:
        The measurements: step and mean Dice of the left-out patients.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = Trainer(placed(learner, device), _rate_groups(learner), recipe.schedule(), folder)
    if resume:
        trainer.resume()
    history: list[dict] = trainer.notes.setdefault("history", [])
    best = folder / "best.pt"
    every = max(1, recipe.steps // recipe.checks) if recipe.checks and validation and any(validation) else 0

    def watch(loss: float) -> bool:
        if not every or (trainer.step % every and trainer.step != recipe.steps):
            return False
        trial = copy.deepcopy(learner)
        trial.load_state_dict(trainer.averaged)
        dice = mean_dice(trial.network, sampler, validation)
        if dice > max((entry["dice"] for entry in history), default=-1) + LEAST_GAIN or not best.exists():
            torch.save(trainer.averaged, best)
        history.append({"step": trainer.step, "dice": round(dice, 4)})
        top = max(range(len(history)), key=lambda k: history[k]["dice"])
        return len(history) - 1 - top >= recipe.patience

    if trainer.step < recipe.steps:
        trainer.run(domain_loss(learner, sampler, recipe, device), report_every, watch)
    if every and best.exists():
        learner.load_state_dict(torch.load(best, weights_only=True))
    learner.to("cpu").eval()
    trainer.checkpoint.unlink(missing_ok=True)
    return history


def _rate_groups(learner: Learner) -> list[dict]:
    """Optimizer parameter groups: what was taught elsewhere moves slowly."""
    slow = learner.network.pretrained()
    taught = {id(parameter) for parameter in slow}
    rest = [parameter for parameter in learner.parameters() if id(parameter) not in taught]
    return [{"params": rest}, *([{"params": slow, "scale": SLOW}] if slow else [])]


def mean_dice(network: Network, sampler: DomainSampler, cases: list[list[DomainCase]]) -> float:
    """Mean over domains of the mean Dice over their cases and structures."""
    means = []
    for number, own in enumerate(cases):
        predict = predictor(network, number)
        found = [dice_by_channel(case.labels, labels_of(predict, case, sampler.patch), case.known) for case in own]
        if own:
            means.append(np.nanmean([value for one in found for value in one.values()]))
    return float(np.mean(means))


def predictor(network: Network, domain: int) -> Predictor:
    """A domain's branch as a function of arrays: (n, channels, z, y, x) to logits."""
    bfloat = has_fast_bfloat16("cpu")
    plain = placed(network.branch(domain))

    def predict(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat):
            return plain(torch.from_numpy(batch).contiguous(memory_format=torch.channels_last_3d)).float().numpy()

    return predict


def folds_of(cases: list[DomainCase], folds: int) -> list[tuple[list[DomainCase], list[DomainCase]]]:
    """(training, left out) for each fold, by patient; with one fold about a fifth of the patients is left out."""
    patients = sorted({case.patient for case in cases})
    parts = max(folds, 2) if folds > 1 else min(5, len(patients))
    if parts < 2:
        return [(cases, [])]
    place = {patient: k % parts for k, patient in enumerate(patients)}
    split = [([c for c in cases if place[c.patient] != k], [c for c in cases if place[c.patient] == k])
             for k in range(parts)]  # fmt: skip
    return split[: max(folds, 1)]


Build = Callable[[Recipe], Network]


def learn_folds(
    build: Build, sampler_of: Callable[[list[list[DomainCase]]], DomainSampler], cases: list[list[DomainCase]],
    recipe: Recipe, folder: Path, terms: Callable[[Network], Sequence[nn.Module]] = lambda network: (),
    resume: bool = False,
) -> list[Network]:  # fmt: skip
    """One network for each fold, each with its own patients left out; without checks all cases teach.

    Args:
        build: a fresh network. sampler_of: a sampler of cases by domain. terms: what learns beside the network.
    """
    networks = []
    splits = [folds_of(own, recipe.folds) for own in cases]
    for number in range(recipe.folds):
        pairs = [split[number % len(split)] for split in splits]
        held_out = recipe.checks or recipe.folds > 1
        training = [pair[0] for pair in pairs] if held_out else cases
        own = replace(recipe, seed=recipe.seed + number)
        torch.manual_seed(own.seed)
        network = build(own)
        done = folder / f"fold{number}" / "weights.pt"
        if resume and done.exists():
            network.load_state_dict(torch.load(done, weights_only=True))
        else:
            learner = Learner(network, terms(network))
            learn(learner, sampler_of(training), own, done.parent, [p[1] for p in pairs], resume)
            torch.save(network.state_dict(), done)
            (done.parent / "best.pt").unlink(missing_ok=True)
        networks.append(network.eval())
    return networks


def case_predictor(networks: list[Network], domain: int, recipe: Recipe, partner: np.ndarray) -> Predictor:
    """What a trained set of folds says, mirrored if the recipe says so."""
    predict = ensemble([predictor(network, domain) for network in networks]) if len(networks) > 1 else (
        predictor(networks[0], domain))  # fmt: skip
    return mirrored(predict, partner) if recipe.mirror else predict
