"""The person: landmark heights, proportions and the few surfaces that several organs share.

Shapes are drawn in the *reference body*: x to the left, y to the back, z to the head, millimeters, zero in the middle
of the spine between T12 and L1. A person differs from it by a scale across, a smooth monotone stretch along z (which
moves bones and everything between them) and by organ offsets (breathing, mobile kidneys, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import PchipInterpolator

REFERENCE_HEIGHT_MM = 1720.0

# Mean distance from T12/L1 in mm, over 43 annotated scans of adults, head and neck from 160 more.
BONES = {
    "ischium_bottom": -322,
    "lesser_trochanter": -315,
    "pubic_symphysis_top": -270,
    "femoral_head_center": -262,
    "acetabulum_roof": -237,
    "l5_s1": -159,
    "iliac_crest_top": -121,
    "l3_center": -79.5,
    "t12_l1": 0,
    "carina": 172,
    "aortic_arch_top": 203,
    "sternal_notch": 222,
    "lung_apex": 248,
    "c7_t1": 254,
    "mandible_bottom": 320,
    "c1_dens_tip": 373,
    "orbit_center": 404,
    "skull_top": 518,
}
# Organs move with breathing or on their own: mean height, mm.
ORGANS = {
    "kidney_bottom": -101,
    "liver_bottom": -50,
    "kidney_top": 14,
    "lung_base": 18,
    "heart_bottom": 69,
    "spleen_top": 69,
    "right_dome": 99,
}
LOWEST, HIGHEST = -400.0, 528.0  # mid thigh, above the vertex; reference z


def profile(*nodes: tuple[float, ...]) -> Callable[[np.ndarray | float], np.ndarray]:
    """Curve through rows ``(z, value...)``: a function from z (n,) to values (n, k), constant beyond its ends."""
    table = np.array(sorted(nodes), float)
    curve = PchipInterpolator(table[:, 0], table[:, 1:], axis=0)
    return lambda z: curve(np.clip(np.atleast_1d(z), table[0, 0], table[-1, 0]))


# Middle of the vertebral bodies: y (towards the back) by z: lordosis, kyphosis, lordosis.
SPINE_Y = profile(
    (-270, 46),
    (-235, 56),
    (-200, 40),
    (-159, 4),
    (-120, -10),
    (-80, -14),
    (-40, -8),
    (0, 0),
    (50, 12),
    (100, 22),
    (150, 25),
    (200, 18),
    (254, 0),
    (300, -10),
    (340, -10),
    (373, -8),
)
# Skin of the trunk: half width, front y, back y.
TRUNK = profile(
    (-345, 170, -95, 88),
    (-322, 176, -104, 96),
    (-280, 177, -112, 104),
    (-240, 172, -116, 106),
    (-200, 165, -122, 98),
    (-150, 156, -130, 80),
    (-100, 148, -136, 70),
    (-50, 146, -140, 74),
    (0, 148, -142, 82),
    (50, 151, -142, 92),
    (100, 154, -138, 100),
    (150, 158, -130, 101),
    (190, 166, -114, 96),
    (215, 172, -98, 90),
    (235, 158, -82, 82),
    (250, 118, -70, 74),
    (265, 84, -66, 66),
    (285, 66, -68, 58),
    (310, 60, -70, 56),
    (335, 60, -70, 62),
    (372, 62, -60, 70),
)
# Inner side of the ribs: half width, front y, back y.
CAGE = profile(
    (-20, 128, -108, 40),
    (20, 130, -112, 48),
    (60, 131, -114, 60),
    (100, 129, -112, 70),
    (140, 124, -104, 72),
    (180, 112, -90, 66),
    (210, 92, -74, 54),
    (230, 72, -56, 44),
    (245, 50, -38, 32),
    (256, 30, -24, 18),
)
# Subcutaneous fat, mm.
FAT = profile((-400, 14), (-300, 24), (-200, 22), (-100, 17), (0, 12), (100, 9), (200, 8), (260, 6), (330, 4), (520, 3))


@dataclass(frozen=True)
class BodyPlan:
    """One person.

    Attributes:
        bones: reference height of landmark -> mm (the same in every person; the stretch moves them).
        organs: reference height of the organ landmarks after this person's offsets.
        across: scale of x and y.
        stretch: person's z (mm from T12/L1) at the knots of the reference z.
        fat: factor on the subcutaneous fat.
        contrast: 0 native .. 1 full portal-venous and arterial enhancement.
        arms: "up", "down" or "none".
        rng: source of the shapes that have no landmark (bowel, vessels, lumps).
    """

    bones: dict[str, float]
    organs: dict[str, float]
    across: float
    knots: np.ndarray
    stretched: np.ndarray
    fat: float
    contrast: float
    arms: str
    rng: np.random.Generator = field(repr=False)

    def to_person(self, z_reference: float | np.ndarray) -> np.ndarray:
        """Reference z -> this person's z in mm, both from T12/L1."""
        return _beyond(PchipInterpolator(self.knots, self.stretched), self.knots, self.stretched, z_reference)

    def to_reference(self, z_person: float | np.ndarray) -> np.ndarray:
        """This person's z in mm -> reference z, found on a fine table of the forward map."""
        fine = np.linspace(LOWEST - 200, HIGHEST + 200, 6000)
        return np.interp(z_person, self.to_person(fine), fine)

    def at(self, landmark: str) -> float:
        """Reference height of a landmark in this person's drawing."""
        return self.organs[landmark] if landmark in self.organs else self.bones[landmark]

    def landmarks(self) -> dict[str, float]:
        """All landmarks, mm above T12/L1 in this person."""
        return {name: float(self.to_person(z)) for name, z in {**self.bones, **self.organs}.items()}

    def diaphragm(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Reference height of the diaphragm at (x, y): two domes, the heart's bed between, a deep recess behind."""
        base, dome = self.organs["lung_base"] - 1.0, self.organs["right_dome"]
        floor = base + 0.30 * np.maximum(0.0, 34.0 - y)
        height = floor
        for center_x, top in ((-68.0, dome), (72.0, dome - 12.0)):
            rho = ((x - center_x) / 66.0) ** 2 + ((y + 44.0) / 84.0) ** 2
            height = np.maximum(height, floor + (top - floor) * np.clip(1.05 - rho**1.3, 0.0, 1.0))
        bed = ((x - 12.0) / 78.0) ** 2 + ((y + 62.0) / 58.0) ** 2
        saddle = self.organs["heart_bottom"] - 2.0
        return np.maximum(height, floor + np.maximum(0.0, saddle - floor) * np.clip(1.25 - bed**1.5, 0.0, 1.0))


def make_plan(height_mm: float | None, arms: str, contrast: float, seed: int) -> BodyPlan:
    """Draw a person; the same arguments give the same one. ``height_mm`` None draws the height too."""
    rng = np.random.default_rng([seed, 20])
    drawn = 0.0 if seed == 0 else 1.0  # seed 0 is the mean body
    height = REFERENCE_HEIGHT_MM + drawn * rng.normal(0, 75) if height_mm is None else height_mm
    scale = height / REFERENCE_HEIGHT_MM
    bones = {name: float(z) for name, z in BONES.items()}
    lift, sag = drawn * np.clip(rng.normal(0, 10, 2), -18, 18)
    moves = {name: drawn * float(np.clip(rng.normal(0, 6), -12, 12)) for name in ORGANS}
    follow = {"right_dome": lift, "lung_base": lift, "heart_bottom": lift, "spleen_top": 0.8 * lift}
    organs = {name: z + moves[name] + follow.get(name, 0.5 * lift + 0.5 * sag) for name, z in ORGANS.items()}
    organs["right_dome"] = max(organs["right_dome"], organs["heart_bottom"] + 8, organs["lung_base"] + 55)
    knots, stretched = _stretch(rng, scale, drawn)
    across = scale * (1 + drawn * float(np.clip(rng.normal(0, 0.05), -0.1, 0.1)))
    fat = float(np.exp(drawn * np.clip(rng.normal(0, 0.3), -0.6, 0.5)))
    return BodyPlan(bones, organs, across, knots, stretched, fat, contrast, arms, np.random.default_rng([seed, 21]))


def _stretch(rng: np.random.Generator, scale: float, drawn: float) -> tuple[np.ndarray, np.ndarray]:
    """Knots of the reference z and where this person has them: slopes within 7 % of the scale, so always monotone."""
    names = ("ischium_bottom", "l5_s1", "t12_l1", "carina", "c7_t1", "c1_dens_tip", "skull_top")
    knots = np.array([BONES[name] for name in names], float)
    gaps = np.diff(knots) * scale * (1 + drawn * np.clip(rng.normal(0, 0.035, len(knots) - 1), -0.07, 0.07))
    stretched = np.concatenate([[0.0], np.cumsum(gaps)])
    return knots, stretched - stretched[names.index("t12_l1")]


def _beyond(curve: PchipInterpolator, knots: np.ndarray, values: np.ndarray, z: float | np.ndarray) -> np.ndarray:
    """``curve`` inside the knots, a straight continuation with the mean slope outside."""
    z = np.asarray(z, float)
    slope = (values[-1] - values[0]) / (knots[-1] - knots[0])
    return curve(np.clip(z, knots[0], knots[-1])) + slope * (z - np.clip(z, knots[0], knots[-1]))
