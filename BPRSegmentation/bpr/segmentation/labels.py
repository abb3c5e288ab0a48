"""The label table: one CSV that training, inference, scene and files share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from bpr.resources import read_table


@dataclass(frozen=True)
class Structure:
    """One row of ``Resources/Anatomy/labels.csv``: an anatomical structure that a network can segment."""

    value: int
    id: str
    name: str
    group: str
    snomed_code: str
    snomed_meaning: str
    modifier_code: str
    modifier_meaning: str
    color: tuple[float, float, float]  # RGB, 0..1
    partner: str  # id of the structure on the other side, or ""
    cleanup: str  # rule name, see bpr.segmentation.cleanup


@lru_cache(maxsize=1)
def label_table() -> tuple[Structure, ...]:
    """All structures, ordered by value."""
    rows = []
    for row in read_table("labels"):
        color = tuple(int(row[channel]) / 255 for channel in ("red", "green", "blue"))
        text = {key: row[key] for key in ("id", "name", "group", "snomed_code", "snomed_meaning")}
        text |= {key: row[key] for key in ("modifier_code", "modifier_meaning", "partner", "cleanup")}
        rows.append(Structure(value=int(row["value"]), color=color, **text))
    return tuple(sorted(rows, key=lambda structure: structure.value))


def structure_by_id(identifier: str) -> Structure:
    """The structure with this ID. Raises KeyError when the table has none."""
    for structure in label_table():
        if structure.id == identifier:
            return structure
    raise KeyError(identifier)


def structure_by_value(value: int) -> Structure:
    """The structure with this label value. Raises KeyError when the table has none."""
    for structure in label_table():
        if structure.value == value:
            return structure
    raise KeyError(value)


def terminology_entry(structure: Structure) -> str:
    """Slicer's serialized terminology entry (category~type~modifier and an empty anatomic region)."""
    modifier = "^^"
    if structure.modifier_code:
        modifier = f"SCT^{structure.modifier_code}^{structure.modifier_meaning}"
    return (
        "Segmentation category and type - 3D Slicer General Anatomy list"
        "~SCT^123037004^Anatomical Structure"
        f"~SCT^{structure.snomed_code}^{structure.snomed_meaning}"
        f"~{modifier}~Anatomic codes - DICOM master list~^^~^^"
    )
