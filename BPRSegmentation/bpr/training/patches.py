"""Patches for the training of segmentation networks: drawn by structure, bent in one interpolation, recolored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from bpr.segmentation.grid import GRID_MM, WINDOWS, body_center, network_channels
from bpr.segmentation.labels import label_table, structure_by_id
from bpr.training.cases import OUTSIDE, LabeledCase

STRUCTURE_SHARE = 0.75  # of the patches lie about a voxel of a structure; the others anywhere
AWAY_MM = 48.0  # how far along each axis the patch's middle may lie from that voxel
CENTER_SD_MM = 15.0  # the body's middle moves by this much: arms, table and field of view shift it


class PatchSampler:
    """Draws one augmented patch: first a structure, each as often, then a case that shows it, then one of its voxels.

    A structure that few cases label is met as often as one that all label; the voxels of the others are unknown there
    and teach nothing (see ``bpr.training.segmentation.marginal_loss``).
    """

    def __init__(
        self,
        cases: list[LabeledCase],
        classes: list[int],
        patch: tuple[int, int, int],
        mirror: float = 0.3,
        intensity: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        inputs: tuple[str, ...] | list[str] = WINDOWS,
    ):
        self.cases, self.patch, self.mirror, self.inputs = cases, patch, mirror, inputs
        self.intensity = intensity or random_intensity
        self.lookup = np.zeros(256, np.uint8)  # label-table value -> output channel
        self.lookup[classes] = np.arange(1, len(classes) + 1)
        self.lookup[OUTSIDE] = OUTSIDE
        self.partner = _partners(classes)
        self.classes = classes
        self.centers = [body_center(case.hu) for case in cases]
        weight = np.array([case.hu.size for case in cases], float)
        self.weight = weight / weight.sum()  # of the cases when a patch may lie anywhere
        holders = [[k for k, case in enumerate(cases) if value in case.voxels] for value in classes]
        self._holders = {value: cases_of for value, cases_of in zip(classes, holders, strict=True) if cases_of}

    def draw(self, rng: np.random.Generator):
        """Input (1, channels, z, y, x), target (z, y, x) of channel numbers or OUTSIDE, known (structures + 1,)."""
        number, middle = self._place(rng)
        case = self.cases[number]
        hu, labels, center = self._warped(case, middle, self.centers[number], rng)
        known = np.r_[True, case.known[self.classes]]
        target = self.lookup[labels]
        if rng.random() < self.mirror:
            hu, target, known = hu[..., ::-1], self.partner[target][..., ::-1], known[self.partner[: len(known)]]
            center = np.array([center[0], hu.shape[2] - 1 - center[1]])
        image = network_channels(self.intensity(hu, rng), self.inputs, center)
        return torch.from_numpy(image)[None], torch.from_numpy(target.copy()), torch.from_numpy(known)

    def _place(self, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Case number and the (z, y, x) voxel in the patch's middle."""
        if self._holders and rng.random() < STRUCTURE_SHARE:
            value = list(self._holders)[rng.integers(len(self._holders))]
            number = self._holders[value][rng.integers(len(self._holders[value]))]
            case = self.cases[number]
            away = round(AWAY_MM / case.step_mm)
            voxel = np.unravel_index(rng.choice(case.voxels[value]), case.hu.shape)
            return number, np.array(voxel) + rng.integers(-away, away + 1, 3)
        number = rng.choice(len(self.cases), p=self.weight)
        return number, np.array([rng.integers(n) for n in self.cases[number].hu.shape])

    def _warped(self, case: LabeledCase, middle: np.ndarray, body: np.ndarray, rng: np.random.Generator):
        """Scale, rotate and bend in one interpolation from the case's own voxels.

        Returns HU and labels of the patch, and the (y, x) index of the body's middle on the patch's grid.
        """
        scale = rng.uniform(0.85, 1.18, 3) * GRID_MM / case.step_mm  # voxels of the case in a voxel of the patch
        size = np.round(np.array(self.patch) * scale).astype(int)
        shape = np.array(case.hu.shape)
        room = np.maximum(shape - size, 0)
        start = np.clip(middle - size // 2, 0, room) - np.maximum(size - shape, 0) // 2
        low, high = np.maximum(start, 0), np.minimum(start + size, shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        pad = [(a, b) for a, b in zip(low - start, start + size - high, strict=True)]
        hu = np.pad(case.hu[box], pad, constant_values=-1024).astype(np.float32)
        labels = np.pad(case.labels[box], pad, constant_values=OUTSIDE)
        grid = _deformation(self.patch, rng)
        image = F.grid_sample(torch.from_numpy(hu)[None, None] + 1024, grid, align_corners=False) - 1024
        target = F.grid_sample(torch.from_numpy(labels)[None, None].float(), grid, "nearest", "border", False)
        center = (body - start[1:] + 0.5) / scale[1:] - 0.5 + rng.normal(0, CENTER_SD_MM / GRID_MM, 2)
        return image[0, 0].numpy(), target[0, 0].numpy().astype(np.uint8), center


def _deformation(patch: tuple[int, int, int], rng: np.random.Generator) -> torch.Tensor:
    """(1, z, y, x, 3) sampling grid in -1..1: small turns about two axes and a smooth bend."""
    turn_z, turn_x = rng.normal(0, 0.1, 2)
    about_z = np.array([[np.cos(turn_z), -np.sin(turn_z), 0], [np.sin(turn_z), np.cos(turn_z), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(turn_x), -np.sin(turn_x)], [0, np.sin(turn_x), np.cos(turn_x)]])
    pose = torch.zeros(1, 3, 4)
    pose[0, :, :3] = torch.from_numpy(about_z @ about_x)
    bend = torch.from_numpy(rng.normal(0, 0.035, (1, 3, 4, 5, 5))).float()
    grid = F.affine_grid(pose, [1, 1, *patch], align_corners=False)
    return grid + F.interpolate(bend, size=patch, mode="trilinear").permute(0, 2, 3, 4, 1)


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
    """HU shift and scale, contrast agent in soft tissue, thick slices, noise."""
    hu = hu * rng.uniform(0.92, 1.08) + rng.normal(0, 12)
    soft = (hu > 20) & (hu < 400)
    hu = np.where(soft, 20 + (hu - 20) * rng.uniform(0.5, 1.8), hu).astype(np.float32)
    if rng.random() < 0.2:
        thick = hu.copy()
        thick[1:-1] = (hu[:-2] + hu[1:-1] + hu[2:]) / 3
        hu = thick
    return hu + rng.standard_normal(hu.shape, np.float32) * np.float32(rng.uniform(0, 30))
