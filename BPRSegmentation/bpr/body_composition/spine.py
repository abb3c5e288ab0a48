"""The spine in two pictures: from the front and from the side, a row for each height, as a person counts vertebrae.

Both are taken along the spine's own line, so that ribs, pelvis, discs and the sacrum's angle lie at the same place in
every scan. Line and pictures are plain image analysis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from bpr.scoring.slices import AIR_HU, slice_stack

STEP_MM = 2.5
WIDTH = 112  # pixels of 3 mm
DEPTH, IN_FRONT = 64, 30  # of the side picture: pixels in all, and those in front of the spine's line
BONE_HU, BONE_WIDTH_HU = 80.0, 400.0
SOFT_HU, SOFT_WIDTH_HU = -150.0, 600.0
CHANNELS = 3
BODY_FRONT, BODY_BACK = 10, 2  # pixels in front of the line between which a vertebral body lies
MIDDLE_SD, LINE_SD = 10.0, 3.0  # pixels; rows


@dataclass(frozen=True)
class SpinePictures:
    """What is seen of a spine.

    Attributes:
        image: (3, n, 112) float32: from the front the densest bone and the amount of bone, from the side the mean
            density of 15 mm; a row for each height from the lowest up, pixels of 3 mm.
        z_mm: (n,) RAS superior heights, growing by 2.5 mm.
        density: (n,) mean HU in the middle of the vertebral bodies and discs.
    """

    image: np.ndarray
    z_mm: np.ndarray
    density: np.ndarray


def spine_pictures(image: sitk.Image, quarter_turns: int = 0) -> SpinePictures:
    """Draw the pictures of a CT (HU, any orientation).

    Args:
        quarter_turns: after which the patient lies face up, see bpr.scoring.inference.posture.
    """
    stack = slice_stack(image, STEP_MM)
    hu = np.rot90(stack.hu, quarter_turns, (1, 2)).astype(np.float32)
    columns, rows = spine_line(hu)
    middle, depth = round(float(np.median(columns))), round(float(np.median(rows)))
    pictures = np.zeros((CHANNELS, len(hu), WIDTH), np.float32)
    density = np.zeros(len(hu), np.float32)
    margin = (WIDTH - DEPTH) // 2
    for k, one in enumerate(hu):
        row, column = round(float(rows[k])), round(float(columns[k]))
        bone = _cut(np.clip((one - BONE_HU) / BONE_WIDTH_HU, 0, 1), middle - WIDTH // 2, WIDTH, 1)
        pictures[0, k] = bone[max(0, row - 8) :].max(0)
        pictures[1, k] = np.minimum(bone[max(0, row - 12) :].sum(0) / 12, 1.5)
        band = one[:, max(0, column - 2) : column + 3].mean(1)
        soft = np.clip((band - SOFT_HU) / SOFT_WIDTH_HU, 0, 1)
        pictures[2, k, margin : margin + DEPTH] = _cut(soft, depth - IN_FRONT, DEPTH, 0)
        density[k] = np.clip(band, -150, 450)[max(0, row - BODY_FRONT) : max(1, row - BODY_BACK)].mean()
    return SpinePictures(pictures, stack.z_mm, density)


def spine_line(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row (pixels, one of each per slice) of a smooth line along the spine's densest part.

    Args:
        hu: (n, y, x), rows anterior to posterior, -1000 outside of the body.
    """
    body = hu > AIR_HU + 100
    bone = np.clip((hu - 130) / 400, 0, 1)
    y, x = np.arange(hu.shape[1]), np.arange(hu.shape[2])
    area = body.sum((1, 2)) + 1e-6
    center_y, center_x = (body.sum(2) * y).sum(1) / area, (body.sum(1) * x).sum(1) / area
    behind = y[None] > (center_y - 4)[:, None]
    across = ndimage.gaussian_filter((bone * behind[:, :, None]).sum(1), 3)
    away = ((x[None] - center_x[:, None]) / MIDDLE_SD) ** 2 / 2
    columns = ndimage.gaussian_filter1d(_cheapest_path(away - 8 * across / (across.max() + 1e-6)), LINE_SD)
    near = [slice(max(0, round(float(c)) - 6), round(float(c)) + 7) for c in columns]
    along = np.stack([one[:, part].sum(1) for one, part in zip(bone, near, strict=True)])
    along = ndimage.gaussian_filter(along, (3, 4))
    rows = ndimage.gaussian_filter1d(_cheapest_path(50.0 * ~behind - 8 * along / (along.max() + 1e-6)), LINE_SD)
    return columns, rows


def _cheapest_path(cost: np.ndarray) -> np.ndarray:
    """(n,) the column of each row on the path of the lowest cost that moves by at most one column a row."""
    total, back = cost.astype(float).copy(), np.zeros(cost.shape, int)
    for k in range(1, len(cost)):
        before = np.pad(total[k - 1], 1, constant_values=np.inf)
        options = np.stack([before[:-2] + 0.5, before[1:-1], before[2:] + 0.5])
        back[k] = options.argmin(0) - 1
        total[k] += options.min(0)
    path = [int(total[-1].argmin())]
    for k in range(len(cost) - 1, 0, -1):
        path.append(path[-1] + back[k, path[-1]])
    return np.array(path[::-1], float)


def _cut(array: np.ndarray, start: int, size: int, axis: int) -> np.ndarray:
    """``size`` entries of an axis from ``start`` on, zeros beyond the array."""
    low, high = max(start, 0), max(min(start + size, array.shape[axis]), max(start, 0))
    part = np.take(array, range(low, high), axis)
    width = [(0, 0)] * array.ndim
    width[axis] = (low - start, size - (low - start) - (high - low))
    return np.pad(part, width)
