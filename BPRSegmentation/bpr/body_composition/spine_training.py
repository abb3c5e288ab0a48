"""Training of the network that counts vertebrae, on annotated heights of lumbar landmarks.

Between two landmarks the vertebrae are even, beyond them they go on with the same period for a while, less and less
certain. One warp per sample: taller and wider people, tilted spines, scans that end anywhere, thick slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from bpr.body_composition.counting import PLACES, ROWS
from bpr.body_composition.level import ANCHORS
from bpr.body_composition.spine import CHANNELS, STEP_MM, WIDTH, SpinePictures, spine_pictures
from bpr.body_composition.spine_network import SpineNetwork
from bpr.training.dataset import Case, first_slice_height
from bpr.training.loop import Schedule, Trainer
from bpr.training.ruler import Observation
from bpr.training.supervision import has_fast_bfloat16

USUAL_MM, THORACIC, SACRAL_MM = 34.0, 0.9, 30.0  # periods where no second landmark tells
SURE, BETWEEN, BEYOND, ALONE = 0.13, 0.08, 0.13, 0.1  # standard deviations, vertebrae (per vertebra of distance)
LUMBAR = (-2.0, 6.5)  # places around which the samples are drawn
BATCHED_ROWS = ROWS // 2


@dataclass(frozen=True)
class LabeledSpine:
    """Pictures of one scan with the place of each row and its standard deviation, both (n,) in vertebrae.

    ``marks`` are annotated heights (RAS mm) by landmark.
    """

    case: Case
    pictures: SpinePictures
    marks: dict[str, float]
    places: np.ndarray
    doubts: np.ndarray


def load_spines(cases: list[Case], observations: list[Observation], cache: Path) -> list[LabeledSpine]:
    """All scans that carry a lumbar landmark; their pictures are cached."""
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for case in cases:
        own = {o.landmark: o.z_mm for o in observations if o.scan == case.id and o.landmark in ANCHORS}
        if not own:
            continue
        file = cache / f"{case.id}.npz"
        if not file.exists():
            drawn = spine_pictures(sitk.ReadImage(str(case.path)))
            np.savez_compressed(file, image=drawn.image, z_mm=drawn.z_mm, density=drawn.density)
        stored = np.load(file)
        pictures = SpinePictures(stored["image"], stored["z_mm"], stored["density"])
        first = first_slice_height(case.path)
        marks = {name: z + first for name, z in own.items()}
        found.append(LabeledSpine(case, pictures, marks, *places_of_rows(pictures.z_mm, marks)))
    return found


def places_of_rows(z_mm: np.ndarray, marks: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Place and standard deviation of each row, in vertebrae from the disc above L1 downwards.

    Args:
        z_mm: (n,) growing heights. marks: height by name of at least one landmark of ANCHORS.
    """
    points = sorted((z, ANCHORS[name]) for name, z in marks.items())
    known, places = np.array([z for z, _ in points]), np.array([place for _, place in points])
    several = len(points) > 1
    period = (known[-1] - known[0]) / (places[0] - places[-1]) if several else USUAL_MM
    found = np.interp(z_mm, known, places)
    below, above = np.maximum(known[0] - z_mm, 0), np.maximum(z_mm - known[-1], 0)
    found += below / (period if places[0] < ANCHORS["l5_s1"] else SACRAL_MM) - above / (period * THORACIC)
    distance = np.abs(z_mm[:, None] - known[None]).min(1) / USUAL_MM
    between = (below == 0) & (above == 0)
    doubt = np.where(between, BETWEEN * np.minimum(distance, 1), (BEYOND + (0 if several else ALONE)) * distance)
    return found, SURE + doubt


