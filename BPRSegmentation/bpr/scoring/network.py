"""The score network: a backbone, its pooled features, per slice a distribution over the ruler and landmark votes."""

from __future__ import annotations

import torch
from torch import nn

from bpr.scoring.backbones import BACKBONES


class ScoreNetwork(nn.Module):
    """(n, 3, 112, 112) in [-1, 1] to (n, bins + votes) logits.

    The first ``bins`` are a distribution over the ruler (a plain regression head had twice the error in our trials).
    Each of the ``votes`` says for one landmark whether the slice lies above it: organs do not follow the ruler of
    bones, so their heights are outputs of their own.

    Args:
        backbone: a key of ``bpr.scoring.backbones.BACKBONES``; ``options`` are its arguments.
        dropout: before the last layer.
    """

    def __init__(self, backbone: str, bins: int, votes: int, dropout: float = 0.3, options: dict | None = None):
        super().__init__()
        self.bins = bins
        self.backbone = BACKBONES[backbone](**options or {})
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(self.backbone.channels, bins + votes)
        nn.init.normal_(self.output.weight, std=0.001)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.dropout(self.backbone(x).mean((2, 3))))
