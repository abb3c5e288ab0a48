"""How the body-composition network learns from cases: marked axial slices, each on the network's grid about the body.

What was drawn says in which compartment a pixel lies; which tissue it is there the HU rule says, as in a measurement.
A marked slice on which nothing is drawn teaches nothing: no slice of a trunk is without muscle and fat.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bpr.body_composition.measure import slice_tissues
from bpr.body_composition.slices import axial_slice
from bpr.body_composition.tissues import (
    BONE,
    CHANNELS,
    COMPARTMENT_OF,
    COMPARTMENTS,
    DRAWN,
    INPUT_SHAPE,
    TISSUES,
    tissue_labels,
)
from bpr.body_composition.training import ANYTHING, UNKNOWN, LabeledSlice, SliceSampler, composition_loss, labeled_slice
from bpr.errors import InputError
from bpr.models import Bundle
from bpr.seed.case import SeedCase
from bpr.seed.cases import drawn_labels, wanted_structures
from bpr.seed.files import read_image
from bpr.seed.marks import organs_by_slice
from bpr.seed.measure import LEAST_VOXELS, OrganDice
from bpr.seed.segments import read_stored, reference_geometry
from bpr.segmentation.windows import Predictor
from bpr.volume import slice_axis, slice_heights

LEAST_SLICES = 4  # of a case from which some can be held out


@dataclass(frozen=True)
class SliceCase:
    """A case as the body-composition network's training sees it: its marked slices with something drawn, from below."""

    id: str
    patient: str
    domain: str
    slices: tuple[LabeledSlice, ...]

    @property
    def shown(self) -> int:
        """How many tissues are drawn, summed over the slices."""
        return sum(len(set(np.unique(one.labels)) - {0, UNKNOWN}) for one in self.slices)


class Tissues:
    """The kind of network that segments the tissues of a slice; see bpr.seed.kinds for what its members mean."""

    silent = ANYTHING
    memory_format = torch.channels_last
    encoder = re.compile(r"model\.(1\.submodule\.)*(0|conv|residual)\.")  # MONAI's names in a UNet, down to its bottom
    measured_on = "on the marked slices' own pixels, after the HU rule"

    def __init__(self, bundle: Bundle):
        self.bundle = bundle

    def teach(self, case: SeedCase, cache: Path, organs: tuple[str, ...]) -> SliceCase:
        """The marked slices of a case. Raises InputError when its labels do not match or nothing is drawn there."""
        wanted = wanted_structures(case, self.bundle, {structure.id for structure in DRAWN}, organs)
        image = read_image(case.volume_path)
        drawing, heights = read_stored(case), slice_heights(image)
        reference = reference_geometry(case.segmentation_path) if drawing.outside_is_background else None
        groups = organs_by_slice(case.marks, image.GetSize()[slice_axis(image)], drawing.structures)
        slices = []
        for named, marked in groups.items():
            known = tuple(structure.id in named & wanted for structure in DRAWN)
            for index in np.flatnonzero(marked) if any(known) else ():
                one = axial_slice(image, int(index), float(heights[index]))
                labels = _by_rule(drawn_labels(drawing, reference, one.image)[0], one.hu, one.spacing, known)
                if np.isin(labels, range(1, BONE + 1)).any():
                    slices.append((one.z_mm, labeled_slice(case.id, case.patient, "own", one, labels, known)))
        if not slices:
            raise InputError(f"No tissue is drawn on the marked slices of {case.id}.",
                             "Mark the slices on which muscle or fat was corrected.")  # fmt: skip
        ordered = [one for _, one in sorted(slices, key=lambda pair: pair[0])]
        return SliceCase(case.id, case.patient, case.domain, tuple(ordered))

    def memory_case(self, seed: int, cache: Path) -> SliceCase | None:
        """None: the phantoms' walls have no true labels of tissues."""
        return None

    def hold_out(self, case: SliceCase, share: float) -> tuple[SliceCase, SliceCase | None]:
        """A block of neighboring slices is held out."""
        count = round(len(case.slices) * share)
        if len(case.slices) < LEAST_SLICES:
            return case, None
        start = (len(case.slices) - count) // 2
        held = case.slices[start : start + count]
        return replace(case, slices=case.slices[:start] + case.slices[start + count :]), replace(case, slices=held)

    def sampler(self, cases: list[SliceCase]) -> _Draws:
        """Augmented slices, each patient as often."""
        return _Draws(SliceSampler([one for case in cases for one in case.slices]))

    def loss(self, logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, rarity: float) -> torch.Tensor:
        """See bpr.body_composition.training.composition_loss; every tissue is frequent, so ``rarity`` has no use."""
        return composition_loss(logits, target[None], [known.tolist()])

    def measure(self, case: SliceCase, predict: Predictor) -> list[OrganDice]:
        """Dice of every tissue over the slices on which it is known."""
        guesses = [slice_tissues(one.hu, one.spacing, predict)[0] for one in case.slices]
        results = []
        for tissue in TISSUES:
            truth = found = both = 0
            known = [k for k, one in enumerate(case.slices) if one.known[tissue.value - 1]]
            for k in known:
                labels = case.slices[k].labels
                ours, theirs = (guesses[k] == tissue.value) & (labels != UNKNOWN), labels == tissue.value
                truth, found, both = truth + theirs.sum(), found + ours.sum(), both + (ours & theirs).sum()
            if known and (truth >= LEAST_VOXELS or truth == 0):
                dice = float(2 * both / (truth + found)) if truth else None
                results.append(OrganDice(case.id, case.patient, case.domain, tissue.id, dice))
        return results

    def worst(self, case: SliceCase, predict: Predictor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The slice with the most wrong pixels, of the tissues that are known on it."""
        guesses = [slice_tissues(one.hu, one.spacing, predict)[0] for one in case.slices]
        shown = [(one.hu, np.where(one.labels == BONE, 0, one.labels), np.where(_of_known(guess, one.known), guess, 0))
                 for one, guess in zip(case.slices, guesses, strict=True)]  # fmt: skip
        return max(shown, key=lambda one: int(((one[1] != one[2]) & (one[1] != UNKNOWN)).sum()))

    def example(self) -> torch.Tensor:
        """One slice of zeros."""
        return torch.zeros(1, CHANNELS, *INPUT_SHAPE)


@dataclass(frozen=True)
class _Draws:
    """The sampler's slices as tensors."""

    slices: SliceSampler

    def draw(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Image (1, channels, y, x), codes (y, x), known (tissues,)."""
        image, codes, known = self.slices.draw(rng)
        return torch.from_numpy(image)[None], torch.from_numpy(codes).long(), torch.tensor(known)


def _by_rule(drawn: np.ndarray, hu: np.ndarray, spacing: tuple[float, float], known: tuple[bool, ...]) -> np.ndarray:
    """What was drawn (y, x), as the HU rule names it, of the known tissues; UNKNOWN stays."""
    compartment = np.zeros(256, np.uint8)
    for value, name in COMPARTMENT_OF.items():
        compartment[value] = COMPARTMENTS.index(name)
    labels = tissue_labels(np.where(drawn == UNKNOWN, 0, compartment[drawn]), hu)
    labels[drawn == BONE] = BONE
    labels[~_of_known(labels, known)] = 0
    labels[drawn == UNKNOWN] = UNKNOWN
    return labels


def _of_known(labels: np.ndarray, known: tuple[bool, ...]) -> np.ndarray:
    """Where a label is one of the known tissues'."""
    return np.isin(labels, [value for value, there in enumerate(known, 1) if there])
