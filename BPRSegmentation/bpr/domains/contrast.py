"""Multi-scale contrastive regularization: features of one domain move together, those of different domains apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from bpr.domains.learning import Step


def contrastive_loss(vectors: torch.Tensor, domain: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Supervised contrastive loss with the domain as the class.

    mean over i of -1/|P(i)| sum over p in P(i) of log[exp(v_i v_p / t) / sum over a != i of exp(v_i v_a / t)],
    where P(i) are the other vectors of i's domain. Source: Khosla et al., Supervised Contrastive Learning (NeurIPS
    2020), equation 2. Zero when no domain has two vectors.

    Args:
        vectors: (n, length) of unit length. domain: (n,) numbers.
    """
    alike = vectors @ vectors.T / temperature
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    log_share = alike - torch.logsumexp(alike.masked_fill(itself, -torch.inf), 1, keepdim=True)
    same = (domain[:, None] == domain[None]) & ~itself
    partners = same.sum(1)
    if not partners.any():
        return vectors.sum() * 0
    mean = (log_share * same).sum(1)[partners > 0] / partners[partners > 0]
    return -mean.mean()


class Contrast(nn.Module):
    """The regularization at one or several depths, each with a projection head of its own.

    Args:
        channels: of the features at all depths (see DomainUNet.features), such as ``depth_channels`` gives.
        depths: positions in that list: encoder levels first, then decoder levels. weights: one for each depth.
        cells: a feature map is averaged in so many blocks along each axis, each of which is a vector.
    """

    def __init__(self, channels: Sequence[int], depths: Sequence[int], weights: Sequence[float] | float = 0.1,
                 temperature: float = 0.1, length: int = 32, cells: int = 2):  # fmt: skip
        super().__init__()
        self.depths, self.temperature, self.cells = tuple(depths), temperature, cells
        self.weights = tuple(weights) if isinstance(weights, Sequence) else (float(weights),) * len(self.depths)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv3d(channels[d], channels[d], 1), nn.ReLU(), nn.Conv3d(channels[d], length, 1))
            for d in self.depths
        )

    def forward(self, step: Step) -> torch.Tensor:
        """Weighted sum over the depths."""
        total = 0.0
        for depth, weight, head in zip(self.depths, self.weights, self.heads, strict=True):
            # Projected before it is averaged: the mean of a normalized feature says nothing about an instance.
            pooled = F.adaptive_avg_pool3d(head(step.features[depth].float()), self.cells)  # (n, length, cells^3)
            vectors = F.normalize(pooled.flatten(2).transpose(1, 2).flatten(0, 1), dim=1)
            domain = step.domain.repeat_interleave(self.cells**3)
            total = total + weight * contrastive_loss(vectors, domain, self.temperature)
        return total


def depth_channels(filters: Sequence[int]) -> list[int]:
    """Channels of the features at all depths of a DomainUNet."""
    return [*filters, *reversed(filters[:-1])]
