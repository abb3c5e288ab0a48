"""Anatomical prior: an auto-encoder of label maps over all anatomies.

It learns to give back a label map from a short code, and to mend a map that was corrupted. The distance between the
codes of a prediction and of the truth is a loss term (Oktay et al., ACNN, IEEE TMI 2018).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bpr.domains.cases import DomainCase
from bpr.domains.corruption import corrupted
from bpr.domains.learning import Step
from bpr.domains.sampling import Augmentation, DomainSampler
from bpr.training.cases import OUTSIDE
from bpr.training.supervision import has_fast_bfloat16

POOLINGS = 3  # before the code
COARSE = 2  # label maps are coded at half resolution
JITTER = 4  # voxels of such a map by which a window may lie beside the structures' middle


class LabelCoder(nn.Module):
    """Label maps of all domains to codes and back; channels: background, then the domains' structures in turn.

    Args:
        classes: per domain its number of structures. shape: (z, y, x) voxels of a map at half resolution, multiples
            of 8.
    """

    def __init__(self, classes: list[int], shape: tuple[int, int, int], width: int = 16, code: int = 64):
        super().__init__()
        self.classes, self.shape = list(classes), tuple(shape)
        widths = [1 + sum(classes), width, 2 * width, 2 * width]
        self.small = [n // 2**POOLINGS for n in shape]
        inner = widths[-1] * math.prod(self.small)
        down, up = [], []
        for here, below in pairwise(widths):
            down += [nn.Conv3d(here, below, 3, 2, 1), nn.GroupNorm(4, below), nn.LeakyReLU(0.1)]
        for below, here in pairwise([*widths[:0:-1], width]):
            up += [nn.Upsample(scale_factor=2), nn.Conv3d(below, here, 3, 1, 1), nn.GroupNorm(4, here),
                   nn.LeakyReLU(0.1)]  # fmt: skip
        self.down, self.to_code, self.from_code = nn.Sequential(*down), nn.Linear(inner, code), nn.Linear(code, inner)
        self.up = nn.Sequential(*up, nn.Conv3d(width, widths[0], 1))

    def spread(self, maps: torch.Tensor, domain: int) -> torch.Tensor:
        """A domain's probabilities (n, 1 + its structures, z, y, x) among all channels."""
        first = 1 + sum(self.classes[:domain])
        after = sum(self.classes) + 1 - first - self.classes[domain]
        shape = maps.shape[2:]
        return torch.cat([maps[:, :1], maps.new_zeros(len(maps), first - 1, *shape), maps[:, 1:],
                          maps.new_zeros(len(maps), after, *shape)], 1)  # fmt: skip

    def encode(self, maps: torch.Tensor) -> torch.Tensor:
        """(n, channels, z, y, x) to codes (n, code)."""
        return self.to_code(self.down(maps).flatten(1))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes to logits (n, channels, z, y, x)."""
        return self.up(self.from_code(codes).unflatten(1, (-1, *self.small)))


def as_maps(labels: np.ndarray, classes: int) -> torch.Tensor:
    """(n, z, y, x) channel numbers (OUTSIDE counts as background) to (n, 1 + classes, z, y, x) of zeros and ones."""
    numbers = torch.from_numpy(np.where(labels == OUTSIDE, 0, labels)).long()
    return F.one_hot(numbers, classes + 1).movedim(-1, 1).float()


def coarse_sampler(sampler: DomainSampler, augmentation: Augmentation) -> DomainSampler:
    """Patches of the same cases' label maps at half resolution, all of them about the structures; without images."""
    shape = tuple(n // COARSE for n in sampler.patch)
    cases = [[_coarse(case, shape) for case in own] for own in sampler.cases]
    return DomainSampler(sampler.domains, cases, shape, augmentation, 1.0, sampler.balance)


def _coarse(case: DomainCase, shape: tuple[int, int, int]) -> DomainCase:
    """The case's label map about its structures, with room for a window of that shape and little more."""
    labels = case.labels[::COARSE, ::COARSE, ::COARSE]
    there = np.argwhere((labels > 0) & (labels != OUTSIDE))
    low, high = (there.min(0), there.max(0) + 1) if len(there) else (np.zeros(3, int), np.array(labels.shape))
    missing = np.maximum(np.array(shape) - (high - low), 0)
    start, stop = low - missing // 2 - JITTER, high + missing - missing // 2 + JITTER
    pad = [(max(0, -int(a)), max(0, int(b) - n)) for a, b, n in zip(start, stop, labels.shape, strict=True)]
    box = tuple(slice(int(a) + p[0], int(b) + p[0]) for a, b, p in zip(start, stop, pad, strict=True))
    labels = np.pad(labels, pad, constant_values=OUTSIDE)[box]
    return DomainCase.of(case.id, case.patient, np.zeros((1, *labels.shape), np.float32), labels, case.known)


def coder_loss(sampler: DomainSampler, batch: int = 8, corrupt: float = 0.6):
    """The function that bpr.training.loop.Trainer calls: maps of one domain, in part corrupted, to be given back whole.

    ``sampler`` as ``coarse_sampler`` makes it; ``corrupt`` is the share of maps that are corrupted first.
    """

    bfloat = has_fast_bfloat16("cpu")

    def shown_as(one: np.ndarray, partner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return corrupted(one, partner, rng)[0] if rng.random() < corrupt else one

    def loss_of(coder: LabelCoder, rng: np.random.Generator) -> torch.Tensor:
        domain = sampler.draw_domain(rng)
        true = np.stack([sampler.draw(domain, rng).target.numpy() for _ in range(batch)])
        partner = sampler.domains[domain].partner
        shown = np.stack([shown_as(one, partner, rng) for one in true])
        wanted = coder.spread(as_maps(true, coder.classes[domain]), domain)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat):
            logits = coder.decode(coder.encode(coder.spread(as_maps(shown, coder.classes[domain]), domain)))
        return _reconstruction_loss(logits.float(), wanted)

    return loss_of


def _reconstruction_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross entropy, in which every class that is there weighs alike, plus Dice over the structures."""
    log_p = F.log_softmax(logits, 1)
    p, size = log_p.exp(), wanted.sum((2, 3, 4))
    entropy = -((wanted * log_p).sum((2, 3, 4)) / size.clamp(min=10)).sum(1) / (size > 1).sum(1)
    missed = 1 - (2 * (p * wanted).sum((2, 3, 4)) + 1) / (p.sum((2, 3, 4)) + size + 1)
    there = (size > 1) & (torch.arange(size.shape[1], device=size.device) > 0)
    return entropy.mean() + (missed[there].mean() if there.any() else 0.0)


class PriorTerm(nn.Module):
    """Loss term: squared distance between the codes of prediction and truth, in units of the codes' own spread.

    Structures that nobody labeled and voxels that nobody looked at count as background on both sides.
    """

    def __init__(self, coder: LabelCoder, weight: float = 0.1):
        super().__init__()
        self._frozen = [coder.eval().requires_grad_(False)]  # in a list: it is no part of what is trained or saved
        self.weight = weight

    def forward(self, step: Step) -> torch.Tensor:
        """Mean over the groups."""
        device, total = step.outputs[0].logits.device, 0.0
        coder = self._frozen[0].to(device)
        for patches, outputs in zip(step.patches, step.outputs, strict=True):
            domain, classes = patches[0].domain, coder.classes[patches[0].domain]
            probability = F.softmax(outputs.logits.float(), 1)
            target = np.stack([patch.target.numpy() for patch in patches])
            known = torch.stack([patch.known for patch in patches]).float()[..., None, None, None].to(device)
            seen = torch.from_numpy(target != OUTSIDE)[:, None].float().to(device)
            codes = [coder.encode(coder.spread(F.avg_pool3d(_folded(maps, known, seen), COARSE), domain))
                     for maps in (probability, as_maps(target, classes).to(device))]  # fmt: skip
            scale = codes[1].detach().var() + 1e-3
            total = total + (codes[0] - codes[1]).square().mean() / scale
        return self.weight * total / len(step.patches)


def _folded(maps: torch.Tensor, known: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Maps whose unknown channels and unseen voxels are background."""
    structures = (maps * known * seen)[:, 1:]
    return torch.cat([1 - structures.sum(1, keepdim=True), structures], 1)
