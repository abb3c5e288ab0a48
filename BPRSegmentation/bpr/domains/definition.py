"""What a domain is: an anatomy seen by one modality, with its own grid, intensity normalization and label table."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bpr.errors import InputError
from bpr.resources import resources_dir
from bpr.segmentation.labels import Structure, label_table

AIR_HU = -1024.0


def standard(image: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the voxels that are not empty (the lowest value), cut at +-3."""
    inside = image[image > image.min()]
    if inside.size == 0:
        return np.zeros(image.shape, np.float32)
    return np.clip((image - inside.mean()) / max(float(inside.std()), 1e-6), -3, 3).astype(np.float32)


def percentile(image: np.ndarray) -> np.ndarray:
    """1st and 99th percentile at -1 and 1: keeps bright structures apart that ``standard`` lets run together."""
    low, high = np.percentile(image, (1, 99))
    return np.clip(2 * (image - low) / max(float(high - low), 1e-6) - 1, -1.5, 1.5).astype(np.float32)


def wide(hu: np.ndarray) -> np.ndarray:
    """HU / 500 in +-2, as the CT bundles see it."""
    return np.clip(hu / 500, -2, 2).astype(np.float32)


def soft(hu: np.ndarray) -> np.ndarray:
    """A soft-tissue window, 40 +- 200 HU."""
    return np.clip((hu - 40) / 200, -1, 1).astype(np.float32)


NORMALIZATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "standard": standard, "percentile": percentile, "wide": wide, "soft": soft}  # fmt: skip
HOUNSFIELD = ("wide", "soft")  # these need a CT


@dataclass(frozen=True)
class Domain:
    """One domain and where its cases lie.

    Attributes:
        name: what a person reads, such as "hippocampus MR, 8 bit".
        modality: DICOM's word: CT, MR, ...
        inputs: names of NORMALIZATIONS, one per input channel. grid_mm: edge of a voxel.
        structures: label table; the position in it, from 1, is the output channel.
        values: value in the label files to structure ID.
        folder, table, image, labels: below the data folder; ``image`` and ``labels`` are patterns with ``{id}``.
        patient: column of the table that splits go by. where: column to the value that a row must have.
    """

    name: str
    modality: str
    inputs: tuple[str, ...]
    grid_mm: float
    structures: tuple[Structure, ...]
    values: dict[int, str]
    folder: str = "."
    table: str = "cases.csv"
    image: str = "{id}.nii.gz"
    labels: str = "{id}_labels.nii.gz"
    patient: str = "id"
    where: dict[str, str] = field(default_factory=dict)

    @property
    def channel_of(self) -> dict[str, int]:
        """Structure ID to output channel."""
        return {structure.id: k for k, structure in enumerate(self.structures, 1)}

    @property
    def partner(self) -> np.ndarray:
        """Output channel of the structure on the other side, for every channel; 256 entries, identity elsewhere."""
        swap = np.arange(256, dtype=np.uint8)
        for structure in self.structures:
            if structure.partner in self.channel_of:
                swap[self.channel_of[structure.id]] = self.channel_of[structure.partner]
        return swap

    def normalized(self, image: np.ndarray) -> np.ndarray:
        """(z, y, x) intensities as stored (HU for CT) to the network's input (channels, z, y, x) float32."""
        image = image.astype(np.float32)
        return np.stack([NORMALIZATIONS[name](image) for name in self.inputs])

    def to_json(self) -> dict:
        """What a bundle must remember of its domain."""
        return {"name": self.name, "modality": self.modality, "inputs": list(self.inputs), "grid_mm": self.grid_mm,
                "labels": [_row(structure) for structure in self.structures]}  # fmt: skip

    @classmethod
    def from_json(cls, facts: dict) -> Domain:
        """The domain that a bundle remembers; it has no cases."""
        structures = tuple(_structure(row) for row in facts["labels"])
        values = {structure.value: structure.id for structure in structures}
        return cls(
            facts["name"], facts["modality"], tuple(facts["inputs"]), float(facts["grid_mm"]), structures, values
        )


def read_domain(entry: dict, beside: Path) -> Domain:
    """A domain from an entry of a training configuration.

    ``label_table`` names a CSV of Resources/Anatomy or one beside the configuration, with the columns of labels.csv;
    without it the structures are those of labels.csv. ``structures`` chooses some of them by ID.
    Raises InputError for what does not fit.
    """
    entry = dict(entry)
    own = entry.pop("label_table", None)
    chosen = entry.pop("structures", None)
    shipped = resources_dir() / "Anatomy" / f"{own}.csv"
    table = read_labels(shipped if shipped.is_file() else beside / own) if own else label_table()
    known = {structure.id: structure for structure in table}
    missing = [name for name in chosen or () if name not in known]
    if missing:
        raise InputError(f"The label table of {entry.get('name')!r} has no {', '.join(missing)}.",
                         "Use IDs of its rows.")  # fmt: skip
    structures = tuple(known[name] for name in chosen) if chosen else table
    values = entry.pop("values", None) or {structure.value: structure.id for structure in structures}
    try:
        domain = Domain(structures=structures, values=values, **entry | {"inputs": tuple(entry["inputs"])})
    except (TypeError, KeyError) as error:
        raise InputError(f"The domain {entry.get('name')!r} is not described well: {error}.",
                         "docs/domains.md shows what a domain needs.") from None  # fmt: skip
    unknown = set(domain.inputs) - set(NORMALIZATIONS)
    if unknown or (domain.modality != "CT" and set(domain.inputs) & set(HOUNSFIELD)):
        wrong = ", ".join(sorted(unknown or set(domain.inputs) & set(HOUNSFIELD)))
        raise InputError(f"The domain {domain.name!r} cannot be normalized by {wrong}.",
                         f"Inputs: {', '.join(NORMALIZATIONS)}; wide and soft need a CT.")  # fmt: skip
    return domain


def read_labels(path: Path) -> tuple[Structure, ...]:
    """A label table of one's own, in the columns of Resources/Anatomy/labels.csv. Raises InputError."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return tuple(sorted(map(_structure, csv.DictReader(file)), key=lambda structure: structure.value))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"The label table {path} cannot be read ({type(error).__name__}: {error}).",
                         "It needs the columns of Resources/Anatomy/labels.csv.") from None  # fmt: skip


def _structure(row: dict) -> Structure:
    color = tuple(int(row[channel]) / 255 for channel in ("red", "green", "blue"))
    text = {key: row[key] for key in ("id", "name", "group", "snomed_code", "snomed_meaning")}
    text |= {key: row.get(key) or "" for key in ("modifier_code", "modifier_meaning", "partner", "cleanup")}
    return Structure(value=int(row["value"]), color=color, **text)


def _row(structure: Structure) -> dict:
    color = dict(zip(("red", "green", "blue"), (round(255 * part) for part in structure.color), strict=True))
    names = ("value", "id", "name", "group", "snomed_code", "snomed_meaning", "modifier_code", "modifier_meaning",
             "partner", "cleanup")  # fmt: skip
    return {name: getattr(structure, name) for name in names} | color
