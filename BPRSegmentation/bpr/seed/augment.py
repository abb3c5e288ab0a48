"""Looks of scanners that nobody has sent yet: a model taught on few cases must not learn their scanner by heart."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bpr.training.patches import random_intensity

AIR_HU = -1024


def random_scanner(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random kernel, HU calibration and shading on top of the usual augmentation, each in part of the patches.

    hu: (z, y, x) float32 HU on the 4 mm grid; the same shape comes back.
    """
    body = hu > -900
    if rng.random() < 0.5:  # a soft kernel blurs, a sharp one lifts the edges
        soft = ndimage.gaussian_filter(hu, rng.uniform(0.3, 0.8))
        hu = soft if rng.random() < 0.5 else hu + rng.uniform(0.3, 1.0) * (hu - soft)
    if rng.random() < 0.4:
        hu = np.where(body, hu * rng.uniform(0.9, 1.1) + rng.normal(0, 25), hu)
    if rng.random() < 0.3:
        hu = hu + _shading(hu.shape, rng) * body
    return random_intensity(np.maximum(hu, AIR_HU), rng)


def _shading(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A smooth field of up to about 40 HU, as scatter and beam hardening leave."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    field = sum(rng.normal(0, 12) * axis + rng.normal(0, 12) * axis**2 for axis in axes)
    return field.astype(np.float32)
