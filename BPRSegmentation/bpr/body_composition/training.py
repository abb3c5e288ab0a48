"""Training on labeled slices: one case file per scan, one warp per sample, a loss over compartments and tissues.

The labels say what a pixel is, the network shall say which compartment it lies in. A muscle or intermuscular-fat pixel
lies in the muscle compartment. A pixel without a label that has muscle's HU lies anywhere but there, one that has fat's
HU in none of the compartments with fat, and gas or calcium without a label may lie anywhere. Where nobody has looked
for a tissue, a pixel without a label may be that tissue.
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

from bpr.body_composition.slices import AxialSlice, axial_slice, body_of, network_grid, onto_grid
from bpr.body_composition.tissues import (
    BONE,
    COMPARTMENT_OF,
    COMPARTMENTS,
    FAT_HU,
    INPUT_SHAPE,
    MUSCLE_HU,
    TISSUES,
    network_channels,
)
from bpr.errors import InputError
from bpr.volume import slice_heights

POOL_LEVEL = "L3"
# What a pixel is, beyond the labels 1..5: unlabeled in muscle's range, in fat's range, other values, outside the body.
LIKE_MUSCLE, LIKE_FAT, ANYTHING, OUTSIDE = 6, 7, 8, 9
UNKNOWN = 255  # in labels: nobody has looked there
LIKE = {MUSCLE_HU: LIKE_MUSCLE, FAT_HU: LIKE_FAT}
ALL_KNOWN = (True,) * BONE  # by label value from 1: which tissues somebody has looked for on a slice
# Of each labeled tissue: compartment, the codes whose HU is in the tissue's range.
SOFT_TISSUES = {1: ("muscle", (1, LIKE_MUSCLE)), 2: ("subcutaneous", (2, 3, 4, LIKE_FAT)),
                3: ("visceral", (2, 3, 4, LIKE_FAT)), 4: ("muscle", (2, 3, 4, LIKE_FAT)),
                BONE: ("bone", (1, 2, 3, 4, BONE, LIKE_MUSCLE, LIKE_FAT, ANYTHING))}  # fmt: skip


@dataclass(frozen=True)
class LabeledSlice:
    """One labeled slice: HU and label as they are, and both on the network's grid (codes instead of labels there).

    ``known`` says by label value from 1 which tissues were looked for: where a known one is not drawn, it is not.
    """

    case: str
    patient: str
    use: str
    index: int
    hu: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float]
    grid_hu: np.ndarray
    grid_codes: np.ndarray
    known: tuple[bool, ...] = ALL_KNOWN


def allowed_compartments(known: tuple[bool, ...]) -> np.ndarray:
    """(10, compartments) bool: where a pixel of each code may lie, when these tissues were looked for."""
    allowed = np.ones((10, len(COMPARTMENTS)), bool)
    for label, name in COMPARTMENT_OF.items():
        allowed[label] = np.array(COMPARTMENTS) == name
    for tissue in TISSUES:
        if known[tissue.value - 1]:
            allowed[LIKE[tissue.hu], COMPARTMENTS.index(tissue.compartment)] = False
    allowed[OUTSIDE] = np.array(COMPARTMENTS) == "elsewhere"
    return allowed


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
            found.append(labeled_slice(case, facts[case]["patient"], facts[case]["use"], one, labels[number]))
    return found


def labeled_slice(
    case: str, patient: str, use: str, one: AxialSlice, labels: np.ndarray, known: tuple[bool, ...] = ALL_KNOWN
) -> LabeledSlice:
    """A slice with its labels (y, x) uint8, UNKNOWN where nobody has looked, also on the network's grid."""
    body = body_of(one.hu, one.spacing[1])
    grid = network_grid(body, one.spacing)
    codes = onto_grid(codes_of(one.hu, labels, body), grid, 0, OUTSIDE).astype(np.uint8)
    hu = onto_grid(one.hu, grid, 1, -1024)
    return LabeledSlice(case, patient, use, one.index, one.hu, labels, one.spacing, hu, codes, known)


def codes_of(hu: np.ndarray, labels: np.ndarray, body: np.ndarray) -> np.ndarray:
    """(y, x) uint8: the label where there is one, else what HU and the body's outline say."""
    codes = np.full(hu.shape, ANYTHING, np.uint8)
    codes[(hu >= MUSCLE_HU[0]) & (hu <= MUSCLE_HU[1])] = LIKE_MUSCLE
    codes[(hu >= FAT_HU[0]) & (hu <= FAT_HU[1])] = LIKE_FAT
    codes[~body] = OUTSIDE
    codes[labels == UNKNOWN] = ANYTHING
    return np.where((labels > 0) & (labels <= BONE), labels, codes).astype(np.uint8)


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

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[bool, ...]]:
        """Network input (channels, y, x) float32, codes (y, x) uint8, and which tissues are known."""
        own = self.by_patient[rng.integers(len(self.by_patient))]
        chosen = own[rng.integers(len(own))]
        hu, codes = _warped(chosen.grid_hu, chosen.grid_codes, rng)
        if rng.random() < 0.25:
            hu = _with_arm(hu, codes, rng)
        return network_channels(_random_intensity(hu, codes, rng)), codes, chosen.known


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


def composition_loss(logits: torch.Tensor, codes: torch.Tensor, known: list[tuple[bool, ...]]) -> torch.Tensor:
    """Marginal cross entropy over the compartments that a pixel may lie in, plus soft Dice of each tissue.

    Args:
        logits: (n, compartments, y, x). codes: (n, y, x) long, see ``codes_of``.
        known: for each slice which tissues were looked for; the others have no Dice term.
    """
    log_p = F.log_softmax(logits.float(), 1)
    tables = torch.from_numpy(np.stack([allowed_compartments(one) for one in known])).to(codes.device)
    allowed = tables[torch.arange(len(codes), device=codes.device)[:, None, None], codes].movedim(-1, 1)
    log_allowed = torch.logsumexp(log_p.masked_fill(~allowed, -1e4), 1)
    judged = (codes != ANYTHING).float() * torch.where(codes == OUTSIDE, 0.3, 1.0)
    entropy = -(log_allowed * judged).sum() / judged.sum().clamp(min=1)
    p, missed = log_p.exp(), 0.0
    for label, (compartment, in_range) in SOFT_TISSUES.items():
        looked_for = torch.tensor([one[label - 1] for one in known], device=codes.device)
        if looked_for.any():
            eligible = torch.isin(codes, torch.tensor(in_range, device=codes.device))
            guess = p[:, COMPARTMENTS.index(compartment)] * eligible
            truth = (codes == label).float()
            overlap, total = (guess * truth).sum((1, 2)), guess.sum((1, 2)) + truth.sum((1, 2))
            dice = ((2 * overlap + 20) / (total + 20))[looked_for].mean()
            missed = missed + (1 - dice) * (0.3 if label == 4 else 1.0)  # intermuscular fat repeats badly
    return entropy + missed / 4.3


def slice_loss(sampler: SliceSampler, batch: int):
    """The function that bpr.training.loop.Trainer calls at each step; bf16 where the processor computes it."""

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        images, codes, known = zip(*(sampler.draw(rng) for _ in range(batch)), strict=True)
        channels_last = torch.from_numpy(np.stack(images)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(channels_last)
        return composition_loss(logits, torch.from_numpy(np.stack(codes)).long(), known)

    return loss_of
