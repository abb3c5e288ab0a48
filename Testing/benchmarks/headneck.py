"""Head-and-neck scans of the data folder for the study of masks: one crop a person, placed by the score curve.

The 110 long scans teach: their images (not these labels) have taught the score network too. The 52 short ones have
taught nothing and are what is measured.
"""

from __future__ import annotations

import csv
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.compute.engines import open_engine
from bpr.masks import BODY_HU, LabeledPerson, Placement, body_middles
from bpr.models import choose_bundles
from bpr.scoring.inference import score_volume
from bpr.scoring.scale import to_ruler, to_score
from bpr.volume import read_volume

WORK = Path(os.environ.get("BPR_STUDY_WORK") or Path(tempfile.gettempdir(), "bpr-study"))
ORGANS = {1: "brainstem", 2: "spinal cord", 3: "right parotid", 4: "left parotid", 6: "larynx", 7: "mandible"}
IN_PART = (2,)  # drawn as far as the treatment asked: beyond, unknown
GRID_MM, EDGE = 5.0, 32
DENS = "c1_dens_tip"
BELOW_MM, ABOVE_MM = -20.0, 60.0  # of the dens: slices of the head, whose middle is the body's middle
FIRST_MM = (-100.0, -112.0, -80.0)  # of the crop: above the dens, behind the middle, to the left of it


@dataclass(frozen=True)
class Scan:
    """One person: ``hu`` (z, y, x) int16, the masks with their placement, and whether the scan may teach.

    ``dens_mm`` is the curve's error at the dens, found minus annotated.
    """

    id: str
    hu: np.ndarray
    person: LabeledPerson
    teaches: bool
    organs: tuple[int, ...]
    dens_mm: float


def load_scans(data: Path, most: int = 10**9) -> list[Scan]:
    """All scans, or the first ``most`` that teach and that are measured; what is prepared is kept in WORK."""
    with open(data / "hn" / "cases.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(data / "hn" / "landmarks.csv", newline="", encoding="utf-8") as file:
        marks = [row for row in csv.DictReader(file) if row["landmark"] == DENS]
    dens = {row["volume"]: float(row["z_mm_from_first_slice"]) for row in marks}
    long = [row for row in rows if row["long_scan"] == "1"]
    short = [row for row in rows if row["long_scan"] == "0"]
    bundle = choose_bundles([])["score"]
    predict = open_engine(device="cpu", threads=1).predictor(bundle)
    position = {name: mark["ruler_mm"] for name, mark in bundle.facts["landmarks"].items()}
    folder = WORK / f"headneck_{GRID_MM:g}mm"
    folder.mkdir(parents=True, exist_ok=True)
    scans = []
    for row in long[:most] + short[:most]:
        stored = folder / f"{row['id']}.npz"
        if not stored.is_file():
            arrays = _prepared(data / "hn", row["id"], bundle, predict, position, dens.get(row["id"], np.nan))
            np.savez_compressed(stored.with_suffix(".partial.npz"), **arrays)
            os.replace(stored.with_suffix(".partial.npz"), stored)
        drawn = tuple(value for value in map(int, row["labels"].split()) if value in ORGANS)
        scans.append(_scan(row["id"], np.load(stored), row["long_scan"] == "1", drawn))
    return scans


def _prepared(folder: Path, name: str, bundle, predict, position: dict[str, float], dens: float) -> dict:
    """HU and labels of the crop, the ruler position of its slices, and the index of the body's middle."""
    volume = read_volume(folder / f"{name}_ct.nii.gz")
    curve = score_volume(volume, bundle, predict, step_mm=5.0)
    image = sitk.DICOMOrient(volume.image, "LPS")
    labels = sitk.DICOMOrient(sitk.ReadImage(str(folder / f"{name}_seg.nii.gz")), "LPS")
    hu = sitk.GetArrayViewFromImage(image)
    z = image.GetOrigin()[2] + image.GetSpacing()[2] * np.arange(len(hu))
    above = to_ruler(curve.score_at(z), position) - position[DENS]
    chosen = (above > BELOW_MM) & (above < ABOVE_MM)
    head = np.argwhere(hu[chosen if chosen.any() else slice(None)] > BODY_HU).mean(0)[1:]
    middle = image.TransformContinuousIndexToPhysicalPoint([float(head[1]), float(head[0]), 0.0])[:2]
    dens_z = float(curve.height_of(to_score(position[DENS], position)))
    origin = (middle[0] + FIRST_MM[2], middle[1] + FIRST_MM[1], dens_z + FIRST_MM[0])
    crop = sitk.Image([EDGE] * 3, sitk.sitkUInt8)
    crop.SetSpacing((GRID_MM,) * 3)
    crop.SetOrigin(origin)
    smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), [GRID_MM / 4] * 3)
    ct = sitk.Resample(smooth, crop, sitk.Transform(), sitk.sitkLinear, -1024)
    seg = sitk.Resample(labels, crop, sitk.Transform(), sitk.sitkNearestNeighbor, 255)
    heights = origin[2] + GRID_MM * np.arange(EDGE)
    return {
        "hu": np.clip(sitk.GetArrayFromImage(ct), -1024, 3000).astype(np.int16),
        "labels": sitk.GetArrayFromImage(seg).astype(np.uint8),
        "ruler": to_ruler(curve.score_at(heights), position) - position[DENS],
        "dens_error": np.array(dens_z - dens - image.GetOrigin()[2]),
    }


def _scan(name: str, stored, teaches: bool, drawn: tuple[int, ...]) -> Scan:
    labels = stored["labels"]
    masks = np.stack([labels == value for value in ORGANS])
    inside = (labels != 255).any((1, 2))
    known = np.stack([_known(masks[k], inside, value, drawn) for k, value in enumerate(ORGANS)])
    place = Placement(stored["ruler"], body_middles(stored["hu"], GRID_MM), GRID_MM, labels.shape)
    person = LabeledPerson(name, masks, known, place)
    return Scan(name, stored["hu"], person, teaches, drawn, float(stored["dens_error"]))


def _known(mask: np.ndarray, inside: np.ndarray, value: int, drawn: tuple[int, ...]) -> np.ndarray:
    """(z,) bool: the slices in which the organ's contour, or its absence, is known."""
    if value not in drawn:
        return np.zeros(len(mask), bool)
    if value not in IN_PART:
        return inside
    there = np.flatnonzero(mask.any((1, 2)))
    known = np.zeros(len(mask), bool)
    if len(there):
        known[there[0] : there[-1] + 1] = True
    return known
