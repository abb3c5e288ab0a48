"""One training of the study of masks: a small network on whole crops, what it is given beside or instead of the CT."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from headneck import EDGE, GRID_MM, ORGANS, Scan
from monai.metrics import compute_surface_dice
from monai.networks.nets import DynUNet
from warps import bent

from bpr.masks import BODY_HU, Atlas, Placement, binary
from bpr.segmentation.grid import network_channels
from bpr.training.loop import Schedule, Trainer
from bpr.training.patches import random_intensity
from bpr.training.segmentation import marginal_loss
from bpr.training.supervision import compiled, has_fast_bfloat16, with_fast_norms

FILTERS = (8, 16, 32, 64)
SHAPE = (EDGE,) * 3
TOLERANCE_MM = 3.0
LEAST_VOXELS = 20
SHIFT_MM = 8.0  # of the augmentation
AXIS_MM = 100.0  # at which a coordinate channel is 1
OWN_SHIFT_MM, OWN_SCALE = 8.0, 0.08  # how another person's mask would differ, where only the own one is there
VALUES = list(ORGANS)
COUNTS = (1, 2, 4, 8, 0)
ANYWHERE_MM = 30.0


@dataclass(frozen=True)
class Arm:
    """What a network is given.

    Attributes:
        picture: ct, outline (of the body) or none. prior: what the other channels hold.
        counts: with how many teaching cases it is tried; 0 stands for all.
        placed: whether crops lie where the ruler puts them, else up to ANYWHERE_MM from there.
        augmented: whether training bends and recolors its crops. longer: factor on the steps.
    """

    name: str
    picture: str
    prior: str
    counts: tuple[int, ...] = COUNTS
    placed: bool = True
    augmented: bool = True
    longer: int = 1


ARMS = (Arm("CT", "ct", "none"), Arm("CT + mask", "ct", "mask"),
        Arm("anywhere: CT", "ct", "none", (1, 4), False), Arm("anywhere: CT + mask", "ct", "mask", (1, 4), False),
        Arm("outline + mask", "outline", "mask", (4, 8, 0)), Arm("mask only", "none", "mask", (4, 8, 0)),
        Arm("CT + coordinates", "ct", "coordinates"), Arm("CT + shuffled mask", "ct", "shuffled"),
        Arm("CT + atlas", "ct", "atlas", (2, 4, 8, 0)), Arm("CT + score", "ct", "score"),
        Arm("outline only", "outline", "none", (4, 8, 0)),
        Arm("anywhere: CT + coordinates", "ct", "coordinates", (1, 4), False),
        Arm("not augmented: CT", "ct", "none", (1, 2, 4, 8), augmented=False),
        Arm("not augmented: CT + mask", "ct", "mask", (1, 2, 4, 8), augmented=False),
        Arm("not augmented: CT + coordinates", "ct", "coordinates", (1, 2), augmented=False),
        Arm("not augmented: CT + shuffled mask", "ct", "shuffled", (1, 2), augmented=False),
        Arm("longer: CT", "ct", "none", (1, 4), longer=5),
        Arm("longer: CT + mask", "ct", "mask", (1, 4), longer=5))  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One organ of one person. ``distance_mm`` between the centroids is None where nothing was found."""

    person: str
    organ: str
    dice: float
    nsd: float
    distance_mm: float | None


class Learner:
    """One network for all runs, compiled once: every arm has the same channels, those that it is not given are 0."""

    def __init__(self):
        levels = len(FILTERS)
        torch.manual_seed(0)
        self.network = with_fast_norms(DynUNet(
            3, 2 + len(ORGANS), len(ORGANS) + 1, [3] * levels, [1] + [2] * (levels - 1), [2] * (levels - 1),
            filters=list(FILTERS), res_block=False, norm_name=("INSTANCE", {"affine": True}),
        )).to(memory_format=torch.channels_last_3d)  # fmt: skip
        self.forward = compiled(self.network)
        self.bfloat = has_fast_bfloat16("cpu")

    def reset(self, seed: int) -> None:
        """Fresh weights in the same tensors."""
        torch.manual_seed(seed)
        for module in self.network.modules():
            if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
                torch.nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
            elif hasattr(module, "eps"):
                torch.nn.init.ones_(module.weight)
                torch.nn.init.zeros_(module.bias)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(1, channels, z, y, x) to (1, organs + 1, z, y, x)."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat):
            return self.forward(images.contiguous(memory_format=torch.channels_last_3d))


