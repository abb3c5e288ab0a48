"""A simulated new scanner: what another kernel, noise, calibration and contrast phase do to a CT that we have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

AIR_HU = -1000


@dataclass(frozen=True)
class Scanner:
    """Parameters of a scanner and its protocol.

    Attributes:
        kernel: sharpening (> 0: share of the detail that is added) or smoothing (< 0) at ``detail_mm``.
        noise_hu: standard deviation of the noise; ``grain_mm``: how coarse it is (sigma).
        scale, shift_hu: calibration of what is denser than air.
        cupping_hu: how much darker the middle of the body is than its skin.
        contrast: factor on the part of soft tissue above 20 HU (2: twice the enhancement, 0: native).
    """

    kernel: float = 0.0
    detail_mm: float = 2.5
    noise_hu: float = 0.0
    grain_mm: float = 2.0
    scale: float = 1.0
    shift_hu: float = 0.0
    cupping_hu: float = 0.0
    contrast: float = 1.0

    def scan(self, image: sitk.Image, seed: int) -> sitk.Image:
        """The same person in this scanner; int16 HU on the same grid."""
        rng = np.random.default_rng(seed)
        hu = sitk.GetArrayFromImage(image).astype(np.float32)
        spacing = np.array(image.GetSpacing())[::-1]
        body = hu > -900
        soft = (hu > 20) & (hu < 300)
        hu = np.where(soft, 20 + (hu - 20) * self.contrast, hu)
        detail = hu - ndimage.gaussian_filter(hu, self.detail_mm / spacing, truncate=2.5)
        hu = hu + self.kernel * detail
        hu = np.where(body, (hu - AIR_HU) * self.scale + AIR_HU + self.shift_hu, hu)
        if self.cupping_hu:
            hu = hu - self.cupping_hu * _depth(body) * body
        if self.noise_hu:
            noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, np.float32), self.grain_mm / spacing)
            hu = hu + noise * (self.noise_hu / noise.std()) * body
        result = sitk.GetImageFromArray(np.clip(np.rint(hu), -1024, 3071).astype(np.int16))
        result.CopyInformation(image)
        return result


def _depth(body: np.ndarray) -> np.ndarray:
    """0 at the edge of the field to 1 in its middle, in every slice."""
    y, x = (np.linspace(-1, 1, n) for n in body.shape[1:])
    return np.clip(1 - y[:, None] ** 2 - x[None, :] ** 2, 0, 1)[None].astype(np.float32)
