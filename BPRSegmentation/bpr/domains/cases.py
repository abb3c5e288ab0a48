"""Labeled cases of a domain as arrays: on the domain's grid, normalized, labels as output channels."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.domains.definition import AIR_HU, Domain
from bpr.errors import InputError
from bpr.training.cases import OUTSIDE


@dataclass(frozen=True)
class DomainCase:
    """One case.

    Attributes:
        image: (channels, z, y, x) float32, normalized. labels: (z, y, x) uint8 output channels or OUTSIDE.
        known: (structures + 1,) bool by output channel: drawn or certainly absent here.
        voxels: output channel to flat indices of (some of) its voxels.
    """

    id: str
    patient: str
    image: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    voxels: dict[int, np.ndarray]

    @classmethod
    def of(cls, name: str, patient: str, image: np.ndarray, labels: np.ndarray, known: np.ndarray) -> DomainCase:
        """A case whose ``voxels`` are found in its labels."""
        present = [int(v) for v in np.unique(labels) if v not in (0, OUTSIDE)]
        return cls(name, patient, image, labels, known, {v: np.flatnonzero(labels == v)[::3] for v in present})


def domain_rows(domain: Domain, data: Path) -> list[dict[str, str]]:
    """Rows of the domain's table that belong to it and have labels. Raises InputError."""
    folder = data / domain.folder
    try:
        with open(folder / domain.table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        chosen = [row for row in rows if all(row[key] == value for key, value in domain.where.items())]
        return [row for row in chosen if (folder / domain.labels.format(id=row["id"])).is_file()]
    except (OSError, KeyError) as error:
        raise InputError(f"The cases of {domain.name} cannot be listed: {folder / domain.table} ({error}).",
                         "Check folder, table and columns in the configuration.") from None  # fmt: skip


def load_domain(domain: Domain, data: Path, rows: list[dict[str, str]] | None = None) -> list[DomainCase]:
    """The domain's cases, or those of the given rows."""
    folder = data / domain.folder
    cases = []
    for row in domain_rows(domain, data) if rows is None else rows:
        label_path = folder / domain.labels.format(id=row["id"])
        image, labels = _on_grid(folder / domain.image.format(id=row["id"]), label_path, domain)
        known = known_channels(domain, row, label_path)
        lookup = np.zeros(256, np.uint8)
        for value, name in domain.values.items():
            lookup[value] = domain.channel_of.get(name, 0)
        lookup[OUTSIDE] = OUTSIDE
        patient = row.get(domain.patient, row["id"])
        cases.append(DomainCase.of(row["id"], patient, domain.normalized(image), lookup[labels], known))
    return cases


def known_channels(domain: Domain, row: dict[str, str], label_path: Path) -> np.ndarray:
    """What is drawn or surely absent: from ``<labels>.json``, from a column of label values, else everything."""
    known = np.ones(len(domain.structures) + 1, bool)
    hint = label_path.with_name(label_path.name.removesuffix(".nii.gz") + ".json")
    if hint.is_file():
        stated = json.loads(hint.read_text(encoding="utf-8"))
        drawn = {text.split(" ")[0] for text in [*stated["labelled"], *stated["absent"]]}
    elif row.get("labels"):
        drawn = {domain.values.get(int(value)) for value in row["labels"].split()}
    else:
        return known
    known[1:] = [structure.id in drawn for structure in domain.structures]
    return known


def _on_grid(image: Path, labels: Path, domain: Domain) -> tuple[np.ndarray, np.ndarray]:
    """(z, y, x) intensities and labels along the patient's axes; labels are OUTSIDE where no one has drawn."""
    scan = sitk.DICOMOrient(sitk.ReadImage(str(image), sitk.sitkFloat32), "LPS")
    drawn = sitk.DICOMOrient(sitk.ReadImage(str(labels), sitk.sitkUInt8), "LPS")
    size = [max(1, round(n * mm / domain.grid_mm)) for n, mm in zip(drawn.GetSize(), drawn.GetSpacing(), strict=True)]
    if size == list(drawn.GetSize()) and scan.GetSize() == drawn.GetSize():
        return sitk.GetArrayFromImage(scan), sitk.GetArrayFromImage(drawn)
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing((domain.grid_mm,) * 3)
    shift = [(domain.grid_mm - mm) / 2 for mm in drawn.GetSpacing()]
    grid.SetOrigin([a + b for a, b in zip(drawn.GetOrigin(), shift, strict=True)])
    empty = AIR_HU if domain.modality == "CT" else float(sitk.GetArrayViewFromImage(scan).min())
    sigma = [max(0.0, 0.16 * (domain.grid_mm**2 - mm**2)) for mm in scan.GetSpacing()]
    smooth = sitk.DiscreteGaussian(scan, sigma) if any(sigma) else scan  # against aliasing; variances in mm2
    values = sitk.Resample(smooth, grid, sitk.Transform(), sitk.sitkLinear, empty, sitk.sitkFloat32)
    covered = sitk.Image(scan.GetSize(), sitk.sitkUInt8) + 1
    covered.CopyInformation(scan)
    seen = sitk.GetArrayFromImage(sitk.Resample(covered, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    on_grid = sitk.GetArrayFromImage(sitk.Resample(drawn, grid, sitk.Transform(), sitk.sitkNearestNeighbor, OUTSIDE))
    return sitk.GetArrayFromImage(values), np.where(seen > 0, on_grid, OUTSIDE).astype(np.uint8)
