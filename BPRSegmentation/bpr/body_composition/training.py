"""Training on labeled slices: one case file per scan, one warp per sample, a loss over compartments and tissues.

The labels say what a pixel is, the network shall say which compartment it lies in. A muscle or intermuscular-fat pixel
lies in the muscle compartment. A pixel without a label that has muscle's HU lies anywhere but there, one that has fat's
HU in none of the compartments with fat, and gas or calcium without a label may lie anywhere.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import nn

from bpr.body_composition.slices import axial_slice, body_of, network_grid, onto_grid
from bpr.body_composition.tissues import BONE, COMPARTMENTS, FAT_HU, INPUT_SHAPE, MUSCLE_HU, network_channels
from bpr.errors import InputError
from bpr.volume import slice_heights

POOL_LEVEL = "L3"
# What a pixel is, beyond the labels 1..5: unlabeled in muscle's range, in fat's range, other values, outside the body.
LIKE_MUSCLE, LIKE_FAT, ANYTHING, OUTSIDE = 6, 7, 8, 9
ALLOWED = np.zeros((10, len(COMPARTMENTS)), bool)
for _code, _names in {1: "muscle", 2: "subcutaneous", 3: "visceral", 4: "muscle", BONE: "bone", OUTSIDE: "elsewhere",
                      LIKE_MUSCLE: "elsewhere subcutaneous visceral bone", LIKE_FAT: "elsewhere bone",
                      ANYTHING: " ".join(COMPARTMENTS)}.items():  # fmt: skip
    ALLOWED[_code, [COMPARTMENTS.index(name) for name in _names.split()]] = True
ALLOWED[0] = True
# Of each labeled tissue: compartment, the codes whose HU is in the tissue's range.
SOFT_TISSUES = {1: ("muscle", (1, LIKE_MUSCLE)), 2: ("subcutaneous", (2, 3, 4, LIKE_FAT)),
                3: ("visceral", (2, 3, 4, LIKE_FAT)), 4: ("muscle", (2, 3, 4, LIKE_FAT)),
                BONE: ("bone", (1, 2, 3, 4, BONE, LIKE_MUSCLE, LIKE_FAT, ANYTHING))}  # fmt: skip


@dataclass(frozen=True)
class LabeledSlice:
    """One labeled slice: HU and label as they are, and both on the network's grid (codes instead of labels there)."""

    case: str
    patient: str
    use: str
    index: int
    hu: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float]
    grid_hu: np.ndarray
    grid_codes: np.ndarray


def load_slices(data: Path) -> list[LabeledSlice]:
    """All slices of ``l3/cases.csv`` whose level is L3. Raises InputError when the folder has none."""
    table = data / "l3" / "cases.csv"
    if not table.is_file():
        raise InputError(f"No labeled slices: {table} is missing.", "docs/training.md describes the data folder.")
    with open(data / "cases.csv", newline="", encoding="utf-8") as file:
        facts = {row["id"]: row for row in csv.DictReader(file)}
    with open(table, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["level"].startswith(POOL_LEVEL)]
    found = []
    for case in dict.fromkeys(row["id"] for row in rows):
        image = sitk.ReadImage(str(data / "ct" / f"{case}.nii.gz"))
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "l3" / f"{case}_l3.nii.gz")))
        heights = slice_heights(image)
        for number, row in enumerate(row for row in rows if row["id"] == case):
            index = int(row["slice_index"])
            one = axial_slice(image, index, float(heights[index]))
            found.append(_labeled(case, facts[case], index, one, labels[number]))
    return found


def _labeled(case: str, facts: dict, index: int, one, labels: np.ndarray) -> LabeledSlice:
    body = body_of(one.hu, one.spacing[1])
    grid = network_grid(body, one.spacing)
    codes = onto_grid(codes_of(one.hu, labels, body), grid, 0, OUTSIDE).astype(np.uint8)
    hu = onto_grid(one.hu, grid, 1, -1024)
    return LabeledSlice(case, facts["patient"], facts["use"], index, one.hu, labels, one.spacing, hu, codes)


def codes_of(hu: np.ndarray, labels: np.ndarray, body: np.ndarray) -> np.ndarray:
    """(y, x) uint8: the label where there is one, else what HU and the body's outline say."""
    codes = np.full(hu.shape, ANYTHING, np.uint8)
    codes[(hu >= MUSCLE_HU[0]) & (hu <= MUSCLE_HU[1])] = LIKE_MUSCLE
    codes[(hu >= FAT_HU[0]) & (hu <= FAT_HU[1])] = LIKE_FAT
    codes[~body] = OUTSIDE
    return np.where(labels > 0, labels, codes).astype(np.uint8)


def folds_by_patient(slices: list[LabeledSlice], count: int, seed: int = 0) -> list[list[LabeledSlice]]:
    """The slices split by patient into ``count`` parts."""
    patients = sorted({s.patient for s in slices})
    order = np.random.default_rng(seed).permutation(len(patients))
    part = {patients[k]: number % count for number, k in enumerate(order)}
    return [[s for s in slices if part[s.patient] == number] for number in range(count)]


