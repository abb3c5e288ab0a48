"""Random bends of whole small volumes, for the studies that train on them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def bent(rng: np.random.Generator, shape: tuple[int, int, int], shift: float, scale: float) -> torch.Tensor:
    """(1, z, y, x, 3) sampling grid in -1..1: small turns, a shift (voxels), a scale (log), a smooth bend."""
    turn_z, turn_x = rng.normal(0, 0.1, 2)
    about_z = np.array([[np.cos(turn_z), -np.sin(turn_z), 0], [np.sin(turn_z), np.cos(turn_z), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(turn_x), -np.sin(turn_x)], [0, np.sin(turn_x), np.cos(turn_x)]])
    pose = torch.zeros(1, 3, 4)
    pose[0, :, :3] = torch.from_numpy(about_z @ about_x * np.exp(rng.normal(0, scale, 3)))
    pose[0, :, 3] = torch.from_numpy(rng.normal(0, 2 * shift, 3) / np.array(shape[::-1]))
    bend = torch.from_numpy(rng.normal(0, 0.03, (1, 3, 4, 4, 4))).float()
    grid = F.affine_grid(pose, [1, 1, *shape], align_corners=False)
    return grid + F.interpolate(bend, size=shape, mode="trilinear").permute(0, 2, 3, 4, 1)
