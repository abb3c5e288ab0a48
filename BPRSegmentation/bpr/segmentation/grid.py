"""The networks' grid and input, shared by training and inference: isotropic voxels, two intensity channels."""

from __future__ import annotations

import numpy as np

GRID_MM = 4.0
CHANNELS = 2
LEVELS = 4  # poolings; every patch edge is a multiple of 2**LEVELS


def network_channels(hu: np.ndarray) -> np.ndarray:
    """(z, y, x) HU to (2, z, y, x) float32: a wide window (HU / 500 in +-2) and a soft-tissue window (40 +- 200)."""
    hu = hu.astype(np.float32)
    return np.stack([np.clip(hu / 500, -2, 2), np.clip((hu - 40) / 200, -1, 1)])
