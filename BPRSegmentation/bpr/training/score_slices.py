"""What the score network is taught: slices of annotated scans with dense targets on the ruler, strongly augmented."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

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
CLEARLY_MM = 40.0  # beyond three spreads and this, a slice is above or below a landmark that nobody annotated


@dataclass(frozen=True)
class TrainingScan:
    """Cached slices of one scan.

    Attributes:
        hu: (n, 160, 160) int16.
        target, doubt: (n,) ruler position of each slice and its standard deviation, mm.
        above: (n, votes) probability that the slice lies above each landmark, NaN where nobody knows.
        z_mm: (n,) heights in mm from the file's first slice.
    """

    hu: torch.Tensor
    target: np.ndarray
    doubt: np.ndarray
    above: np.ndarray
    z_mm: np.ndarray


@dataclass(frozen=True)
class SliceBatch:
    """Slices in groups of one scan each; arrays as in TrainingScan, ``hu`` (n, 3, 160, 160) with neighbors."""

    hu: torch.Tensor
    target: torch.Tensor
    doubt: torch.Tensor
    above: torch.Tensor
    z_mm: torch.Tensor


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
        above = above_landmarks(own, stored["z"], mean, ruler)
        scans[case.id] = TrainingScan(torch.from_numpy(stored["hu"]), mean, sd, above, stored["z"])
    return scans


def above_landmarks(own: list[Observation], z_mm: np.ndarray, place: np.ndarray, ruler: Ruler) -> np.ndarray:
    """(n, landmarks) probability that each slice lies above each landmark of the ruler, in the ruler's sorted order.

    An annotated landmark gives a soft step as wide as its uncertainty. One that is not annotated may be hidden, so only
    slices that the ruler puts far from it are told.
    """
    above = np.full((len(z_mm), len(ruler.position)), np.nan)
    annotated = {o.landmark: o for o in own}
    for k, name in enumerate(sorted(ruler.position)):
        if name in annotated:
            width = max(annotated[name].uncertainty_mm / 2, 2.0)
            above[:, k] = 1 / (1 + np.exp(-np.clip((z_mm - annotated[name].z_mm) / width, -30, 30)))
            continue
        distance, reach = place - ruler.position[name], 3 * ruler.spread[name] + CLEARLY_MM
        above[distance > reach, k] = 1.0
        above[distance < -reach, k] = 0.0
    return above


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

    def draw(self, rng: np.random.Generator) -> SliceBatch:
        """``groups`` scans with ``per_group`` slices each."""
        groups = []
        for _ in range(self.groups):
            scan, anchor = self._scan(rng)
            others = rng.integers(0, len(scan.target), self.per_group - 1)
            groups.append((scan, np.r_[anchor, others]))
        return _batch(groups, rng)

    def draw_equidistant(self, rng: np.random.Generator) -> SliceBatch:
        """As ``draw``, but each group's slices climb in equal steps of at least 4 mm."""
        groups = []
        for _ in range(self.groups):
            scan, anchor = self._scan(rng)
            n = len(scan.target)
            step = int(rng.integers(1, max((n - 1) // (self.per_group - 1), 1) + 1))
            first = np.clip(
                anchor - step * int(rng.integers(self.per_group)), 0, max(n - 1 - step * (self.per_group - 1), 0)
            )
            groups.append((scan, np.minimum(first + step * np.arange(self.per_group), n - 1)))
        return _batch(groups, rng)

    def _scan(self, rng: np.random.Generator) -> tuple[TrainingScan, int]:
        """A scan and the index of one of its slices."""
        index, weight = self.sources[int(rng.random() < self.share and bool(self.sources[1][0]))]
        name, anchor = index[rng.choice(len(index), p=weight)]
        return self.scans[name], anchor


def _batch(groups: list[tuple[TrainingScan, np.ndarray]], rng: np.random.Generator) -> SliceBatch:
    """Stack the chosen slices of each scan with their neighbors 4, 8 or 12 mm below and above."""
    hu, facts = [], []
    for scan, chosen in groups:
        gap, last = int(rng.integers(1, 4)), len(scan.target) - 1
        neighbors = [torch.from_numpy(np.clip(chosen + shift, 0, last)) for shift in (-gap, 0, gap)]
        hu.append(torch.stack([scan.hu[i] for i in neighbors], 1))
        facts.append((scan.target[chosen], scan.doubt[chosen], scan.above[chosen], scan.z_mm[chosen]))
    columns = zip(*facts, strict=True)
    return SliceBatch(torch.cat(hu).float(), *(torch.from_numpy(np.concatenate(column)).float() for column in columns))


def augmented_input(hu: torch.Tensor, rng: np.random.Generator, pixels: int = INPUT_PIXELS) -> torch.Tensor:
    """(n, 3, 160, 160) HU to (n, 3, pixels, pixels) under random pose, field of view, contrast, kernel, noise, slab."""
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
    grid = F.affine_grid(pose, [n, 3, pixels, pixels], align_corners=False)
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
