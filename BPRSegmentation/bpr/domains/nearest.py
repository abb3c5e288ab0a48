"""Which domain's branch fits an image of an unknown domain: the one in which its features look as they did in training.

Every branch has seen its own cases: mean and spread of its encoder's channels on them are kept. A new image is shown to
each branch, and the one whose kept statistics it deviates from least is chosen.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from bpr.domains.cases import DomainCase
from bpr.domains.natural import SliceBranch
from bpr.errors import Notice
from bpr.segmentation.windows import tile_starts


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and standard deviation over cases of a branch's feature vector (see ``feature_vector``)."""

    mean: tuple[float, ...]
    spread: tuple[float, ...]

    @classmethod
    def of(cls, network: nn.Module, cases: list[DomainCase], tile: tuple[int, int, int]) -> FeatureStatistics:
        """Over the cases that the branch learned from."""
        vectors = np.array([feature_vector(network, case.image, tile) for case in cases])
        return cls(tuple(np.round(vectors.mean(0), 4).tolist()), tuple(np.round(vectors.std(0), 4).tolist()))

    def distance(self, vector: np.ndarray) -> float:
        """Root mean square deviation in standard deviations; spreads below a tenth of the usual one count as that."""
        spread = np.array(self.spread)
        return float(np.sqrt(np.mean(((vector - self.mean) / np.maximum(spread, 0.1 * np.median(spread) + 1e-6)) ** 2)))

    def to_json(self) -> dict:
        """Plain values for a bundle's metadata."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_json(cls, facts: dict) -> FeatureStatistics:
        """As ``to_json`` gave it."""
        return cls(tuple(facts["mean"]), tuple(facts["spread"]))


@torch.inference_mode()
def feature_vector(network: nn.Module, image: np.ndarray, tile: tuple[int, int, int]) -> np.ndarray:
    """Mean and log standard deviation of every encoder channel on the middle tile of (channels, z, y, x)."""
    starts = [tile_starts(n, t) for n, t in zip(image.shape[1:], tile, strict=True)]
    box = tuple(slice(s[len(s) // 2], s[len(s) // 2] + t) for s, t in zip(starts, tile, strict=True))
    part = image[(slice(None), *box)]
    pad = [(0, t - n) for n, t in zip(part.shape[1:], tile, strict=True)]
    part = np.stack([np.pad(channel, pad, constant_values=channel.min()) for channel in part])
    found = []
    for x in _encoded(network, torch.from_numpy(part)[None]):
        channels = x.transpose(0, 1).flatten(1)
        found += [channels.mean(1), torch.log(channels.std(1) + 1e-3)]
    return torch.cat(found).numpy()


def _encoded(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The features (n, channels, ...) of all encoder levels of a branch."""
    if isinstance(network, SliceBranch):
        return network.trunk.encoded(x)
    found = []
    for level in (network.input_block, *network.downsamples, network.bottleneck):
        x = level(x)
        found.append(x)
    return found


def nearest(images: list[np.ndarray], networks: list[nn.Module], known: list[FeatureStatistics],
            tile: tuple[int, int, int]) -> list[float]:  # fmt: skip
    """Distance to each domain; ``images`` are the same scan as each domain normalizes it."""
    return [
        statistics.distance(feature_vector(network.eval(), image, tile))
        for image, network, statistics in zip(images, networks, known, strict=True)
    ]


def nearest_notice(names: list[str], distances: list[float]) -> Notice:
    """What a person is told when a domain was chosen for them."""
    order = np.argsort(distances)
    others = ", ".join(f"{names[k]} {distances[k]:.1f}" for k in order[1:])
    text = (f"The scan's domain is not known; it is treated as {names[order[0]]}, whose features it resembles most "
            f"(distance {distances[order[0]]:.1f}; {others}). Check the result.")  # fmt: skip
    return Notice("domain_guessed", text)
