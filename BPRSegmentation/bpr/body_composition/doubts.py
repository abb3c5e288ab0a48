"""What makes a measurement doubtful: said in the result, because the numbers alone would not show it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bpr.body_composition.level import Level
from bpr.body_composition.slices import AxialSlice, body_of
from bpr.body_composition.tissues import COMPARTMENTS
from bpr.errors import Notice

METAL_HU, METAL_CM2 = 2000, 0.2
BESIDE_CM2, BORDER_MM, COARSE_MM = 5.0, 20.0, 3.0
ARM_BONE_HU, ARM_BONE_CM2, ARM_APART_MM = 250, 0.3, 12.0
CONTRAST_HU = 100
UNSURE_MM, UNSURE_MUSCLE = 15.0, 0.2
PLAUSIBLE_CM2 = (40.0, 350.0)
REMARKS = {"contrast_agent", "contrast_unknown"}  # to be known, but no reason to doubt


def level_notices(level: Level) -> list[Notice]:
    """Remarks on a level that was found badly or not at all."""
    if level.place == "outside":
        return [Notice("level_outside", f"{level.name} lies outside this scan, so nothing was measured.")]
    notices = []
    if level.place == "edge":
        notices.append(Notice("level_near_edge", f"{level.name} lies within its uncertainty of the scan's end: it may "
                              "be missing."))  # fmt: skip
    if level.sd_mm > UNSURE_MM:
        notices.append(Notice("level_uncertain", f"The height of {level.name} is uncertain by {level.sd_mm:.0f} mm: "
                              "check the slice."))  # fmt: skip
    return notices


def slice_notices(one: AxialSlice, number: np.ndarray, doubt: float, muscle_cm2: float) -> list[Notice]:
    """Remarks on one slice: metal, arms, a cropped field of view, coarse pixels, contrast, an implausible muscle."""
    body = body_of(one.hu, one.spacing[1])
    notices = []
    if (one.hu > METAL_HU).sum() * one.pixel_cm2 > METAL_CM2:
        notices.append(Notice("metal", "There is metal on the slice: its streaks change HU and areas."))
    if beside_cm2(one, body) > BESIDE_CM2:
        notices.append(Notice("arms_beside", "Arms or hands lie beside the body on the slice; they were left out."))
    elif arm_touches(one, number):
        notices.append(Notice("arms_touch", "An arm touches the body on the slice: part of it may be counted in."))
    if cropped_mm(one, body) > BORDER_MM:
        notices.append(Notice("fov_cropped", "The field of view cuts the body: fat and muscle are larger than stated."))
    if max(one.spacing) > COARSE_MM:
        notices.append(Notice("coarse_pixels", f"Pixels of {max(one.spacing):.1f} mm lose thin muscles."))
    if doubt > UNSURE_MUSCLE or not PLAUSIBLE_CM2[0] <= muscle_cm2 <= PLAUSIBLE_CM2[1]:
        notices.append(Notice("muscle_doubtful", "The network is not sure of the muscle on the slice: check contours."))
    vessels = vessel_hu(one, number)
    if vessels is not None and vessels > CONTRAST_HU:
        notices.append(Notice("contrast_agent", f"The large vessels hold contrast agent (about {vessels:.0f} HU); it "
                              "raises muscle's HU by several units."))  # fmt: skip
    elif vessels is None:
        notices.append(Notice("contrast_unknown", "Whether contrast agent was given could not be told."))
    return notices


def beside_cm2(one: AxialSlice, body: np.ndarray) -> float:
    """Area of what is as dense and as large as an arm, apart from the trunk; tables are thin or light."""
    others = (one.hu > -200) & ~ndimage.binary_dilation(body, iterations=2)
    solid = ndimage.binary_opening(others, iterations=max(1, round(6 / one.spacing[0])))
    parts, count = ndimage.label(solid)
    if not count:
        return 0.0
    bones = ndimage.maximum(one.hu, parts, range(1, count + 1))
    areas = np.bincount(parts.ravel(), minlength=count + 1)[1:] * one.pixel_cm2
    return float(areas[(np.atleast_1d(bones) > ARM_BONE_HU) | (areas > 15)].sum())


def arm_touches(one: AxialSlice, number: np.ndarray) -> bool:
    """Whether there is bone clearly outside the muscles at the sides, where the trunk has none."""
    muscle = np.flatnonzero((number == COMPARTMENTS.index("muscle")).any(0))
    if not len(muscle):
        return False
    apart = round(ARM_APART_MM / one.spacing[1])
    dense = one.hu > ARM_BONE_HU
    dense[:, max(muscle[0] - apart, 0) : muscle[-1] + apart] = False
    parts, count = ndimage.label(dense)
    return bool(count and np.bincount(parts.ravel())[1:].max() * one.pixel_cm2 > ARM_BONE_CM2)


def cropped_mm(one: AxialSlice, body: np.ndarray) -> float:
    """Length along which the body touches the image's border, or the round border of the reconstruction."""
    padding = one.hu <= min(float(one.hu.min()), -1024)
    outside = np.pad(np.zeros(body.shape, bool), 1, constant_values=True)
    # The round border: a body of soft tissue directly beside padding, without the air and skin that lie between them.
    corner = ndimage.binary_opening(padding, iterations=3) if one.hu.min() < -1100 else np.zeros(body.shape, bool)
    outside[1:-1, 1:-1] = corner
    near = ndimage.binary_dilation(outside, iterations=2)[1:-1, 1:-1]
    return float((near & body & (one.hu > -250)).sum() / 2 * np.mean(one.spacing))


def vessel_hu(one: AxialSlice, number: np.ndarray) -> float | None:
    """HU of the brightest area as large as a vessel in front of the vertebra; None when the vertebra was not found."""
    parts, count = ndimage.label(number == COMPARTMENTS.index("bone"))
    if not count:
        return None
    sizes = np.bincount(parts.ravel())
    rows, columns = np.nonzero(parts == 1 + sizes[1:].argmax())
    if sizes[1:].max() * one.pixel_cm2 < 5:
        return None
    y_mm, x_mm = one.spacing
    middle = int(np.median(columns))
    front = int(rows[np.abs(columns - middle) * x_mm < 10].min())
    box = (slice(max(0, front - round(32 / y_mm)), max(1, front - round(2 / y_mm))),
           slice(max(0, middle - round(30 / x_mm)), middle + round(30 / x_mm)))  # fmt: skip
    area = one.hu[box]
    if area.size == 0:
        return None
    smooth = ndimage.median_filter(np.minimum(area, 500), size=(max(1, round(7 / y_mm)), max(1, round(7 / x_mm))))
    return float(np.percentile(smooth, 93))
