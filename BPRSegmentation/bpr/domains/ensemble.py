"""Several networks of one kind as one: what a bundle of folds stores, in one graph for every engine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from bpr.segmentation.network import build_network


class Ensemble(nn.Module):
    """The mean of its members' log probabilities."""

    def __init__(self, members: list[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, channels, z, y, x) to log probabilities (n, classes, z, y, x), not normalized again."""
        return sum(F.log_softmax(member(image), 1) for member in self.members) / len(self.members)


def build_ensemble(members: int, classes: int, filters: list[int], channels: int) -> Ensemble:
    """Untrained, as a bundle's definition asks for it; without filters its members are those of slices."""
    if filters:
        return Ensemble([build_network(classes, filters, channels) for _ in range(members)])
    from bpr.domains.natural import SliceBranch

    return Ensemble([SliceBranch(classes, channels) for _ in range(members)])
