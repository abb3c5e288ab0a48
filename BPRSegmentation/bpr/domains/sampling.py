"""Patches of domain cases: drawn by domain, structure and voxel, bent and recolored as strongly as the settings say."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from bpr.domains.cases import DomainCase
from bpr.domains.definition import Domain
from bpr.training.cases import OUTSIDE


@dataclass(frozen=True)
class Augmentation:
    """How a patch differs from what was scanned; zeros leave it as it is.

    Attributes:
        scale, turn, bend: spread of the size (log), of the angles (radians) and of a smooth bend (patch widths).
        brightness, contrast, gamma: spread of an added value, a factor and an exponent (logs) on normalized values.
        noise: largest standard deviation. blur: largest sigma in voxels. mirror: chance of swapping left and right.
    """

    scale: float = 0.0
    turn: float = 0.0
    bend: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    mirror: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether voxels move."""
        return bool(self.scale or self.turn or self.bend)

    @classmethod
    def of(cls, setting: str | dict) -> Augmentation:
        """From a configuration: "none", "strong", or values by name."""
        if isinstance(setting, dict):
            return cls(**{f.name: float(setting.get(f.name, f.default)) for f in fields(cls)})
        return {"none": cls(), "strong": STRONG}[setting]


STRONG = Augmentation(0.12, 0.2, 0.035, 0.3, 0.2, 0.25, 0.25, 0.8, 0.5)


@dataclass(frozen=True)
class Patch:
    """What one sample of a step holds: image (1, channels, z, y, x), target (z, y, x) of channels or OUTSIDE, known."""

    domain: int
    image: torch.Tensor
    target: torch.Tensor
    known: torch.Tensor


