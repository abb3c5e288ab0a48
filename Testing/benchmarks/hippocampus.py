"""T1 MR crops of the hippocampus in three domains: two real families of scans, and a simulated one.

"float" and "8 bit" are the ways in which the public data were stored, and come from different scanners and
preparation. "simulated" are people of the float family in a scanner with another sequence: contrast inverted, thick
slices, shading and noise. Nobody is in two domains.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

GRID_MM, EDGE = 1.5, 32
TILE = (EDGE,) * 3
DOMAINS = ("float", "8 bit", "simulated")
TEACHING, VALIDATION, TEST = 12, 4, 16  # people a domain
PARTS = 2  # anterior and posterior


@dataclass(frozen=True)
class Crop:
    """One person: ``image`` (z, y, x) float32 with mean 0 and deviation 1, ``labels`` uint8 1 anterior, 2 posterior."""

    id: str
    image: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Domain:
    """People of one domain by what they are for."""

    name: str
    teaching: list[Crop]
    validation: list[Crop]
    test: list[Crop]


def load_domains(data: Path, most: int = 10**9) -> dict[str, Domain]:
    """The three domains; ``most`` limits the people of each part."""
    folder = data / "mr_hippocampus"
    with open(folder / "cases.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    family = {kind: [row["id"] for row in rows if row["stored_type"] == kind] for kind in ("float32", "uint8")}
    size = TEACHING + VALIDATION + TEST
    order = np.random.default_rng(0)
    mixed = {kind: [names[k] for k in order.permutation(len(names))] for kind, names in family.items()}
    people = {"float": mixed["float32"][:size], "8 bit": mixed["uint8"][:size],
              "simulated": mixed["float32"][size : 2 * size]}  # fmt: skip
    found = {}
    for name, chosen in people.items():
        parts = np.split(np.array(chosen), [TEACHING, TEACHING + VALIDATION])
        crops = [[_crop(folder, person, name == "simulated", k) for k, person in enumerate(part[:most])]
                 for part in parts]  # fmt: skip
        found[name] = Domain(name, *crops)
    return found


def _crop(folder: Path, name: str, simulated: bool, seed: int) -> Crop:
    image = sitk.ReadImage(str(folder / f"{name}_mr.nii.gz"), sitk.sitkFloat32)
    labels = sitk.ReadImage(str(folder / f"{name}_seg.nii.gz"), sitk.sitkUInt8)
    grid = sitk.Image([EDGE] * 3, sitk.sitkUInt8)
    grid.SetSpacing((GRID_MM,) * 3)
    grid.SetDirection(image.GetDirection())
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    matrix = np.array(image.GetDirection()).reshape(3, 3)
    grid.SetOrigin((np.array(middle) - matrix @ np.full(3, GRID_MM * (EDGE - 1) / 2)).tolist())
    values = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 0.0))
    drawn = sitk.GetArrayFromImage(sitk.Resample(labels, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    inside = values > 0
    if simulated:
        values = _other_scanner(values, inside, np.random.default_rng([seed, 5]))
    mean, deviation = values[inside].mean(), values[inside].std()
    values = np.where(inside, (values - mean) / deviation, 0).astype(np.float32)
    return Crop(name, values, drawn)


def _other_scanner(values: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast inverted, slices of 4.5 mm, shading of 20 %, noise of half a standard deviation."""
    top = np.percentile(values[inside], 99)
    turned = np.clip(top - values, 0, None) ** 0.8
    turned = ndimage.uniform_filter1d(turned, 3, axis=0)
    slope = rng.normal(0, 1, 3)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in values.shape), indexing="ij", sparse=True)
    shading = 1 + 0.2 * sum(s * axis for s, axis in zip(slope / np.abs(slope).sum(), axes, strict=True))
    return turned * shading + rng.standard_normal(values.shape) * 0.5 * turned[inside].std()
