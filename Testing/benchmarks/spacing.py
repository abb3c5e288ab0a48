"""Can a scan's shape tell that its stated slice spacing is wrong? A small network beside the ruler's slope.

make study NAME=spacing      (about ten minutes on two free cores; QUICK=1: a few steps of one fold, nothing is stored)

People's trunks differ in length, so the slope of the ruler alone cannot tell 15 % of spacing. Stretched anatomy looks
stretched: a network sees nine views of the slices (projections and slabs along the spine, from the front and from the
side) at a stated spacing that is wrong by a known factor, and learns to tell the factor. It is cross-validated by
patient over the annotated trunk scans, in the folds of the scoring study, whose predictions give the slope ($BPR_WORK,
see scoring.py). How much each of the two is believed, and what counts as wrong, come from the other folds.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from scoring import folds_of, recipes
from scoring_checks import FACTORS, LONG_MM
from scoring_runs import STEP_MM, WORK, annotated_cases
from study import QUICK, Row, write_study
from torch import nn

from bpr.scoring.fit import fit_line
from bpr.scoring.inference import densities
from bpr.scoring.slices import slice_stack
from bpr.training.dataset import Case, data_folder, head_and_neck_cases, landmark_observations

ROWS = 64  # slices that the network sees at once: 160 mm
STEPS, BATCH, RATE = (3, 4, 1e-3) if QUICK else (500, 32, 2e-3)
FAR = 0.5  # logarithm of the largest factor that is taught
HEAD_AND_NECK = 60  # scans that teach beside the trunk's
FALSE_ALARMS_Z = 2.0  # standard deviations that a right spacing leaves in less than 5 % of scans


def views(hu: np.ndarray) -> np.ndarray:
    """(9, n, 160) float16 of slices (n, 160, 160): five from the front, four from the side."""
    side, depth = spine(hu)
    values = hu.astype(np.float32)
    bone, soft, lung = (np.clip((values + a) / b, 0, 1) for a, b in ((-150, 500), (150, 350), (1000, 900)))
    slab, each, along = np.clip((values + 100) / 500, 0, 1), np.arange(len(hu))[:, None], np.arange(160)
    near = [np.clip(np.rint(c).astype(int)[:, None] + np.arange(-r, r + 1), 0, 159) for c, r in ((depth, 4), (side, 3))]
    front = slab[each, near[0]].mean(1)
    lateral = slab[each[..., None], along[None, :, None], near[1][:, None, :]].mean(2)
    shown = [bone.mean(1), bone.max(1), soft.mean(1), lung.mean(1), front]
    return np.stack([*shown, bone.mean(2), soft.mean(2), lung.mean(2), lateral]).astype(np.float16)


def spine(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row (n,) where the spine runs: the middle of the bone near the body's middle, smoothed along it."""
    bone = np.clip((hu[:, :, 60:100].astype(np.float32) - 150) / 400, 0, 1)
    length = min(len(hu), 25)
    weight = ndimage.uniform_filter1d(bone.sum(1), length, axis=0) ** 2 + 1e-6
    side = ndimage.uniform_filter1d(60 + weight @ np.arange(40) / weight.sum(1), length)
    depth = np.full(len(hu), np.nan)
    for k, column in enumerate(np.rint(side).astype(int) - 60):
        mass = bone[k, :, max(column - 5, 0) : column + 6].sum(1)
        depth[k] = mass @ np.arange(160) / mass.sum() if mass.sum() > 0.5 else np.nan
    known = np.flatnonzero(np.isfinite(depth))
    depth = np.interp(np.arange(len(hu)), known, depth[known]) if len(known) else np.full(len(hu), 95.0)
    return side, ndimage.uniform_filter1d(ndimage.median_filter(depth, length), length)


def cached_views(case: Case) -> np.ndarray:
    """The views of a scan, computed once."""
    file = WORK / "cache" / "views" / f"{case.id}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, views(slice_stack(sitk.ReadImage(str(case.path)), STEP_MM).hu))
    return np.load(file)


def restated(shown: np.ndarray, factor: float, size: float = 1.0) -> np.ndarray:
    """The views with a spacing that is stated ``factor`` times too large, of a person ``size`` times as big."""
    along = np.arange(0, (shown.shape[1] - 1) * factor * size + 1e-6) / (factor * size)
    across = np.clip((np.arange(160) - 79.5) / size + 79.5, 0, 159)
    return _read(_read(shown.astype(np.float32), along, 1), across, 2)


