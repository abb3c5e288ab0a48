"""What fine-tuning must know of a kind of network; all else is the same for organs and for tissues of a slice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from bpr.body_composition.tissues import ROLE
from bpr.models import Bundle
from bpr.seed.case import SeedCase
from bpr.seed.cases import TeachingCase
from bpr.seed.measure import OrganDice
from bpr.seed.organs import Organs
from bpr.seed.tissues import SliceCase, Tissues
from bpr.segmentation.windows import Predictor

Taught = TeachingCase | SliceCase  # a case as training and evaluation see it: id, patient, domain, shown


class Sampler(Protocol):
    """Draws what a network learns from."""

    def draw(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Image (1, channels, ...), target (...), known (...)."""


class Kind(Protocol):
    """A kind of network, of one bundle.

    Attributes:
        silent: value in a target where no label speaks. encoder: matches the names of the encoder's parameters.
        memory_format: of images and convolutions. measured_on: where Dice is measured, in words.
    """

    bundle: Bundle
    silent: int
    memory_format: torch.memory_format
    encoder: re.Pattern[str]
    measured_on: str

    def teach(self, case: SeedCase, cache: Path, organs: tuple[str, ...]) -> Taught:
        """The marked labels of a case (of ``organs`` only, when there are any). Raises InputError."""

    def memory_case(self, seed: int, cache: Path) -> Taught | None:
        """A made case that must not be forgotten, or None."""

    def hold_out(self, case: Taught, share: float) -> tuple[Taught, Taught | None]:
        """The case without a share of what is marked, and that share; None when too little is marked."""

    def sampler(self, cases: list[Taught]) -> Sampler:
        """Augmented examples of the cases."""

    def loss(self, logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, rarity: float) -> torch.Tensor:
        """Of one example: logits (1, channels, ...), target (...), and what is known of it."""

    def measure(self, case: Taught, predict: Predictor) -> list[OrganDice]:
        """Dice of all that is known of a case."""

    def worst(self, case: Taught, predict: Predictor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """HU, true labels (255: unknown) and found labels of the slice with the most errors, each (y, x)."""

    def example(self) -> torch.Tensor:
        """One input of zeros, which the exported graph takes its shape from."""


def kind_of(bundle: Bundle) -> Kind:
    """The kind of a bundle that can learn."""
    return Tissues(bundle) if bundle.role == ROLE else Organs(bundle)
