"""What keeps a model from forgetting while it learns a new domain. Each idea is small, and any of them can be combined.

- Replay: patches of remembered cases among the new ones (Robins, Connection Science 1995).
- Learning without forgetting (LwF): where no label speaks, the new model shall say what the old one says (Li & Hoiem,
  IEEE TPAMI 2018; distillation with temperature after Hinton et al. 2015).
- Elastic weight consolidation (EWC): weights that mattered for the remembered cases resist (Kirkpatrick et al.,
  PNAS 2017).
- Interpolation: where the new weights have forgotten, a point on the line to the old ones may not have (Wortsman et
  al., CVPR 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

THINNED = slice(None, None, 2)  # of each axis in space: neighbors say the same


@dataclass(frozen=True)
class Memory:
    """Which ideas are used and how strongly; 0 switches one off.

    Attributes:
        replay: share of patches that come from remembered cases.
        lwf: weight of the distillation loss. ewc: weight of the elastic penalty.
    """

    replay: float = 0.25
    lwf: float = 1.0
    ewc: float = 0.0


PRESETS = {
    "none": Memory(0, 0, 0),
    "replay": Memory(0.25, 0, 0),
    "lwf": Memory(0, 1.0, 0),
    "ewc": Memory(0, 0, 1.0),
    "default": Memory(),
}


class OldModel:
    """The parent's network, frozen: the teacher of learning without forgetting."""

    def __init__(self, network: nn.Module, temperature: float = 2.0):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.temperature = temperature

    def loss(self, images: torch.Tensor, logits: torch.Tensor, silent: torch.Tensor) -> torch.Tensor:
        """Kullback-Leibler divergence from the old model's softened answer, averaged over the voxels in ``silent``.

        images (n, channels, ...), logits (n, classes, ...), silent (n, ...) bool, in 2-D or 3-D. Every other voxel
        along each axis is looked at. Zero when nothing is silent.
        """
        thinned = (..., *[THINNED] * (silent.ndim - 1))
        silent = silent[thinned]
        if not silent.any():
            return logits.sum() * 0
        with torch.no_grad():
            old = F.log_softmax(self.network(images)[thinned].float() / self.temperature, 1)
        new = F.log_softmax(logits[thinned].float() / self.temperature, 1)
        divergence = (old.exp() * (old - new)).sum(1)
        return divergence[silent].mean() * self.temperature**2


class ElasticWeights:
    """A quadratic penalty around the parent's weights, each weighed by its Fisher information on remembered patches."""

    def __init__(self, network: nn.Module, patches: Iterable[torch.Tensor]):
        """``patches``: images (n, channels, ...). Labels are drawn from the model itself, as the true Fisher asks."""
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.anchor = {name: p.detach().clone() for name, p in trained.items()}
        self.fisher = {name: torch.zeros_like(p) for name, p in trained.items()}
        for images in patches:
            network.zero_grad(set_to_none=True)
            log_p = F.log_softmax(network(images).float(), 1)
            drawn = torch.distributions.Categorical(logits=log_p.detach().movedim(1, -1)).sample()
            (-log_p.gather(1, drawn[:, None]).mean()).backward()
            for name, p in trained.items():
                self.fisher[name] += p.grad.detach() ** 2
        network.zero_grad(set_to_none=True)
        mean = torch.cat([f.flatten() for f in self.fisher.values()]).mean().clamp(min=1e-12)
        self.fisher = {name: f / mean for name, f in self.fisher.items()}  # relative: a weight of 1 means something

    def penalty(self, network: nn.Module) -> torch.Tensor:
        """Half the weighted squared distance from the parent."""
        total = 0.0
        for name, p in network.named_parameters():
            if name in self.fisher:
                total = total + (self.fisher[name] * (p - self.anchor[name]) ** 2).sum()
        return 0.5 * total


def blend(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Weights on the line between two models: ``share`` 1 is the new one, 0 the old one."""
    return {
        name: torch.lerp(old[name].to(tensor), tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in new.items()
    }
