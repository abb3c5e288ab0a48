"""The tissues, what defines them in HU, and the grid that the network sees.

The network tells compartments apart (where muscle, subcutaneous and visceral fat may be); the tissue within each is
what the literature's HU rule says: muscle -29 to 150, fat -190 to -30 (Mitsiopoulos et al., J Appl Physiol 1998).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bpr.segmentation.labels import Structure, terminology_entry

ROLE = "body_composition"  # of the bundle
MUSCLE_HU, FAT_HU = (-29, 150), (-190, -30)
PIXEL_MM = 2.0
INPUT_SHAPE = (192, 256)  # rows (anterior to posterior) and columns (right to left) of the network's input
CHANNELS = 4
COMPARTMENTS = ("elsewhere", "muscle", "subcutaneous", "visceral", "bone")


@dataclass(frozen=True)
class Tissue:
    """A tissue: label value, stable ID, name, compartment, HU range (inclusive), color (RGB 0..255), SNOMED CT term."""

    value: int
    id: str
    name: str
    compartment: str
    hu: tuple[int, int]
    color: tuple[int, int, int]
    snomed_code: str
    snomed_meaning: str


TISSUES = (
    Tissue(1, "skeletal_muscle", "skeletal muscle", "muscle", MUSCLE_HU, (192, 82, 72), "127954009", "Skeletal muscle"),
    Tissue(2, "subcutaneous_fat", "subcutaneous fat", "subcutaneous", FAT_HU, (240, 200, 90), "67769001",
           "Subcutaneous fatty tissue"),
    Tissue(3, "visceral_fat", "visceral fat", "visceral", FAT_HU, (86, 160, 210), "725274000", "Visceral fat"),
    Tissue(4, "intermuscular_fat", "intermuscular fat", "muscle", FAT_HU, (120, 190, 110), "55603005",
           "Adipose tissue"),
)  # fmt: skip
OPENED, OPEN_MM, OPEN_UP_TO_MM = ("skeletal_muscle", "subcutaneous_fat"), 4.0, 2.5
BONE = 5  # the vertebra in the training labels; it is told apart so that its marrow is no muscle
# What a person can draw on a slice, as a label table of its own: the tissues, and the vertebra.
DRAWN = (
    *(Structure(t.value, t.id, t.name, "tissue", t.snomed_code, t.snomed_meaning, "", "",
                tuple(channel / 255 for channel in t.color), "", "") for t in TISSUES),
    Structure(BONE, "vertebra", "vertebra", "skeleton", "51282000", "Vertebra", "", "", (0.95, 0.84, 0.57), "", ""),
)  # fmt: skip
COMPARTMENT_OF = {tissue.value: tissue.compartment for tissue in TISSUES} | {BONE: "bone"}


def network_channels(hu: np.ndarray) -> np.ndarray:
    """(y, x) HU to (4, y, x) float32: windows for fat, muscle, soft tissue and everything, each within -1.5..1.5."""
    hu = np.asarray(hu, np.float32)
    windows = ((-110.0, 80.0), (60.0, 90.0), (0.0, 200.0), (200.0, 800.0))  # center, half width
    return np.stack([np.clip((hu - center) / half, -1.5, 1.5) for center, half in windows])


def tissue_labels(compartment: np.ndarray, hu: np.ndarray, spacing: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 labels of the tissues from compartment numbers and HU of the same shape.

    With ``spacing`` (y, x in mm) muscle and subcutaneous fat lose what is thinner than 4 mm, as in the labels that the
    network learned from: partial volume at the skin and along fasciae. Pixels over 2.5 mm are too coarse for that.
    """
    labels = np.zeros(compartment.shape, np.uint8)
    rounded = np.rint(hu)
    for tissue in TISSUES:
        low, high = tissue.hu
        inside = compartment == COMPARTMENTS.index(tissue.compartment)
        inside &= (rounded >= low) & (rounded <= high)
        if spacing and tissue.id in OPENED and max(spacing) <= OPEN_UP_TO_MM:
            square = np.ones([max(1, round(OPEN_MM / mm)) for mm in spacing], bool)
            inside = ndimage.binary_opening(inside, square)
        labels[inside] = tissue.value
    return labels


def terminology(structure: Structure) -> str:
    """Slicer's serialized terminology entry; tissues have a category of their own."""
    entry = terminology_entry(structure)
    anatomy, tissue = "SCT^123037004^Anatomical Structure", "SCT^85756007^Tissue"
    return entry.replace(anatomy, tissue) if structure.group == "tissue" else entry
