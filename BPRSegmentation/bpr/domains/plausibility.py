"""How plausible a finished label map is: what a critic says of its measures. Plain numpy, wherever the map came from.

A critic learned what label maps of people look like, and what it looks like when structures are missing, swapped,
shifted or leaked (``bpr.domains.critic``). The measures make it work with a dozen people: a network on the voxels
needs far more to see that a liver is too large or lies on the wrong side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpr.domains.measures import measured

FAR = 4.0  # deviations at which a number is cut: beyond, all are as strange
SLOPE = 0.1  # of the layers' LeakyReLU


@dataclass(frozen=True)
class Plausibility:
    """0 (surely altered) to 1 of a label map, and of every channel that was looked for, there or missing."""

    score: float
    by_channel: dict[int, float]


@dataclass(frozen=True)
class Critic:
    """What judges the maps of one domain.

    Attributes:
        grid_mm: edge of the maps' voxels. mean, spread: of each of ``measured``'s numbers over real maps.
        layers: (weights, bias) from ``standardized`` numbers to logits of "altered": the map's, then each structure's.
    """

    grid_mm: float
    mean: np.ndarray
    spread: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        named = {f"{name}{k}": array for k, layer in enumerate(self.layers)
                 for name, array in zip(("weight", "bias"), layer, strict=True)}  # fmt: skip
        np.savez(path, grid_mm=self.grid_mm, mean=self.mean, spread=self.spread, **named)

    @classmethod
    def load(cls, path: Path) -> Critic:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            depth = sum(name.startswith("weight") for name in stored)
            layers = tuple((stored[f"weight{k}"], stored[f"bias{k}"]) for k in range(depth))
            return cls(float(stored["grid_mm"]), stored["mean"], stored["spread"], layers)


def standardized(numbers: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(..., n) measures to (..., 2 n): deviations from what is usual and their sizes; 0 for what is not known."""
    usual = np.nan_to_num(np.clip((numbers - mean) / spread, -FAR, FAR)).astype(np.float32)
    return np.concatenate([usual, np.abs(usual)], -1)


def plausibility(critic: Critic, labels: np.ndarray, known: np.ndarray | None = None) -> Plausibility:
    """Judge a label map.

    Args:
        labels: (z, y, x) output channels of the critic's domain on its grid, OUTSIDE where the scan holds nothing.
        known: (structures + 1,) which channels were looked for; all when None.
    """
    known = np.ones(len(critic.layers[-1][1]), bool) if known is None else known
    x = standardized(measured(labels, known, (critic.grid_mm,) * 3), critic.mean, critic.spread)
    for number, (weight, bias) in enumerate(critic.layers):
        x = weight @ (np.where(x > 0, x, SLOPE * x) if number else x) + bias
    sound = 1 / (1 + np.exp(x.astype(float)))
    return Plausibility(float(sound[0]), {c: float(sound[c]) for c in range(1, len(sound)) if known[c]})
