"""Training of segmentation networks from partially labeled cases: cached grids, one warp per patch, marginal loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import nn

from bpr.segmentation.grid import GRID_MM, network_channels
from bpr.segmentation.labels import label_table, structure_by_id
from bpr.training.dataset import Case, first_slice_height
from bpr.training.ruler import Observation, Ruler, dense_target
from bpr.volume import canonical

OUTSIDE = 255  # label of voxels that no one has looked at: padding and slices beyond the label map


@dataclass(frozen=True)
class LabeledCase:
    """One case on the networks' grid.

    Attributes:
        hu, labels: (z, y, x) int16 and uint8, cropped to the body; labels hold label-table values or OUTSIDE.
        known: (structures + 1,) bool by label value: labeled or certainly absent in this case.
        place: (z,) ruler position of each slice in mm, NaN when the case has no landmarks.
        voxels: label value to flat indices of (some of) its voxels.
    """

    id: str
    hu: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    place: np.ndarray
    voxels: dict[int, np.ndarray]


def load_cases(cases: list[Case], observations: list[Observation], ruler: Ruler, cache: Path) -> list[LabeledCase]:
    """All cases that have labels, on the grid of 4 mm; the resampled arrays are cached."""
    cache.mkdir(parents=True, exist_ok=True)
    loaded = []
    for case in cases:
        if case.labels is None:
            continue
        file = cache / f"{case.id}_{GRID_MM:g}mm.npz"
        if not file.exists():
            np.savez_compressed(file, **_on_grid(case))
        stored = np.load(file)
        target = dense_target([o for o in observations if o.scan == case.id], stored["z"], ruler)
        place = np.full(len(stored["z"]), np.nan) if target is None else target[0]
        loaded.append(_labeled_case(case, stored["hu"], stored["labels"], place))
    return loaded


def _on_grid(case: Case) -> dict[str, np.ndarray]:
    """CT and labels of one case on a common canonical grid, cropped to what is denser than air."""
    grid = canonical(sitk.ReadImage(str(case.path)), (GRID_MM,) * 3, -1024)
    label_image = sitk.ReadImage(str(case.labels))
    labels = sitk.Resample(label_image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, OUTSIDE, sitk.sitkUInt8)
    hu = np.clip(sitk.GetArrayFromImage(grid), -1024, 3000).astype(np.int16)
    labels = sitk.GetArrayFromImage(labels)
    inside = np.argwhere(hu > -300)
    box = tuple(slice(low, high + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True))
    z = grid.GetOrigin()[2] + GRID_MM * np.arange(len(hu)) - first_slice_height(case.path)
    return {"hu": hu[box], "labels": labels[box], "z": z[box[0]]}


def _labeled_case(case: Case, hu: np.ndarray, labels: np.ndarray, place: np.ndarray) -> LabeledCase:
    known = np.zeros(len(label_table()) + 1, bool)
    known[0] = True
    absent = [text.split(" ")[0] for text in case.hint["absent"]]
    ids = {structure.id for structure in label_table()}
    for name in [*case.hint["labelled"], *(name for name in absent if name in ids)]:
        known[structure_by_id(name).value] = True
    voxels = {int(v): np.flatnonzero(labels == v)[::3] for v in np.unique(labels) if v not in (0, OUTSIDE)}
    return LabeledCase(case.id, hu, labels, known, place, voxels)


def crop_to_interval(case: LabeledCase, low_mm: float, high_mm: float) -> LabeledCase | None:
    """The part of a case between two ruler positions; None when less than 40 mm of it lies there."""
    slices = np.flatnonzero((case.place >= low_mm) & (case.place <= high_mm))
    if len(slices) * GRID_MM < 40:
        return None
    keep = slice(slices[0], slices[-1] + 1)
    labels = case.labels[keep]
    voxels = {v: np.flatnonzero(labels == v)[::3] for v in case.voxels}
    voxels = {v: index for v, index in voxels.items() if len(index)}
    return LabeledCase(case.id, case.hu[keep], labels, case.known, case.place[keep], voxels)


class PatchSampler:
    """Draws one augmented patch: a labeled structure's voxel is its center two times of three, rare ones as often."""

    def __init__(
        self,
        cases: list[LabeledCase],
        classes: list[int],
        patch: tuple[int, int, int],
        mirror: float = 0.3,
        intensity: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    ):
        self.cases, self.patch, self.mirror = cases, patch, mirror
        self.intensity = intensity or random_intensity
        self.lookup = np.zeros(256, np.uint8)  # label-table value -> output channel
        self.lookup[classes] = np.arange(1, len(classes) + 1)
        self.lookup[OUTSIDE] = OUTSIDE
        self.partner = _partners(classes)
        self.classes = classes
        weight = np.array([sum(value in case.voxels for value in classes) for case in cases], float)
        self.weight = weight / weight.sum()

    def draw(self, rng: np.random.Generator):
        """Input (1, 2, z, y, x), target (z, y, x) of channel numbers or OUTSIDE, known (channels,) bool."""
        case = self.cases[rng.choice(len(self.cases), p=self.weight)]
        center = self._center(case, rng)
        hu, labels = self._warped(case, center, rng)
        known = np.r_[True, case.known[self.classes]]
        target = self.lookup[labels]
        if rng.random() < self.mirror:
            hu, target, known = hu[..., ::-1], self.partner[target][..., ::-1], known[self.partner[: len(known)]]
        image = network_channels(self.intensity(hu, rng))
        return torch.from_numpy(image)[None], torch.from_numpy(target.copy()), torch.from_numpy(known)

    def _center(self, case: LabeledCase, rng: np.random.Generator) -> np.ndarray:
        present = [value for value in self.classes if value in case.voxels]
        if present and rng.random() < 0.67:
            index = case.voxels[present[rng.integers(len(present))]]
            return np.array(np.unravel_index(rng.choice(index), case.hu.shape)) + rng.integers(-12, 13, 3)
        return np.array([rng.integers(n) for n in case.hu.shape])

    def _warped(self, case: LabeledCase, center: np.ndarray, rng: np.random.Generator):
        """Cut a region around the center, scale, rotate and bend it in one interpolation."""
        scale = rng.uniform(0.85, 1.18, 3)
        size = np.round(np.array(self.patch) * scale).astype(int)
        shape = np.array(case.hu.shape)
        room = np.maximum(shape - size, 0)
        start = np.clip(center - size // 2, 0, room) - np.maximum(size - shape, 0) // 2
        low, high = np.maximum(start, 0), np.minimum(start + size, shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        pad = [(a, b) for a, b in zip(low - start, start + size - high, strict=True)]
        hu = np.pad(case.hu[box], pad, constant_values=-1024).astype(np.float32)
        labels = np.pad(case.labels[box], pad, constant_values=OUTSIDE)
        turn_z, turn_x = rng.normal(0, 0.09, 2)
        about_z = np.array([[np.cos(turn_z), -np.sin(turn_z), 0], [np.sin(turn_z), np.cos(turn_z), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(turn_x), -np.sin(turn_x)], [0, np.sin(turn_x), np.cos(turn_x)]])
        pose = torch.zeros(1, 3, 4)
        pose[0, :, :3] = torch.from_numpy(about_z @ about_x)
        bend = torch.from_numpy(rng.normal(0, 0.03, (1, 3, 4, 5, 5))).float()
        grid = F.affine_grid(pose, [1, 1, *self.patch], align_corners=False)
        grid = grid + F.interpolate(bend, size=self.patch, mode="trilinear").permute(0, 2, 3, 4, 1)
        image = F.grid_sample(torch.from_numpy(hu)[None, None] + 1024, grid, align_corners=False) - 1024
        target = F.grid_sample(torch.from_numpy(labels)[None, None].float(), grid, "nearest", "border", False)
        return image[0, 0].numpy(), target[0, 0].numpy().astype(np.uint8)


def _partners(classes: list[int]) -> np.ndarray:
    """Channel of the mirrored structure for every channel; identity where there is none."""
    partner = np.arange(256, dtype=np.uint8)
    by_value = {structure.value: structure for structure in label_table()}
    for channel, value in enumerate(classes, 1):
        other = by_value[value].partner
        if other and structure_by_id(other).value in classes:
            partner[channel] = classes.index(structure_by_id(other).value) + 1
    return partner


def random_intensity(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """HU shift and scale, contrast agent in soft tissue, noise."""
    hu = hu * rng.uniform(0.92, 1.08) + rng.normal(0, 12)
    soft = (hu > 20) & (hu < 400)
    hu = np.where(soft, 20 + (hu - 20) * rng.uniform(0.5, 1.8), hu)
    return (hu + rng.normal(0, rng.uniform(0, 30), hu.shape)).astype(np.float32)


def marginal_loss(logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, rarity: float = 0.0) -> torch.Tensor:
    """Cross entropy plus Dice where structures that nobody labeled count as part of the background.

    An unlabeled organ may hide in the background: its probability is added to the background's, so predicting it there
    costs nothing (marginal loss, Shi et al., Medical Image Analysis 2021).

    Args:
        logits: (1, channels, z, y, x). target: (z, y, x) channel numbers or 255. known: (channels,) bool.
        rarity: power of a structure's inverse frequency in the patch that weighs its voxels in the cross entropy;
            0 weighs all voxels alike, and small structures then may stay unlearned for hours.
    """
    seen = (target != OUTSIDE).flatten()
    target = torch.where(seen, target.flatten(), 0).long()
    log_p = F.log_softmax(logits.float(), 1)[0].flatten(1)
    if not known.all():
        background = torch.logsumexp(torch.cat([log_p[:1], log_p[~known]]), 0, keepdim=True)
        log_p = torch.cat([background, log_p[known][1:]])  # channels: known ones only
        target = (torch.cumsum(known.long(), 0) - 1)[target]
    log_true = log_p.gather(0, target[None])[0]
    weight = seen.float()
    frequency = torch.bincount(target, weight, len(log_p)).float().clamp(min=100)
    emphasis = weight * (frequency.sum() / frequency)[target] ** rarity
    entropy = -(log_true @ emphasis) / emphasis.sum().clamp(min=1)
    # Sums per structure without a one-hot volume, which would cost more than the network's deeper half.
    zeros = torch.zeros(len(log_p), device=log_p.device)
    overlap = zeros.index_add(0, target, log_true.exp() * weight)
    truth = zeros.index_add(0, target, weight)
    dice = 1 - (2 * overlap + 1) / (log_p.exp() @ weight + truth + 1)
    present = truth > 0
    present[0] = False
    return entropy + (dice[present].mean() if present.any() else 0.0)


def segmentation_loss(sampler: PatchSampler, batch: int, rarity: float):
    """The function that bpr.training.loop.Trainer calls at each step.

    Patches come at least in pairs: torch's CPU build sends 3-D convolutions of a single small patch down a slow path.
    """

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        patches = [sampler.draw(rng) for _ in range(batch)]
        images = torch.cat([image for image, _, _ in patches]).contiguous(memory_format=torch.channels_last_3d)
        logits = network(images)
        losses = [marginal_loss(logits[i : i + 1], *patches[i][1:], rarity) for i in range(batch)]
        return torch.stack(losses).mean()

    return loss_of
