"""From a volume to the slices that the score network sees: body only, centered, 3 mm pixels, 3 heights as channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from bpr.volume import canonical_array

PIXEL_MM = 3.0
FIELD_PIXELS = 160  # 480 mm: room for the widest bodies and for random shifts in training
INPUT_PIXELS = 112
INPUT_FIELD_MM = 432.0
CHANNEL_GAP_MM = 8.0
AIR_HU = -1000
HU_RANGE = (-1024, 2000)
CHUNK = 16  # slices that are made ready together: bounds the memory


@dataclass(frozen=True)
class SliceStack:
    """Slices at even heights, ready for the network.

    Attributes:
        hu: (n, 160, 160) int16 HU, rows anterior to posterior, columns patient right to left, index 0 lowest;
            everything outside the body is -1000.
        z_mm: (n,) RAS superior heights in mm, growing.
    """

    hu: np.ndarray
    z_mm: np.ndarray

    @property
    def step_mm(self) -> float:
        """Distance between neighboring slices in mm."""
        return float(self.z_mm[1] - self.z_mm[0]) if len(self.z_mm) > 1 else CHANNEL_GAP_MM


def slice_stack(image: sitk.Image, step_mm: float) -> SliceStack:
    """Resample a CT (HU, any orientation) to axial slices every ``step_mm``, drop the table, center on the body."""
    hu, origin = canonical_array(image, (PIXEL_MM, PIXEL_MM, step_mm), AIR_HU, HU_RANGE)
    heights = origin[2] + np.arange(len(hu)) * step_mm
    # The body's outline changes little over two slices: half of them are enough to find it.
    body = np.repeat(body_mask(hu[::2], PIXEL_MM, 2 * step_mm), 2, axis=0)[: len(hu)]
    hu[~body] = AIR_HU
    return SliceStack(_centered(hu, body), heights)


def body_mask(hu: np.ndarray, pixel_mm: float, step_mm: float) -> np.ndarray:
    """Boolean mask (z, y, x) of the patient: what is denser than -300 HU, without table and wires, holes filled."""
    reach = max(1, round(4 / pixel_mm))
    opened = _grown(~_grown(hu <= -300, reach, outside=True), reach)
    parts, count = ndimage.label(opened, ndimage.generate_binary_structure(3, 1))
    if count == 0:
        return np.ones(hu.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    # The table is thin: it loses most of its voxels in the opening and stays below 15 % of the body.
    keep = sizes >= 0.15 * sizes.max()
    return _fill_each_slice(_grown(keep[parts], max(1, round(3 / pixel_mm))))


def _grown(mask: np.ndarray, steps: int, outside: bool = False) -> np.ndarray:
    """The mask (z, y, x) grown in plane by so many steps up, down and sideways; ``outside`` is its value beyond."""
    for _ in range(steps):
        grown = mask.copy()
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        grown[:, :, 1:] |= mask[:, :, :-1]
        grown[:, :, :-1] |= mask[:, :, 1:]
        if outside:
            grown[:, [0, -1]] = grown[:, :, [0, -1]] = True
        mask = grown
    return mask


def _fill_each_slice(mask: np.ndarray) -> np.ndarray:
    """Fill what a slice encloses. Air that touches the image's border in-plane stays outside."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    outside, _ = ndimage.label(~padded, in_plane)
    border = np.zeros(outside.max() + 1, bool)
    border[outside[:, 0, 0]] = True
    border[0] = False
    return ~border[outside][:, 1:-1, 1:-1]


def _centered(hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Crop or pad to 160 x 160 pixels around the median body center of the slices."""
    centers = []
    for mask in body[:: max(1, len(body) // 60)]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) * len(columns) * PIXEL_MM**2 > 3000:
            centers.append(((rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2))
    center = np.median(centers, axis=0) if centers else np.array(hu.shape[1:]) / 2
    first = np.round(center - FIELD_PIXELS / 2 + 0.5).astype(int)
    out = np.full((len(hu), FIELD_PIXELS, FIELD_PIXELS), AIR_HU, np.int16)
    low, high = np.maximum(first, 0), np.minimum(first + FIELD_PIXELS, hu.shape[1:])
    to = low - first
    out[:, to[0] : to[0] + high[0] - low[0], to[1] : to[1] + high[1] - low[1]] = hu[
        :, low[0] : high[0], low[1] : high[1]
    ]
    return out


def to_network_range(hu: np.ndarray) -> np.ndarray:
    """HU to [-1, 1]: half a wide ramp (-1000..800), half a soft-tissue ramp (-160..240). For arrays and tensors."""
    return ((hu + 1000) / 1800.0).clip(0, 1) + ((hu + 160) / 400.0).clip(0, 1) - 1


def network_input(stack: SliceStack, pixels: int | None = None) -> np.ndarray:
    """(n, 3, pixels, pixels) float32: each slice between its neighbors 8 mm below and above, 432 mm field of view.

    ``pixels`` is 112 unless a study asks for less.
    """
    n, pixels = len(stack.hu), pixels or INPUT_PIXELS
    resample = _field_matrix(pixels)
    gap = max(1, round(CHANNEL_GAP_MM / stack.step_mm))
    small = np.empty((n + 2 * gap, pixels, pixels), np.float32)
    for start in range(0, n, CHUNK):
        # Outside of the field is zero then, which is air.
        values = stack.hu[start : start + CHUNK].astype(np.float32) - AIR_HU
        small[gap + start : gap + start + len(values)] = to_network_range(resample @ values @ resample.T + AIR_HU)
    small[:gap], small[-gap:] = small[gap], small[-gap - 1]
    # The three heights of a slice lie in the padded stack already: a view saves a copy of three times its size.
    step, *rest = small.strides
    shape = (n, 3, *small.shape[1:])
    return np.lib.stride_tricks.as_strided(small, shape, (step, gap * step, *rest), writeable=False)


def _field_matrix(pixels: int) -> np.ndarray:
    """(pixels, 160) linear interpolation weights from the 480 mm stack to the network's field of view; zero = air."""
    positions = (np.arange(pixels) + 0.5) * INPUT_FIELD_MM / pixels - INPUT_FIELD_MM / 2
    source = positions / PIXEL_MM + FIELD_PIXELS / 2 - 0.5
    low = np.floor(source).astype(int)
    matrix = np.zeros((pixels, FIELD_PIXELS), np.float32)
    for offset, weight in ((0, 1 - (source - low)), (1, source - low)):
        valid = (low + offset >= 0) & (low + offset < FIELD_PIXELS)
        matrix[np.flatnonzero(valid), (low + offset)[valid]] += weight[valid]
    return matrix