def _read(array: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along one axis."""
    low = np.minimum(np.floor(places).astype(int), array.shape[axis] - 2)
    share = (places - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
    return array.take(low, axis) * (1 - share) + array.take(low + 1, axis) * share


def batch(teaching: list[np.ndarray], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops of random scans with random wrong spacings, sizes, blur along the body, gain and noise."""
    crops, factors = [], []
    for _ in range(BATCH):
        shown = teaching[rng.integers(len(teaching))]
        factor, size = np.exp(rng.uniform(-FAR, FAR)), np.exp(rng.normal(0, 0.08))
        need = min(shown.shape[1], int(np.ceil(ROWS / (factor * size))) + 2)
        start = rng.integers(shown.shape[1] - need + 1)
        crop = restated(shown[:, start : start + need], factor, size)[:, :ROWS]
        crop = ndimage.gaussian_filter1d(crop, rng.uniform(0.05, 1.2), axis=1)
        crop = np.pad(crop, ((0, 0), (0, ROWS - crop.shape[1]), (0, 0)), mode="edge")
        if rng.random() < 0.5:
            crop[:5] = crop[:5, :, ::-1]
        crop = np.roll(crop, rng.integers(-8, 9), axis=2) * rng.uniform(0.8, 1.2) + rng.normal(0, 0.02, crop.shape)
        crops.append(crop.astype(np.float32))
        factors.append(np.log(factor))
    return torch.from_numpy(np.stack(crops)), torch.tensor(factors, dtype=torch.float32)


def build() -> nn.Module:
    """(n, 9, rows, 160) to (n, 2): logarithm of the factor, and of its standard deviation. 60,000 weights."""
    layers: list[nn.Module] = []
    for inputs, outputs, edge in ((9, 24, 5), (24, 32, 3), (32, 48, 3), (48, 64, 3)):
        layers += [nn.Conv2d(inputs, outputs, edge, 2, edge // 2), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 2))


def train(teaching: list[np.ndarray], seed: int) -> nn.Module:
    """A network taught by Gaussian likelihood."""
    torch.manual_seed(seed)
    rng, network = np.random.default_rng(seed), build()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        crops, truth = batch(teaching, rng)
        mean, log_sd = network(crops).T
        log_sd = log_sd.clamp(-4, 1)
        loss = (log_sd + 0.5 * ((truth - mean) / log_sd.exp()) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def told(network: nn.Module, shown: np.ndarray, factor: float) -> float:
    """The network's logarithm of the factor for a whole scan: the mean over windows, each by its certainty."""
    rows = restated(shown, factor)
    rows = np.pad(rows, ((0, 0), (0, max(0, ROWS - rows.shape[1])), (0, 0)), mode="edge")
    starts = sorted({*range(0, rows.shape[1] - ROWS + 1, ROWS // 2), rows.shape[1] - ROWS})
    with torch.inference_mode():
        mean, log_sd = network(torch.from_numpy(np.stack([rows[:, s : s + ROWS] for s in starts]))).T.numpy()
    return float(np.average(mean, weights=np.exp(-2 * np.clip(log_sd, -4, 1))))


@dataclass(frozen=True)
class Estimates:
    """Of one held-out scan: logarithm of the factor by the ruler's slope and by the network, at (1, *FACTORS)."""

    patient: str
    fold: int
    slope: np.ndarray
    shape: np.ndarray


def estimates(data: Path, cases: list[Case], observations: list) -> list[Estimates]:
    """All held-out scans that are long enough, from one network per fold; kept under $BPR_WORK."""
    by_name, found = {case.id: case for case in cases}, []
    extra = [cached_views(case) for case in head_and_neck_cases(data)[: 2 if QUICK else HEAD_AND_NECK]]
    for k, fold in enumerate(folds_of(recipes()[0], data, cases, observations)):
        out = {by_name[name].patient for name in fold.predictions}
        teaching = [cached_views(c) for c in cases if c.patient not in out]
        network = train([v for v in teaching if v.shape[1] >= ROWS // 2] + extra, k)
        for name, prediction in fold.predictions.items():
            if np.ptp(prediction.z_mm) <= LONG_MM:
                continue
            density = densities(prediction.logits[:, : len(fold.scale.centers)].astype(float))
            free = fit_line(prediction.z_mm, density, fold.scale.centers, np.geomspace(0.4, 2.5, 93), np.inf)
            tested = np.array((1.0, *FACTORS))
            shape = np.array([told(network, cached_views(by_name[name]), f) for f in tested])
            found.append(Estimates(by_name[name].patient, k, np.log(tested / free.slope), shape))
            print(f"{name}: {np.round(found[-1].slope[0], 3)} {np.round(shape, 2)}", flush=True)
        if QUICK:
            break
    return found


def verdicts(found: list[Estimates], use: tuple[str, ...]) -> np.ndarray:
    """(scans, factors) whether a wrong spacing is stated, from the estimates in ``use``, calibrated on other folds."""
    result = []
    for one in found:
        others = [e for e in found if e.fold != one.fold] or found
        table = np.stack([np.stack([getattr(e, name) for name in use]) for e in others])  # scans, kinds, factors
        truth = np.log((1.0, *FACTORS))
        inner = np.abs(truth) <= FAR
        center = table[:, :, 0].mean(0)
        gain = ((table - center[:, None])[:, :, inner] @ truth[inner]).mean(0) / (truth[inner] ** 2).sum()
        errors = (table[:, :, 0] - center) / gain
        covariance = np.atleast_2d(np.cov(errors.T)) + 1e-5 * np.eye(len(use))
        weight = np.linalg.solve(covariance, np.ones(len(use)))
        weight /= weight.sum()
        sd = float(np.sqrt(weight @ covariance @ weight))
        own = np.stack([getattr(one, name) for name in use])
        joined = weight @ ((own - center[:, None]) / gain[:, None])
        result.append(np.abs(joined) > FALSE_ALARMS_Z * sd)
    return np.array(result)


def main() -> None:
    started = time.time()
    data = data_folder(os.environ.get("BPR_DATA"))
    observations = landmark_observations(data)
    cases = annotated_cases(data, observations)
    found = estimates(data, cases[:8] if QUICK else cases, observations)
    rows = []
    for name, use in (("slope", ("slope",)), ("shape", ("shape",)), ("slope and shape", ("slope", "shape"))):
        wrong = 100 * verdicts(found, use).mean(0)
        rows += [
            Row(f"{name}: errors of 15 % or more caught ({len(found)} scans)", float(wrong[1:].mean()), "%", ">= 90"),
            Row(f"{name}: false alarms", float(wrong[0]), "%", "<= 5"),
            *(Row(f"{name}: x {f:g} caught", float(w), "%") for f, w in zip(FACTORS, wrong[1:], strict=True)),
        ]
    write_study("spacing", rows, started)


if __name__ == "__main__":
    main()