class SpineSampler:
    """Draws augmented windows: patients equally often, each of their scans equally often."""

    def __init__(self, spines: list[LabeledSpine]):
        patients = sorted({spine.case.patient for spine in spines})
        self.by_patient = [[s for s in spines if s.case.patient == patient] for patient in patients]

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Input (3, rows, 112), target distribution (rows / 2, places) and weight (rows / 2,) of one window."""
        own = self.by_patient[rng.integers(len(self.by_patient))]
        spine = own[rng.integers(len(own))]
        count = len(spine.places)
        lumbar = np.flatnonzero((spine.places > LUMBAR[0]) & (spine.places < LUMBAR[1]))
        lumbar = lumbar if len(lumbar) else np.arange(count)
        low, high = 0, count - 1
        if rng.random() < 0.5:  # a shorter scan
            length = int(rng.uniform(120, 320) / STEP_MM)
            low = max(0, rng.choice(lumbar) - int(length * rng.random()))
            high = min(count - 1, low + length)
        center = rng.choice(lumbar) + rng.normal(0, 8)
        rows = center + (np.arange(ROWS) - (ROWS - 1) / 2) * np.exp(rng.normal(0, 0.09))
        inside = (rows >= low) & (rows <= high)
        image = _altered(_warped(spine.pictures.image, rows, center, rng), rng)
        image[:, ~inside] = 0
        places, doubts = (np.interp(rows, np.arange(count), a) for a in (spine.places, spine.doubts))
        target = _distribution(places, doubts).reshape(BATCHED_ROWS, 2, -1).mean(1)
        trust = 1 / (1 + 3 * np.maximum(0, doubts.reshape(BATCHED_ROWS, 2).mean(1) - 0.2))
        return image, target.astype(np.float32), (inside.reshape(-1, 2).all(1) * trust).astype(np.float32)


def _warped(image: np.ndarray, rows: np.ndarray, center: float, rng: np.random.Generator) -> np.ndarray:
    """Scaled, shifted, tilted, mirrored; the front and the side each in their own way."""
    middle, out = (WIDTH - 1) / 2, []
    mirror, tilt = (-1.0 if rng.random() < 0.5 else 1.0), rng.normal(0, 0.06, 2) * (1.0, 1.5)
    for side in (0, 1):
        across = (np.arange(WIDTH) - middle) * np.exp(rng.normal(0, 0.08)) * (1.0 if side else mirror)
        columns = middle + rng.normal(0, 3) + across[None] + tilt[side] * (rows - center)[:, None]
        places = [np.broadcast_to(rows[:, None], columns.shape), columns]
        channels = image[2:] if side else image[:2]
        out += [ndimage.map_coordinates(channel, places, order=1) for channel in channels]
    return np.stack(out).astype(np.float32)


def _altered(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thick slices, brittle and dense bones, noise, something that hides a strip of the front."""
    if rng.random() < 0.5:
        image = ndimage.gaussian_filter1d(image, rng.uniform(0.3, 1.6), axis=1)
    image[:2] = np.clip(image[:2] * np.exp(rng.normal(0, 0.2)), 0, 1.6)
    image[2] = image[2] * np.exp(rng.normal(0, 0.1)) + rng.normal(0, 0.04)
    image += rng.normal(0, rng.uniform(0, 0.06), image.shape).astype(np.float32)
    if rng.random() < 0.3:
        start = rng.integers(0, WIDTH - 20)
        image[:2, :, start : start + rng.integers(8, 20)] *= rng.random()
    return image


def _distribution(places: np.ndarray, doubts: np.ndarray) -> np.ndarray:
    """(n, places) Gaussian weights over the bins; what lies beyond them is in the last one."""
    away = PLACES[None] - np.clip(places, PLACES[0], PLACES[-1])[:, None]
    weight = np.exp(-((away / doubts[:, None]) ** 2) / 2)
    return weight / weight.sum(1, keepdims=True)


def spine_loss(sampler: SpineSampler, batch: int):
    """The function that bpr.training.loop.Trainer calls at each step: cross entropy of the rows' places."""
    bfloat = has_fast_bfloat16("cpu")

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        drawn = [sampler.draw(rng) for _ in range(batch)]
        image, target, weight = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat):
            logits = network(image.contiguous(memory_format=torch.channels_last))
        log_p = F.log_softmax(logits.float(), 1)
        return -((log_p * target.transpose(1, 2)).sum(1) * weight).sum() / weight.sum().clamp(min=1)

    return loss_of


def fit_spines(config: dict, spines: list[LabeledSpine], folder: Path, resume: bool = False) -> SpineNetwork:
    """Train the configuration's network."""
    schedule = Schedule(**config["schedule"])
    torch.manual_seed(schedule.seed)
    network = SpineNetwork(**config["network"]).to(memory_format=torch.channels_last)
    trainer = Trainer(network, [{"params": list(network.parameters())}], schedule, folder)
    if resume and trainer.resume():
        print(f"resuming at step {trainer.step}")
    trainer.run(spine_loss(SpineSampler(spines), config["batch"]), report_every=100)
    return network.eval()


def example() -> torch.Tensor:
    """One input of the right shape."""
    return torch.zeros(1, CHANNELS, ROWS, WIDTH)
