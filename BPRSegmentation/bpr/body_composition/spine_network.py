"""The network that counts vertebrae: two small encoders for front and side, then convolutions along the spine."""

from __future__ import annotations

import torch
from torch import nn

from bpr.body_composition.counting import PLACES
from bpr.body_composition.spine import WIDTH

FILTERS = (12, 16, 24, 32)
FEATURES, HIDDEN = 48, 64
DILATIONS = (1, 2, 4, 6)  # rows of 5 mm: the last row of an output sees 25 cm up and down


class Encoder(nn.Module):
    """A picture (n, channels, rows, 112) to features of its rows (n, 48, rows / 2)."""

    def __init__(self, channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        for level, filters in enumerate(FILTERS):
            stride = (2 if level == 1 else 1, 2)  # narrower at each level, half as many rows in the end
            layers += [nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
            channels = filters
        self.layers = nn.Sequential(*layers)
        self.features = nn.Conv1d(channels * WIDTH // 2 ** len(FILTERS), FEATURES, 1)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.features(self.layers(picture).transpose(2, 3).flatten(1, 2))


class SpineNetwork(nn.Module):
    """Pictures of a spine (n, 3, rows, 112) to logits of places (n, places, rows / 2), see counting.py."""

    def __init__(self, dropout: float = 0.1):
        super().__init__()
        self.front, self.side = Encoder(2), Encoder(1)
        self.joined = nn.Conv1d(2 * FEATURES, HIDDEN, 1)
        self.along = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(HIDDEN, HIDDEN, 5, padding=2 * dilation, dilation=dilation), nn.BatchNorm1d(HIDDEN),
                nn.ReLU(), nn.Dropout(dropout), nn.Conv1d(HIDDEN, HIDDEN, 1))
            for dilation in DILATIONS)  # fmt: skip
        self.places = nn.Conv1d(HIDDEN, len(PLACES), 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """See the class."""
        seen = torch.cat([self.front(pictures[:, :2]), self.side(pictures[:, 2:])], 1)
        seen = self.joined(torch.relu(seen))
        for layer in self.along:
            seen = seen + layer(seen)
        return self.places(torch.relu(seen))