class SliceSampler:
    """Draws augmented slices: patients equally often, one warp, HU changes, noise, blur, arms beside the body."""

    def __init__(self, slices: list[LabeledSlice]):
        self.by_patient = [[s for s in slices if s.patient == p] for p in sorted({s.patient for s in slices})]

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Network input (channels, y, x) float32 and codes (y, x) uint8."""
        own = self.by_patient[rng.integers(len(self.by_patient))]
        chosen = own[rng.integers(len(own))]
        hu, codes = _warped(chosen.grid_hu, chosen.grid_codes, rng)
        if rng.random() < 0.25:
            hu = _with_arm(hu, codes, rng)
        return network_channels(_random_intensity(hu, codes, rng)), codes


def _warped(hu: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scale, rotate, shift, mirror and bend in one interpolation."""
    angle, mirror = rng.normal(0, 0.12), -1.0 if rng.random() < 0.5 else 1.0
    scale = rng.uniform(0.82, 1.25, 2) * rng.uniform(0.9, 1.1)
    aspect = INPUT_SHAPE[0] / INPUT_SHAPE[1]
    turn = np.array([[np.cos(angle), -np.sin(angle) * aspect], [np.sin(angle) / aspect, np.cos(angle)]])
    pose = np.concatenate([turn * scale * [mirror, 1], rng.normal(0, 0.05, (2, 1))], 1)
    bend = torch.from_numpy(rng.normal(0, 0.035, (1, 2, 5, 6))).float()
    grid = F.affine_grid(torch.from_numpy(pose).float()[None], [1, 1, *INPUT_SHAPE], align_corners=False)
    grid = grid + F.interpolate(bend, size=INPUT_SHAPE, mode="bicubic").permute(0, 2, 3, 1)
    image = F.grid_sample(torch.from_numpy(hu)[None, None] + 1024, grid, align_corners=False) - 1024
    target = F.grid_sample(torch.from_numpy(codes.astype(np.float32))[None, None] - OUTSIDE, grid, "nearest",
                           align_corners=False) + OUTSIDE  # fmt: skip
    return image[0, 0].numpy(), target[0, 0].numpy().round().astype(np.uint8)


def _with_arm(hu: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A forearm or hand in the air beside the body: skin and fat, muscle, two bones; its pixels stay "elsewhere"."""
    y, x = np.meshgrid(*(np.arange(n) for n in INPUT_SHAPE), indexing="ij")
    radius = rng.uniform(14, 26)
    center = (rng.uniform(40, 150), rng.choice([rng.uniform(-5, 25), rng.uniform(230, 260)]))
    distance = np.hypot((y - center[0]) / rng.uniform(0.8, 1.3), x - center[1]) / radius
    air = codes == OUTSIDE
    arm = np.where(distance < 0.75, rng.normal(50, 8), -100.0)
    for side in (-0.25, 0.25):
        arm[np.hypot(y - center[0], x - center[1] - side * radius) < 0.16 * radius] = 700
    return np.where((distance < 1) & air, arm, hu).astype(np.float32)


def _random_intensity(hu: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """HU shift and scale, contrast agent in what is neither muscle nor fat, blur, noise."""
    hu = hu * rng.uniform(0.95, 1.05) + rng.normal(0, 6)
    soft = (codes == LIKE_MUSCLE) & (hu > 0)
    hu = np.where(soft, hu * rng.uniform(0.6, 2.2), hu)
    if rng.random() < 0.3:
        from scipy import ndimage

        hu = ndimage.gaussian_filter(hu, rng.uniform(0.4, 1.1))
    return (hu + rng.normal(0, rng.uniform(0, 30), hu.shape)).astype(np.float32)


def composition_loss(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Marginal cross entropy over the compartments that a pixel may lie in, plus soft Dice of each tissue.

    Args:
        logits: (n, compartments, y, x). codes: (n, y, x) long, see ``codes_of``.
    """
    log_p = F.log_softmax(logits.float(), 1)
    allowed = torch.from_numpy(ALLOWED)[codes].movedim(-1, 1)
    log_allowed = torch.logsumexp(log_p.masked_fill(~allowed, -1e4), 1)
    judged = (codes != ANYTHING).float() * torch.where(codes == OUTSIDE, 0.3, 1.0)
    entropy = -(log_allowed * judged).sum() / judged.sum().clamp(min=1)
    p = log_p.exp()
    dice = []
    for label, (compartment, in_range) in SOFT_TISSUES.items():
        eligible = torch.isin(codes, torch.tensor(in_range))
        guess = p[:, COMPARTMENTS.index(compartment)] * eligible
        truth = (codes == label).float()
        overlap, total = (guess * truth).sum((1, 2)), guess.sum((1, 2)) + truth.sum((1, 2))
        dice.append(((2 * overlap + 20) / (total + 20)).mean() * (0.3 if label == 4 else 1.0))
    return entropy + sum(1.0 * (0.3 if k == 3 else 1.0) - d for k, d in enumerate(dice)) / 4.3


def slice_loss(sampler: SliceSampler, batch: int):
    """The function that bpr.training.loop.Trainer calls at each step; bf16 where the processor computes it."""

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        drawn = [sampler.draw(rng) for _ in range(batch)]
        images = torch.from_numpy(np.stack([image for image, _ in drawn])).contiguous(memory_format=torch.channels_last)
        codes = torch.from_numpy(np.stack([codes for _, codes in drawn])).long()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        return composition_loss(logits, codes)

    return loss_of