class DomainSampler:
    """Draws patches of one domain at a time; domains of very different size are met as ``balance`` says.

    ``balance`` 1 draws every domain as often, 0 by its number of cases, between: the number to the power 1 - balance.
    ``foreground`` is the share of patches about a voxel of a structure, each structure as often; others lie anywhere.
    """

    def __init__(self, domains: list[Domain], cases: list[list[DomainCase]], patch: tuple[int, int, int],
                 augmentation: Augmentation = STRONG, foreground: float = 0.75, balance: float = 1.0):  # fmt: skip
        self.domains, self.cases, self.patch = domains, cases, patch
        self.augmentation, self.foreground = augmentation, foreground
        self.balance = balance
        self.share = np.array([len(own) for own in cases], float) ** (1 - balance)
        self.share /= self.share.sum()
        self._partner = [domain.partner for domain in domains]
        self._holders = [_holders(len(d.structures), own) for d, own in zip(domains, cases, strict=True)]

    def draw_domain(self, rng: np.random.Generator) -> int:
        """Number of the domain of a next batch."""
        return int(rng.choice(len(self.share), p=self.share))

    def draw(self, domain: int, rng: np.random.Generator) -> Patch:
        """One augmented patch of a domain."""
        case, middle = self._place(domain, rng)
        image, labels = self._cut(case, middle, rng)
        known = case.known
        if rng.random() < self.augmentation.mirror:
            swap = self._partner[domain]
            image, labels, known = image[..., ::-1], swap[labels][..., ::-1], known[swap[: len(known)]]
        image = recolored(image, self.augmentation, rng)
        target = torch.from_numpy(np.ascontiguousarray(labels))
        return Patch(domain, torch.from_numpy(np.ascontiguousarray(image))[None], target, torch.from_numpy(known))

    def _place(self, domain: int, rng: np.random.Generator) -> tuple[DomainCase, np.ndarray]:
        """A case and the (z, y, x) voxel in the patch's middle."""
        own, holders = self.cases[domain], self._holders[domain]
        if holders and rng.random() < self.foreground:
            value = list(holders)[rng.integers(len(holders))]
            case = own[holders[value][rng.integers(len(holders[value]))]]
            voxel = np.array(np.unravel_index(rng.choice(case.voxels[value]), case.labels.shape))
            away = np.array(self.patch) // 4
            return case, voxel + rng.integers(-away, away + 1)
        case = own[rng.integers(len(own))]
        return case, np.array([rng.integers(n) for n in case.labels.shape])

    def _cut(self, case: DomainCase, middle: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The patch about a voxel, scaled, turned and bent in one interpolation; empty voxels are OUTSIDE."""
        a = self.augmentation
        size = np.round(np.array(self.patch) * np.exp(rng.uniform(-a.scale, a.scale, 3))).astype(int)
        shape = np.array(case.labels.shape)
        room = shape - size
        # A case that is smaller than the patch lies anywhere in it, or its place would be learned by heart.
        inside, before = np.clip(middle - size // 2, 0, np.maximum(room, 0)), rng.integers(0, np.maximum(-room, 0) + 1)
        start = np.where(room >= 0, inside, -before)
        low, high = np.maximum(start, 0), np.minimum(start + size, shape)
        box = tuple(slice(*ends) for ends in zip(low, high, strict=True))
        pad = list(zip(low - start, start + size - high, strict=True))
        image = np.stack([np.pad(channel[box], pad, constant_values=channel.min()) for channel in case.image])
        labels = np.pad(case.labels[box], pad, constant_values=OUTSIDE)
        if not a.moves:
            return image, labels
        grid = _deformation(self.patch, a, rng)
        floor = image.min((1, 2, 3), keepdims=True)
        bent = F.grid_sample(torch.from_numpy(image - floor)[None], grid, align_corners=False)[0].numpy() + floor
        turned = F.grid_sample(torch.from_numpy(labels)[None, None].float(), grid, "nearest", "border", False)
        return bent, turned[0, 0].numpy().astype(np.uint8)


def _holders(structures: int, cases: list[DomainCase]) -> dict[int, list[int]]:
    """Output channel to the numbers of the cases that show it."""
    found = {v: [k for k, case in enumerate(cases) if v in case.voxels] for v in range(1, structures + 1)}
    return {channel: numbers for channel, numbers in found.items() if numbers}


def _deformation(patch: tuple[int, int, int], a: Augmentation, rng: np.random.Generator) -> torch.Tensor:
    """(1, z, y, x, 3) sampling grid in -1..1: small turns about all axes and a smooth bend."""
    turn = np.eye(3)
    for axis, angle in enumerate(rng.normal(0, a.turn, 3) if a.turn else np.zeros(3)):
        i, j = [k for k in range(3) if k != axis]
        one = np.eye(3)
        one[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = turn @ one
    edges = np.array(patch[::-1], float)  # x, y, z as grid_sample counts; a turn must not shear
    pose = torch.zeros(1, 3, 4)
    pose[0, :, :3] = torch.from_numpy(turn * edges[None] / edges[:, None])
    grid = F.affine_grid(pose, [1, 1, *patch], align_corners=False)
    bend = torch.from_numpy(rng.normal(0, 1, (1, 3, 4, 5, 5)) * a.bend).float()
    return grid + F.interpolate(bend, size=patch, mode="trilinear").permute(0, 2, 3, 4, 1)


def recolored(image: np.ndarray, a: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """(channels, z, y, x) normalized values under random brightness, contrast, gamma, blur and noise."""
    if a.contrast or a.brightness:
        image = image * np.exp(rng.normal(0, a.contrast)) + rng.normal(0, a.brightness)
    if a.gamma:
        low, span = image.min(), max(float(np.ptp(image)), 1e-6)
        image = low + span * ((image - low) / span) ** np.exp(rng.normal(0, a.gamma))
    image = image.astype(np.float32)
    if a.blur and rng.random() < 0.3:
        image = _blurred(image, rng.uniform(0.3, a.blur))
    if a.noise and rng.random() < 0.5:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, a.noise))
    return image


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    from scipy import ndimage

    return ndimage.gaussian_filter(image, (0, sigma, sigma, sigma), truncate=2)
