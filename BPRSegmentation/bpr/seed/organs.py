"""How networks of organs learn from cases: 3-D patches of the 4 mm grid."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bpr.models import Bundle
from bpr.seed.augment import random_scanner
from bpr.seed.case import SeedCase
from bpr.seed.cases import TeachingCase, labeled_part, teaching_case
from bpr.seed.measure import OrganDice, dice_of, labels_of, probabilities
from bpr.seed.remembered import phantom_case
from bpr.segmentation.interface import Interface
from bpr.segmentation.labels import structure_by_value
from bpr.segmentation.windows import Predictor
from bpr.training.cases import OUTSIDE, LabeledCase
from bpr.training.patches import PatchSampler
from bpr.training.segmentation import marginal_loss

LEAST_PLANES = 8  # marked planes of a case from which some can be held out


class Organs:
    """The kind of network that segments organs; see bpr.seed.kinds for what its members mean."""

    silent = OUTSIDE
    memory_format = torch.channels_last_3d
    encoder = re.compile(r"(input_block|downsamples|bottleneck)\.")  # MONAI's names in a DynUNet
    measured_on = "on the 4 mm grid, in the marked slices only"

    def __init__(self, bundle: Bundle):
        self.bundle, self._network = bundle, Interface.of(bundle)

    def teach(self, case: SeedCase, cache: Path, organs: tuple[str, ...]) -> TeachingCase:
        """See bpr.seed.cases.teaching_case."""
        return teaching_case(case, self.bundle, cache, organs)

    def memory_case(self, seed: int, cache: Path) -> TeachingCase | None:
        """A phantom."""
        return phantom_case(self.bundle, seed, cache)

    def hold_out(self, case: TeachingCase, share: float) -> tuple[TeachingCase, TeachingCase | None]:
        """A block of the marked planes is held out."""
        planes = np.flatnonzero(sum((part.labels != OUTSIDE).any((1, 2)) for part in case.parts))
        count = round(len(planes) * share)
        if len(planes) < LEAST_PLANES:
            return case, None
        start = (len(planes) - count) // 2
        chosen = np.zeros(len(case.hu), bool)
        chosen[planes[start : start + count]] = True
        return _only(case, ~chosen), _only(case, chosen)

    def sampler(self, cases: list[TeachingCase]) -> PatchSampler:
        """Patches about organs; also parts that only say what is absent are drawn."""
        parts, network = [part for case in cases for part in case.parts], self._network
        classes = network.classes
        sampler = PatchSampler(parts, classes, network.tile, intensity=random_scanner, inputs=network.inputs)
        # A part with one organ is drawn more often than a tenth of what one with all is.
        weight = np.array([1 + sum(value in part.voxels for value in classes) for part in parts], float) ** 0.5
        sampler.weight = weight / weight.sum()
        return sampler

    def loss(self, logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, rarity: float) -> torch.Tensor:
        """See bpr.training.segmentation.marginal_loss."""
        return marginal_loss(logits, target, known, rarity)

    def measure(self, case: TeachingCase, predict: Predictor) -> list[OrganDice]:
        """Dice of every known organ."""
        return dice_of(case, self._guess(case, predict), self._network.classes)

    def worst(self, case: TeachingCase, predict: Predictor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The axial plane with the most wrong voxels."""
        guess = self._guess(case, predict)
        truth = np.full(case.hu.shape, OUTSIDE, np.uint8)
        for part in case.parts:
            truth = np.where(part.labels != OUTSIDE, part.labels, truth)
        index = int(((truth != guess) & (truth != OUTSIDE)).sum((1, 2)).argmax())
        return case.hu[index], truth[index], guess[index]

    def example(self) -> torch.Tensor:
        """One tile of zeros."""
        return torch.zeros(1, len(self.bundle.inputs), *self._network.tile)

    def _guess(self, case: TeachingCase, predict: Predictor) -> np.ndarray:
        return labels_of(probabilities(case, predict, self._network), self._network.classes)


def _only(case: TeachingCase, planes: np.ndarray) -> TeachingCase:
    """The case with what is known in these planes only."""
    parts = []
    for part in case.parts:
        labels = np.where(planes[:, None, None], part.labels, OUTSIDE).astype(np.uint8)
        if (labels != OUTSIDE).any():
            parts.append(_relabeled(part, labels))
    return replace(case, parts=tuple(parts))


def _relabeled(part: LabeledCase, labels: np.ndarray) -> LabeledCase:
    known = [structure_by_value(int(value)).id for value in np.flatnonzero(part.known) if value]
    return labeled_part(part.id, part.hu, labels, known)
