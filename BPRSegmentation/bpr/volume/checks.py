"""What every format has in common: the checks a header must pass before its voxels are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psutil

from bpr.errors import InputError, MemoryShortage

FEWEST_SLICES = 3
MOST_VOXELS = 2**31
SPACING_RANGE_MM = (0.05, 30.0)
LENGTH_TOLERANCE = 0.1  # of axis directions
COPY_AGAIN = "Copy or download it again."
EXPORT_AGAIN = "Export the CT again, as DICOM, NIfTI or NRRD, and use that file."


def check_size(size: Sequence[int], bytes_per_voxel: int, name: str) -> None:
    """Refuse images that are not 3-D, hold too few slices, or do not fit.

    Args:
        size: voxels along each index axis; trailing axes of length one do not count.
        bytes_per_voxel: of the values as stored.
        name: the file, for the message.

    Raises:
        InputError: fewer or more than three dimensions, an axis shorter than three, more than 2**31 voxels.
        MemoryShortage: the values and one copy of them exceed the memory that is free.
    """
    size = list(size)
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    text = " x ".join(map(str, size))
    if len(size) < 3 or (len(size) == 3 and min(size) == 1):
        raise InputError(f"{name} is a single 2-D image ({text}).", "Choose a CT volume of at least 3 slices.")
    if len(size) > 3:
        raise InputError(
            f"{name} has {len(size)} dimensions ({text}), not three.",
            "Save one time point as a 3-D volume and use that.",
        )
    if min(size) < FEWEST_SLICES:
        raise InputError(
            f"{name} has fewer than {FEWEST_SLICES} slices ({text}).",
            "Choose the whole CT series: scores need at least 3 slices.",
        )
    voxels = int(np.prod(size, dtype=object))
    if voxels > MOST_VOXELS:
        raise InputError(f"{name} is too large ({text} voxels).", "Crop it or resample it to fewer voxels.")
    needed, free = 2 * voxels * bytes_per_voxel, psutil.virtual_memory().available
    if needed > free:
        raise MemoryShortage(
            f"{name} ({text}) needs about {needed / 2**30:.1f} GB to read, but {free / 2**30:.1f} GB are free.",
            "Close other programs, or crop or resample the scan.",
        )


def check_spacing(spacing: Sequence[float], name: str) -> None:
    """Refuse voxel sizes that are zero, negative, not a number or impossible in a patient's CT (mm)."""
    low, high = SPACING_RANGE_MM
    text = " x ".join(f"{value:.4g}" for value in spacing)
    if not all(np.isfinite(value) and value > 0 for value in spacing):
        raise InputError(f"{name} states an impossible voxel size of {text} mm.", EXPORT_AGAIN)
    if not all(low <= value <= high for value in spacing):
        raise InputError(
            f"{name} states a voxel size of {text} mm, which no CT of a person has.",
            f"Correct its spacing: {low} to {high:.0f} mm are possible.",
        )


def check_direction(direction: np.ndarray, name: str) -> None:
    """Refuse a 3x3 matrix of axis directions (columns) that is not finite, nearly singular, or not of unit length.

    MetaImage stores directions of any length; one that is not 1 stretches the volume by what its spacing does not say.
    """
    lengths = np.linalg.norm(direction, axis=0)
    if not np.isfinite(direction).all() or lengths.min() < 0.1 or abs(np.linalg.det(direction / lengths)) < 0.1:
        raise InputError(f"{name} has axis directions that do not span space (singular matrix).", EXPORT_AGAIN)
    if np.abs(lengths - 1).max() > LENGTH_TOLERANCE:
        words = ", ".join(f"{length:.4g}" for length in lengths)
        raise InputError(f"{name} has axis directions of lengths {words}, which must be 1.", EXPORT_AGAIN)


def is_whole(number: float) -> bool:
    """Whether stored values can be rescaled by it in whole numbers; damaged headers hold any number."""
    return float(number).is_integer() and abs(number) < 2**31


def plural(count: int, noun: str) -> str:
    """``1 slice``, ``2 slices``; ``series`` stays as it is."""
    return f"{count} {noun}" if count == 1 or noun.endswith("s") else f"{count} {noun}s"
