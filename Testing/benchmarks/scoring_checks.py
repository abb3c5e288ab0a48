"""What the scoring study measures beside landmark errors: the verdict, stress, slice thickness, speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from study import Row

from bpr.compute.engines import open_engine
from bpr.errors import InputError
from bpr.evaluation.report import validation_cases
from bpr.evaluation.score import evaluate_score
from bpr.models import choose_bundles
from bpr.phantom import make_phantom
from bpr.scoring.inference import curve_from_logits, score_volume
from bpr.scoring.slices import body_mask, slice_stack
from bpr.training.dataset import landmark_observations
from bpr.volume import Volume, read_volume

FACTORS = (0.5, 0.67, 0.8, 0.85, 1.15, 1.25, 1.5, 2.0)
LONG_MM = 150.0
BPREG_PIXELS = 128


def verdict_rows(folds: list, as_volume: Callable[[np.ndarray], Volume]) -> list[Row]:
    """Wrong spacing, reversed order and false alarms on held-out scans, from their logits at altered heights."""
    caught, alarms, refused, reversed_found, count = {f: [] for f in FACTORS}, [], [], [], 0
    for fold in folds:
        for found in fold.predictions.values():
            logits = found.logits.astype(float)
            normal = curve_from_logits(as_volume(found.z_mm), found.z_mm, logits, fold.scale).verdict
            refused.append(normal.quality == "refused")
            if np.ptp(found.z_mm) <= LONG_MM:
                continue
            count += 1
            alarms.append(_doubts_spacing(normal))
            turned = curve_from_logits(as_volume(found.z_mm), found.z_mm, logits[::-1], fold.scale).verdict
            reversed_found.append(turned.slice_order == "reversed")
            for factor in FACTORS:
                z = found.z_mm * factor
                caught[factor].append(_doubts_spacing(curve_from_logits(as_volume(z), z, logits, fold.scale).verdict))
    rows = [
        Row(f"spacing errors of 15 % or more caught ({count} scans over 150 mm)",
            100 * float(np.mean([v for values in caught.values() for v in values])), "%", ">= 90"),
        Row("spacing, false alarms", 100 * float(np.mean(alarms)), "%", "<= 5"),
        Row("reversed order caught", 100 * float(np.mean(reversed_found)), "%", ">= 100"),
        Row("false refusals", 100 * float(np.mean(refused)), "%", "<= 2"),
    ]  # fmt: skip
    rows += [Row(f"spacing x {f:g} caught", 100 * float(np.mean(values)), "%") for f, values in caught.items()]
    return rows


def _doubts_spacing(verdict) -> bool:
    return any(notice.code == "spacing_doubtful" for notice in verdict.notices)


def scope_rows(data: Path) -> list[Row]:
    """MR volumes and thighs are no trunk CT: both must be refused."""
    mr = sorted((data / "mr").rglob("*.nii.gz"))
    refused = [_refused(path) for path in mr]
    legs = [
        _legs_refused(data / "ct" / f"{name}.nii.gz", top) for name, top in (("gate_wb4mm", 60), ("pelvicref002", 75))
    ]
    return [
        Row(f"MR refused ({len(mr)} volumes)", 100 * float(np.mean(refused)), "%", ">= 95"),
        Row(f"thighs refused ({len(legs)} crops)", 100 * float(np.mean(legs)), "%", ">= 95"),
    ]


def _refused(path: Path) -> bool:
    try:
        volume = read_volume(path)
    except InputError:
        return True
    return _score(volume).verdict.quality == "refused"


def _legs_refused(path: Path, top_mm: float) -> bool:
    """The lowest ``top_mm`` of a scan alone."""
    volume = read_volume(path)
    count = int(top_mm / volume.image.GetSpacing()[2])
    return _score(replace(volume, image=volume.image[:, :, :count])).verdict.quality == "refused"


def _score(volume: Volume):
    bundle = choose_bundles([])["score"]
    return score_volume(volume, bundle, open_engine().predictor(bundle))


def _array(image: sitk.Image, change: Callable[[np.ndarray], np.ndarray]) -> sitk.Image:
    result = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image).astype(np.float32)).astype(np.int16))
    result.CopyInformation(image)
    return result


def _masked(image: sitk.Image) -> sitk.Image:
    x, _, z = image.GetSpacing()
    return _array(image, lambda hu: np.where(body_mask(hu, x, z), hu, -1000))


def _thick(image: sitk.Image) -> sitk.Image:
    width = max(1, round(10 / image.GetSpacing()[2]))
    return _array(image, lambda hu: ndimage.uniform_filter1d(hu, width, axis=0))[:, :, ::width]


def _middle(length_mm: float) -> Callable[[sitk.Image], sitk.Image]:
    def crop(image: sitk.Image) -> sitk.Image:
        count = min(int(length_mm / image.GetSpacing()[2]), image.GetSize()[2])
        first = (image.GetSize()[2] - count) // 2
        return image[:, :, first : first + count]

    return crop


def _noisy(image: sitk.Image) -> sitk.Image:
    return _array(image, lambda hu: np.clip(hu + np.random.default_rng(0).normal(0, 60, hu.shape), -1024, 3000))


STRESS: dict[str, Callable[[sitk.Image], sitk.Image]] = {
    "clean": lambda image: image,
    "middle 10 cm": _middle(100),
    "middle 20 cm": _middle(200),
    "left and right mirrored": lambda image: _array(image, lambda hu: hu[:, :, ::-1]),
    "noise of 60 HU": _noisy,
    "slices of 10 mm": _thick,
    "masked to the body": _masked,
    "soft kernel (5 mm)": lambda image: sitk.SmoothingRecursiveGaussian(image, 2.5),
    "sharp kernel": lambda image: sitk.LaplacianSharpening(sitk.Cast(image, sitk.sitkFloat32)),
    "shifted by 60 HU": lambda image: image + 60,
    "field of view of 25 cm": lambda image: _narrow(image, 250),
}


def _narrow(image: sitk.Image, field_mm: float) -> sitk.Image:
    """A field of view around the middle; what is outside of it was never scanned."""
    size, spacing = image.GetSize(), image.GetSpacing()
    count = [min(int(field_mm / s), n) for n, s in zip(size[:2], spacing[:2], strict=True)]
    first = [(n - c) // 2 for n, c in zip(size[:2], count, strict=True)]
    return image[first[0] : first[0] + count[0], first[1] : first[1] + count[1], :]


def stress_rows(data: Path) -> list[Row]:
    """Mean landmark error of the shipped bundle on the restricted people under each stress, over the clean one.

    Only landmarks inside of what is left of the scan count, on both sides of a ratio.
    """
    bundle = choose_bundles([])["score"]
    predict, observations = open_engine().predictor(bundle), landmark_observations(data)
    errors: dict[str, dict] = {}
    for name, change in STRESS.items():
        found = evaluate_score(
            bundle, predict, validation_cases(data), observations, lambda v, c=change: replace(v, image=c(v.image))
        )
        errors[name] = {(e.scan, e.landmark): abs(e.error_mm) for e in found.errors}
    rows = []
    for name, stressed in errors.items():
        common = sorted(stressed)
        clean = np.mean([errors["clean"][key] for key in common])
        mean = float(np.mean([stressed[key] for key in common]))
        rows.append(Row(f"stress: {name}, mean error of {len(common)} landmarks", mean, "mm"))
        if name != "clean":
            rows.append(Row(f"stress: {name} / clean", mean / clean, "x", "<= 1.5"))
    return rows


def thickness_rows(data: Path) -> list[Row]:
    """How far landmark heights move when the same scan has slices of 1 to 5 mm, in the restricted people."""
    moved = []
    for case in validation_cases(data):
        volume = read_volume(case.path)
        heights = []
        for thickness in (1.0, 2.0, 3.0, 5.0):
            image = _reslice(volume.image, thickness)
            marks = _score(replace(volume, image=image)).landmarks
            heights.append([mark.z_mm for mark in marks if mark.in_scan])
        least = min(map(len, heights))
        moved += [np.ptp([h[k] for h in heights]) for k in range(least)] if least == max(map(len, heights)) else []
    return [
        Row("slices of 1 to 5 mm, median movement of a landmark", float(np.median(moved)), "mm"),
        Row("slices of 1 to 5 mm, 95th percentile", float(np.percentile(moved, 95)), "mm", "<= 3"),
        Row("slices of 1 to 5 mm, largest", float(np.max(moved)), "mm", "<= 3"),
    ]


def _reslice(image: sitk.Image, thickness: float) -> sitk.Image:
    """Linear interpolation along z."""
    spacing = (*image.GetSpacing()[:2], thickness)
    count = int(image.GetSize()[2] * image.GetSpacing()[2] / thickness)
    return sitk.Resample(image, (*image.GetSize()[:2], count), sitk.Transform(), sitk.sitkLinear, image.GetOrigin(),
                         spacing, image.GetDirection(), -1000, image.GetPixelID())  # fmt: skip


def speed_rows() -> list[Row]:
    """Slices per second of the shipped bundle and of the published package's recipe, both with their preprocessing.

    The recipe: VGG16 of full width at 128 x 128 pixels in torch eager. Speed does not depend on its weights.
    """
    import torch

    from bpr.scoring.network import ScoreNetwork
    from bpr.scoring.slices import network_input

    phantom = make_phantom(spacing_mm=(3.0, 3.0, 3.0), seed=1).image
    size = (512, 512, 300)
    spacing = [n * s / m for n, s, m in zip(phantom.GetSize(), phantom.GetSpacing(), size, strict=True)]
    image = sitk.Resample(phantom, size, sitk.Transform(), sitk.sitkLinear, phantom.GetOrigin(), spacing,
                          phantom.GetDirection(), -1000, sitk.sitkInt16)  # fmt: skip
    image.SetSpacing((*image.GetSpacing()[:2], 3.0))  # 900 mm
    volume, bundle = Volume(image, "study", {}, []), choose_bundles([])["score"]
    predict = open_engine("openvino").predictor(bundle)
    ours = min(_seconds(lambda: score_volume(volume, bundle, predict)) for _ in range(3))
    half = replace(volume, image=image[:, :, :150])
    half_time = min(_seconds(lambda: score_volume(half, bundle, predict)) for _ in range(3))
    vgg = ScoreNetwork("vgg", 1, 0, options={"width": 64}).eval()

    def theirs() -> None:
        images = network_input(slice_stack(image, 2.5), BPREG_PIXELS)
        with torch.inference_mode():
            for start in range(0, len(images), 16):
                vgg(torch.from_numpy(images[start : start + 16].copy()))

    # The kernel's high-water mark starts anew from what is in use now; the network has run before.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_bytes("VmRSS")
    score_volume(volume, bundle, predict)
    grown = _status_bytes("VmHWM") - before
    return [
        Row("900 mm scored after loading", ours, "s", "<= 1"),
        Row("450 mm / 900 mm, seconds", half_time / ours, "x"),
        Row("slices per second / VGG16 at 128 x 128 in torch eager", _seconds(theirs) / ours, "x", ">= 25"),
        Row(
            "memory beyond the volume at a repeated run / volume",
            grown / (image.GetNumberOfPixels() * 2),
            "x",
            "<= 0.5",
        ),
    ]


def _status_bytes(field: str) -> int:
    """A memory figure of this process as Linux states it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
