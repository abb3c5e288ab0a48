"""Training of the score network from few annotated scans: dense targets on the common ruler, strong augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import nn

from bpr.scoring.slices import (
    AIR_HU,
    FIELD_PIXELS,
    INPUT_FIELD_MM,
    INPUT_PIXELS,
    PIXEL_MM,
    slice_stack,
    to_network_range,
)
from bpr.training.dataset import Case, first_slice_height
from bpr.training.ruler import Observation, Ruler, dense_target

CACHE_STEP_MM = 4.0
BIN_MM, BINS, FIRST_BIN_MM = 20.0, 50, -10.0  # bin centers -10, 10, ..., 970 mm on the ruler
BIN_CENTERS = FIRST_BIN_MM + BIN_MM * np.arange(BINS)
LABEL_SD_MM = 12.0


@dataclass(frozen=True)
class TrainingScan:
    """Cached slices of one scan with target and target doubt per slice, in ruler mm."""

    hu: torch.Tensor
    target: np.ndarray
    doubt: np.ndarray


def load_scans(
    cases: list[Case], observations: list[Observation], ruler: Ruler, cache: Path
) -> dict[str, TrainingScan]:
    """Slices and dense targets of all cases that carry a landmark; slices are cached as compressed arrays."""
    scans = {}
    cache.mkdir(parents=True, exist_ok=True)
    for case in cases:
        own = [o for o in observations if o.scan == case.id]
        if not own:
            continue
        file = cache / f"{case.id}.npz"
        if not file.exists():
            stack = slice_stack(sitk.ReadImage(str(case.path)), CACHE_STEP_MM)
            np.savez_compressed(file, hu=stack.hu, z=stack.z_mm - first_slice_height(case.path))
        stored = np.load(file)
        mean, sd = dense_target(own, stored["z"], ruler)
        scans[case.id] = TrainingScan(torch.from_numpy(stored["hu"]), mean, sd)
    return scans


class SliceSampler:
    """Draws groups of slices of one scan; anchors are spread evenly over the ruler, head-and-neck scans are bounded."""

    def __init__(self, scans: dict[str, TrainingScan], groups: int, per_group: int, head_and_neck: float):
        self.scans, self.groups, self.per_group = scans, groups, per_group
        self.share = head_and_neck
        self.sources = [self._anchors(False), self._anchors(True)]

    def _anchors(self, head_and_neck: bool):
        names = [name for name in self.scans if name.startswith("hn_") == head_and_neck]
        index = [(name, i) for name in names for i in range(len(self.scans[name].target))]
        if not index:
            return index, None
        place = np.concatenate([self.scans[name].target for name in names])
        bins = np.clip((place // 25).astype(int) + 8, 0, 60)
        density = np.convolve(np.bincount(bins, minlength=61), [0.25, 0.5, 0.25], "same")
        weight = 1 / np.sqrt(density[bins] + 20)
        return index, weight / weight.sum()

    def draw(self, rng: np.random.Generator):
        """Stacked HU (groups * per_group, 3, 160, 160), targets and doubts in ruler mm."""
        hu, target, doubt = [], [], []
        for _ in range(self.groups):
            index, weight = self.sources[int(rng.random() < self.share and bool(self.sources[1][0]))]
            name, anchor = index[rng.choice(len(index), p=weight)]
            scan = self.scans[name]
            n = len(scan.target)
            chosen = np.r_[anchor, rng.integers(0, n, self.per_group - 1)]
            gap = int(rng.integers(1, 4))  # 4, 8 or 12 mm
            neighbors = [torch.from_numpy(np.clip(chosen + shift, 0, n - 1)) for shift in (-gap, 0, gap)]
            hu.append(torch.stack([scan.hu[i] for i in neighbors], 1))
            target.append(scan.target[chosen])
            doubt.append(scan.doubt[chosen])
        as_tensor = [torch.from_numpy(np.concatenate(values)).float() for values in (target, doubt)]
        return torch.cat(hu).float(), *as_tensor


def augmented_input(hu: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """(n, 3, 160, 160) HU to network input under random pose, field of view, contrast, kernel, noise, slab."""
    n = len(hu)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*(shape or (n,)), generator=generator) * (high - low) + low

    hu = _random_intensity(_random_field_of_view(hu, uniform), uniform)
    angle = uniform(-0.17, 0.17) * (uniform(0, 1) < 0.7)
    aspect, zoom = uniform(0.92, 1.08), INPUT_FIELD_MM / (FIELD_PIXELS * PIXEL_MM) / uniform(0.78, 1.25)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    pose = torch.zeros(n, 2, 3)
    pose[:, 0, 0], pose[:, 0, 1] = torch.cos(angle) * zoom * aspect * flip, -torch.sin(angle) * zoom * flip
    pose[:, 1, 0], pose[:, 1, 1] = torch.sin(angle) * zoom, torch.cos(angle) * zoom / aspect
    pose[:, :, 2] = uniform(-0.1, 0.1, n, 2)
    grid = F.affine_grid(pose, [n, 3, INPUT_PIXELS, INPUT_PIXELS], align_corners=False)
    image = F.grid_sample(hu - AIR_HU, grid, align_corners=False) + AIR_HU
    soft = uniform(0, 1) < 0.25
    if soft.any():
        image[soft] = F.avg_pool2d(image[soft], 3, 1, 1, count_include_pad=False)
    thick = uniform(0, 1) < 0.15
    if thick.any():
        image[thick] = image[thick].mean(1, keepdim=True).expand(-1, 3, -1, -1)
    noise = (uniform(0, 1) < 0.4) * uniform(0, 50)
    noise_image = torch.randn(image.shape, generator=generator) * noise[:, None, None, None]
    image = to_network_range(image + noise_image * (image > -950))
    return image * uniform(0.85, 1.15, n, 1, 1, 1) + uniform(-0.1, 0.1, n, 1, 1, 1)


def _random_field_of_view(hu: torch.Tensor, uniform) -> torch.Tensor:
    """Cut a rectangle, a circle, or the arms off some slices; outside is air."""
    n, side = len(hu), torch.linspace(-1, 1, hu.shape[-1])
    x, y = side[None, None, :], side[None, :, None]
    center_x, center_y = uniform(-0.2, 0.2, n, 1, 1), uniform(-0.15, 0.15, n, 1, 1)
    half_x, half_y, radius = (uniform(low, high, n, 1, 1) for low, high in ((0.3, 0.9), (0.3, 0.9), (0.4, 1.0)))
    kind = uniform(0, 1, n, 1, 1)
    rectangle = ((x - center_x).abs() < half_x) & ((y - center_y).abs() < half_y)
    circle = (x - center_x) ** 2 + (y - center_y) ** 2 < radius**2
    armless = ((x - center_x / 2).abs() < half_x.clamp(min=0.45)).expand_as(circle)
    inside = torch.where(kind < 0.15, rectangle, torch.where(kind < 0.27, circle, armless | (kind > 0.45)))
    return torch.where(inside[:, None], hu, torch.tensor(float(AIR_HU)))


def _random_intensity(hu: torch.Tensor, uniform) -> torch.Tensor:
    """Shift and scale HU, lift what is denser than 30 HU as contrast agent does."""
    n = len(hu)
    body = hu > -900
    hu = torch.where(body, hu * uniform(0.85, 1.15, n, 1, 1, 1) + uniform(-40, 40, n, 1, 1, 1), hu)
    lift = (uniform(0, 1, n, 1, 1, 1) < 0.3) * uniform(-0.3, 0.8, n, 1, 1, 1)
    return hu + (hu - 30).clamp(0, 250) * lift


def ruler_loss(logits: torch.Tensor, target: torch.Tensor, doubt: torch.Tensor, per_group: int) -> torch.Tensor:
    """Cross entropy against a Gaussian soft label plus a smooth L1 term on distances between slices of one scan.

    logits (n, bins); target, doubt (n,) in ruler mm. Uncertain targets get a wider label and a smaller weight.
    """
    centers = torch.from_numpy(BIN_CENTERS).float()
    width = torch.sqrt(LABEL_SD_MM**2 + doubt**2)[:, None]
    label = torch.softmax(-0.5 * ((centers - target[:, None].clamp(centers[0], centers[-1])) / width) ** 2, 1)
    entropy = -(label * F.log_softmax(logits, 1)).sum(1)
    expected = (F.softmax(logits, 1) * centers).sum(1).view(-1, per_group)
    target = target.view(-1, per_group)
    error = (expected[:, 1:] - expected[:, :1]) - (target[:, 1:] - target[:, :1])
    return (entropy * 20 / (20 + doubt)).mean() + 0.5 * F.smooth_l1_loss(error / 40, torch.zeros_like(error))


def score_loss(sampler: SliceSampler):
    """The function that bpr.training.loop.Trainer calls at each step."""

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        hu, target, doubt = sampler.draw(rng)
        return ruler_loss(network(augmented_input(hu, rng)), target, doubt, sampler.per_group)

    return loss_of
