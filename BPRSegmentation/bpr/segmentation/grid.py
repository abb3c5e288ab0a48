"""The networks' grid and input, shared by training and inference: isotropic voxels, intensity windows, body axes."""

from __future__ import annotations

import numpy as np

GRID_MM = 4.0
LEVELS = 4  # poolings; every patch edge is a multiple of 2**LEVELS
WINDOWS = ("wide", "soft")
INPUTS = (*WINDOWS, "across", "front")  # every input channel that a network may ask for
AXIS_MM = 200.0  # distance from the body's middle at which the axes' channels are 1


def network_channels(
    hu: np.ndarray, inputs: tuple[str, ...] | list[str] = WINDOWS, center: np.ndarray | None = None
) -> np.ndarray:
    """Input of a network.

    "wide" is HU / 500 in +-2, "soft" a soft-tissue window (40 +- 200 HU). "across" and "front" are the distance from
    the body's middle towards the patient's right-hand to left-hand side and from back to front, in 200 mm: they
    tell left from right where a tile shows one side only.

    Args:
        hu: (z, y, x) HU on the canonical grid of 4 mm.
        inputs: names of the channels, see INPUTS.
        center: (y, x) index of the body's middle, see ``body_center``; found in ``hu`` when None.

    Returns:
        (channels, z, y, x) float32.
    """
    hu = hu.astype(np.float32)
    if center is None and len(set(inputs) - set(WINDOWS)):
        center = body_center(hu)
    return np.stack([_channel(name, hu, center) for name in inputs])


def _channel(name: str, hu: np.ndarray, center: np.ndarray | None) -> np.ndarray:
    if name == "wide":
        return np.clip(hu / 500, -2, 2)
    if name == "soft":
        return np.clip((hu - 40) / 200, -1, 1)
    axis = {"across": 2, "front": 1}[name]
    line = ((np.arange(hu.shape[axis]) - center[axis - 1]) * (GRID_MM / AXIS_MM)).astype(np.float32)
    return np.broadcast_to(line[:, None] if axis == 1 else line, hu.shape)


def body_center(hu: np.ndarray) -> np.ndarray:
    """(y, x) index of the middle of what is denser than -300 HU, over all slices of hu (z, y, x)."""
    inside = (hu > -300).sum(0, dtype=np.float64)
    total = inside.sum()
    if total == 0:
        return (np.array(inside.shape) - 1) / 2
    return np.array([inside.sum(1) @ np.arange(inside.shape[0]), inside.sum(0) @ np.arange(inside.shape[1])]) / total