def atlas_of(scans: list[Scan]) -> Atlas:
    """The atlas of teaching scans in the frame of their crops."""
    ruler = np.arange(EDGE) * GRID_MM + np.mean([scan.person.place.ruler_mm[0] for scan in scans])
    middle = np.mean([scan.person.place.middle for scan in scans], (0, 1))
    frame = Placement(ruler, np.tile(middle, (EDGE, 1)), GRID_MM, SHAPE)
    return Atlas.of([scan.person for scan in scans], frame)


def prior_of(arm: Arm, scan: Scan, atlas: Atlas) -> np.ndarray:
    """(organs, z, y, x) float32 channels that stand beside the picture."""
    place = scan.person.place
    if arm.prior == "none":
        return np.zeros((len(ORGANS), *SHAPE), np.float32)
    if arm.prior in ("coordinates", "score"):
        shown = np.zeros((len(ORGANS), *SHAPE), np.float32)
        shown[0] = place.ruler_mm[:, None, None] / AXIS_MM
        if arm.prior == "coordinates":
            shown[1], shown[2] = place.across(0)[:, :, None] / AXIS_MM, place.across(1)[:, None, :] / AXIS_MM
        return shown
    share = atlas.placed(place)
    return share if arm.prior == "atlas" else binary(share)


def shuffled(prior: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same masks anywhere in the crop: they say what organs look like, not where they are."""
    return np.roll(prior, tuple(rng.integers(0, EDGE, 3)), (1, 2, 3))


def picture_of(arm: Arm, hu: np.ndarray) -> np.ndarray:
    """(2, z, y, x) float32: the CT in two windows, the body's outline, or nothing."""
    if arm.picture == "ct":
        return network_channels(hu)
    shown = np.zeros((2, *hu.shape), np.float32)
    if arm.picture == "outline":
        shown[0] = hu > BODY_HU
    return shown


def target_of(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """(z, y, x) uint8 channel numbers, and (organs + 1,) bool: which of them were drawn."""
    target = np.zeros(SHAPE, np.uint8)
    for channel, mask in enumerate(scan.person.masks, 1):
        target[mask] = channel
    return target, np.array([True, *(value in scan.organs for value in VALUES)])


class Sampler:
    """Augmented crops of the teaching scans, each with the prior that the other scans give."""

    def __init__(self, arm: Arm, scans: list[Scan]):
        self.arm, self.scans = arm, scans
        self.alone = len(scans) == 1 and arm.prior in ("mask", "atlas", "shuffled")
        atlas = atlas_of(scans)
        self.priors = [prior_of(arm, s, atlas if len(scans) == 1 else atlas.without(s.id)).astype(np.float16)
                       for s in scans]  # fmt: skip
        self.targets = [target_of(scan) for scan in scans]

    def draw(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Input (1, channels, z, y, x), target (z, y, x), known (organs + 1,)."""
        k = rng.integers(len(self.scans))
        target, known = self.targets[k]
        prior = self.priors[k].astype(np.float32)
        if self.arm.prior == "shuffled":
            prior = shuffled(prior, rng)
        prior = torch.from_numpy(prior)[None]
        if self.alone:  # the own mask would be the answer: it is moved as far as people differ
            prior = F.grid_sample(prior, bent(rng, SHAPE, OWN_SHIFT_MM / GRID_MM, OWN_SCALE), align_corners=False)
            prior = (prior >= 0.5).float()
        if not self.arm.augmented:
            picture = torch.from_numpy(picture_of(self.arm, self.scans[k].hu.astype(np.float32)))[None]
            return torch.cat([picture, prior], 1), torch.from_numpy(target), torch.from_numpy(known)
        grid = bent(rng, SHAPE, (SHIFT_MM if self.arm.placed else ANYWHERE_MM / 1.5) / GRID_MM, 0.08)
        hu = torch.from_numpy(self.scans[k].hu.astype(np.float32))[None, None] + 1024
        hu = F.grid_sample(hu, grid, align_corners=False)[0, 0].numpy() - 1024
        prior = F.grid_sample(prior, grid, padding_mode="border", align_corners=False)
        found = F.grid_sample(torch.from_numpy(target)[None, None].float(), grid, "nearest", "zeros", False)
        picture = picture_of(self.arm, random_intensity(hu, rng))
        image = torch.cat([torch.from_numpy(picture)[None], prior], 1)
        return image, found[0, 0].to(torch.uint8), torch.from_numpy(known)


def train(learner: Learner, arm: Arm, scans: list[Scan], steps: int, seed: int) -> None:
    """Train the learner's network from scratch."""
    learner.reset(seed)
    sampler = Sampler(arm, scans)

    def loss_of(network: torch.nn.Module, rng: np.random.Generator) -> torch.Tensor:
        image, target, known = sampler.draw(rng)
        return marginal_loss(learner.logits(image), target, known, 0.5)

    schedule = Schedule(steps=steps, learning_rate=4e-3, warmup=0.15, average=0.97, seed=seed, checkpoint_s=1e9,
                        threads=1)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(learner.network, [{"params": list(learner.network.parameters())}], schedule, Path(folder))
        trainer.run(loss_of, report_every=10**9)


def measured(learner: Learner, arm: Arm, teaching: list[Scan], scans: list[Scan]) -> list[Result]:
    """Every organ of every scan that is measured."""
    atlas, reach = atlas_of(teaching), round(ANYWHERE_MM / GRID_MM)
    results = []
    for number, scan in enumerate(scans):
        prior = prior_of(arm, scan, atlas)
        if arm.prior == "shuffled":
            prior = shuffled(prior, np.random.default_rng(number))
        image = np.concatenate([picture_of(arm, scan.hu), prior])
        away = (0, 0, 0) if arm.placed else tuple(np.random.default_rng([number, 3]).integers(-reach, reach + 1, 3))
        with torch.no_grad():
            guess = learner.logits(torch.from_numpy(shifted(image, away))[None])[0].argmax(0).numpy()
        results += compare(scan, shifted(guess[None], tuple(-n for n in away))[0])
    return results


def shifted(values: np.ndarray, away: tuple[int, int, int]) -> np.ndarray:
    """(n, z, y, x) moved by so many voxels; what comes in from outside is each channel's lowest value."""
    result = np.broadcast_to(values.min((1, 2, 3), keepdims=True), values.shape).copy()
    ends = [(max(n, 0), EDGE + min(n, 0)) for n in away]
    to = tuple(slice(a, b) for a, b in ends)
    origin = tuple(slice(a - n, b - n) for (a, b), n in zip(ends, away, strict=True))
    result[:, *to] = values[:, *origin]
    return result


def template_results(teaching: list[Scan], scans: list[Scan]) -> list[Result]:
    """What the placed template is worth by itself, without any network."""
    atlas, results = atlas_of(teaching), []
    for scan in scans:
        share = atlas.placed(scan.person.place)
        shown = share * binary(share)
        results += compare(scan, np.where(shown.max(0) > 0, shown.argmax(0) + 1, 0))
    return results


def compare(scan: Scan, guess: np.ndarray) -> list[Result]:
    """Dice, surface Dice at 3 mm, distance of centroids, in the slices where an organ was drawn."""
    results = []
    for channel, organ in enumerate(ORGANS.values(), 1):
        known = scan.person.known[channel - 1]
        truth, found = scan.person.masks[channel - 1][known], (guess == channel)[known]
        if truth.sum() < LEAST_VOXELS:
            continue
        dice = float(2 * (truth & found).sum() / (truth.sum() + found.sum()))
        nsd, distance = 0.0, None
        if found.any():
            pair = [torch.from_numpy(mask)[None, None] for mask in (found, truth)]
            nsd = float(compute_surface_dice(*pair, [TOLERANCE_MM], include_background=True, spacing=(GRID_MM,) * 3))
            centers = [np.argwhere(mask).mean(0) for mask in (found, truth)]
            distance = float(np.linalg.norm(centers[0] - centers[1]) * GRID_MM)
        results.append(Result(scan.id, organ, dice, nsd, distance))
    return results
