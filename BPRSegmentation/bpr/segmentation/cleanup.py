"""Connected-component rules of the label table: what may stay of a structure, measured on the networks' grid."""

from __future__ import annotations

import re

import numpy as np
from scipy import ndimage

PARTS_RULE = re.compile(r"keep_parts_over_(\d+(?:\.\d+)?)_ml")


def kept_parts(mask: np.ndarray, rule: str, voxel_ml: float) -> np.ndarray:
    """The voxels of a boolean mask that its rule keeps.

    Rules: "largest" keeps the largest component; "keep_parts_over_N_ml" keeps every component of at least N ml and in
    any case the largest; "" keeps all.

    Raises:
        ValueError: unknown rule.
    """
    match = PARTS_RULE.fullmatch(rule)
    if rule == "" or not mask.any():
        return mask
    if rule != "largest" and not match:
        raise ValueError(f"unknown clean-up rule {rule!r} in the label table")
    parts, count = ndimage.label(mask, ndimage.generate_binary_structure(3, 1))
    if count == 1:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    keep = np.zeros(len(sizes), bool)
    keep[sizes.argmax()] = True
    if match:
        keep |= sizes * voxel_ml >= float(match.group(1))
        keep[0] = False
    return keep[parts]
