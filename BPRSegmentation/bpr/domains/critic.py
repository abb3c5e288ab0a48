"""Teaches a critic of label maps: real ones, cut, turned and partly labeled, beside corrupted copies of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bpr.domains.cases import DomainCase
from bpr.domains.corruption import KINDS, corrupted
from bpr.domains.definition import Domain
from bpr.domains.measures import measured
from bpr.domains.plausibility import SLOPE, Critic, standardized
from bpr.training.cases import OUTSIDE
from bpr.training.loop import Schedule, Trainer

MAPS = 180  # real maps, each with two corrupted copies
CUT, FORGOTTEN = 0.4, 0.15  # share of maps that end earlier; of structures that nobody looked for
SCALE, TURN = 0.06, 0.1  # spread of the size (log, of all and by axis) and of the angles (radians)
ALTERED = 0.1  # of a structure, 1 - Dice, that counts
WIDTH, DROPOUT, NOISE, BATCH = 64, 0.4, 0.4, 64  # noise in deviations: a dozen people must not be learned by heart


@dataclass(frozen=True)
class Lessons:
    """Measured maps: (n, numbers), (n, structures) which were looked for, which are altered, and (n,) corrupted."""

    numbers: np.ndarray
    known: np.ndarray
    altered: np.ndarray
    corrupt: np.ndarray


def drawn_lessons(domain: Domain, cases: list[DomainCase], rng: np.random.Generator, maps: int = MAPS) -> Lessons:
    """Lessons from these cases, each in turn."""
    rows = []
    for number in range(maps):
        labels, known = _another(cases[number % len(cases)], rng)
        spacing = domain.grid_mm * np.exp(rng.normal(0, SCALE) + rng.normal(0, SCALE, 3))
        turn = np.linalg.qr(np.eye(3) + TURN * np.triu(rng.normal(0, 1, (3, 3)), 1))[0]
        turn *= np.sign(np.diag(turn))
        rows.append((measured(labels, known, spacing, turn), known[1:], np.zeros(len(known) - 1, bool), False))
        for kind in rng.choice(KINDS, 2, replace=False):
            changed, done = corrupted(labels, domain.partner, rng, str(kind))
            if done:
                altered = _difference(labels, changed, len(known)) > ALTERED
                rows.append((measured(changed, known, spacing, turn), known[1:], altered, True))
    return Lessons(*(np.array(column) for column in zip(*rows, strict=True)))


def _another(case: DomainCase, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A case's labels and known channels as another scan could show them: ending earlier, not all of it labeled."""
    labels, known = case.labels.copy(), case.known.copy()
    if rng.random() < CUT and case.voxels:
        z = np.flatnonzero(((labels > 0) & (labels != OUTSIDE)).any((1, 2)))
        off = round((z[-1] - z[0] + 1) * rng.uniform(0.1, 0.6))
        if rng.random() < 0.5:
            labels[: z[0] + off] = OUTSIDE
        else:
            labels[z[-1] + 1 - off :] = OUTSIDE
    forgotten = np.flatnonzero(rng.random(len(known)) < FORGOTTEN)
    if set(case.voxels) - set(forgotten.tolist()):
        forgotten = forgotten[forgotten > 0]
        known[forgotten] = False
        labels[np.isin(labels, forgotten)] = 0
    return labels, known


def _difference(true: np.ndarray, shown: np.ndarray, channels: int) -> np.ndarray:
    """(structures,) 1 - Dice; 0 for what neither has."""
    sizes = [np.bincount(one.ravel(), minlength=256)[1:channels] for one in (true, shown, true[true == shown])]
    return 1 - np.where(sizes[0] + sizes[1], 2 * sizes[2] / np.maximum(sizes[0] + sizes[1], 1), 1)


def critic_network(numbers: int, structures: int) -> nn.Sequential:
    """From standardized numbers to logits of "altered": the map's, then each structure's."""
    layers = [nn.Linear(2 * numbers, WIDTH), nn.LeakyReLU(SLOPE), nn.Dropout(DROPOUT), nn.Linear(WIDTH, WIDTH),
              nn.LeakyReLU(SLOPE), nn.Dropout(DROPOUT), nn.Linear(WIDTH, 1 + structures)]  # fmt: skip
    return nn.Sequential(*layers)


def critic_loss(lessons: Lessons, mean: np.ndarray, spread: np.ndarray):
    """The function that bpr.training.loop.Trainer calls: as many real maps as corrupted ones, with noise."""
    shown = torch.from_numpy(standardized(lessons.numbers, mean, spread))
    known, altered, corrupt = (torch.from_numpy(np.asarray(column, np.float32))
                               for column in (lessons.known, lessons.altered, lessons.corrupt))  # fmt: skip
    sides = [np.flatnonzero(lessons.corrupt == side) for side in (False, True)]

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        chosen = torch.from_numpy(np.concatenate([rng.choice(side, BATCH // 2) for side in sides]))
        x = shown[chosen]
        logits = network(x + NOISE * torch.randn_like(x))
        each = F.binary_cross_entropy_with_logits(logits[:, 1:], altered[chosen], known[chosen])
        return F.binary_cross_entropy_with_logits(logits[:, 0], corrupt[chosen]) + 0.5 * each

    return loss_of


def train_critic(
    domain: Domain, cases: list[DomainCase], folder: Path, steps: int = 800, resume: bool = False, seed: int = 0
) -> Critic:
    """The critic of a domain's label maps, from cases with labels; kept as ``critic.npz``. About 15 s of one core."""
    done = folder / "critic.npz"
    if resume and done.exists():
        return Critic.load(done)
    lessons = drawn_lessons(domain, cases, np.random.default_rng(seed))
    mean, spread = _usual(lessons.numbers[~lessons.corrupt])
    torch.manual_seed(seed)
    network = critic_network(len(mean), len(domain.structures))
    schedule = Schedule(steps, 3e-3, weight_decay=1e-2, average=0.98, seed=seed, threads=torch.get_num_threads())
    trainer = Trainer(network, [{"params": list(network.parameters())}], schedule, folder)
    if resume:
        trainer.resume()
    trainer.run(critic_loss(lessons, mean, spread), report_every=steps // 4)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    layers = tuple((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linear)
    critic = Critic(domain.grid_mm, mean, spread, layers)
    critic.save(done)
    trainer.checkpoint.unlink(missing_ok=True)
    return critic


def _usual(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of each number over the maps that tell it; 0 and a little where none does."""
    told = np.isfinite(numbers)
    count = np.maximum(told.sum(0), 1)
    mean = np.where(told, numbers, 0).sum(0) / count
    spread = np.sqrt((np.where(told, numbers - mean, 0) ** 2).sum(0) / count)
    return mean.astype(np.float32), (spread + 0.01 * np.abs(mean) + 0.01).astype(np.float32)
