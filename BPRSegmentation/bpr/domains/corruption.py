"""Label maps as no person has them: a structure missing, sides swapped, a structure shifted, or leaked out."""

from __future__ import annotations

import numpy as np

from bpr.training.cases import OUTSIDE

KINDS = ("missing", "swapped", "shifted", "leaked")


def corrupted(
    labels: np.ndarray, partner: np.ndarray, rng: np.random.Generator, kind: str = ""
) -> tuple[np.ndarray, str]:
    """A corrupted copy of (z, y, x) output channels, and which kind it is; unchanged ("") when nothing is there.

    Args:
        partner: output channel of the other side for every channel; without a pair any two structures are swapped.
        kind: one of KINDS; drawn when empty.
    """
    present = [v for v, n in enumerate(np.bincount(labels.ravel())) if v not in (0, OUTSIDE) and n >= 8]
    kind = kind or KINDS[rng.integers(len(KINDS))]
    if not present or (kind == "swapped" and len(present) < 2):
        return labels, ""
    value = present[rng.integers(len(present))]
    changed = labels.copy()
    if kind == "missing":
        changed[labels == value] = 0
    elif kind == "swapped":
        _swap(changed, labels, present, partner, rng)
    elif kind == "shifted":
        _shift(changed, labels, value, rng)
    else:
        _leak(changed, labels, value, rng)
    return changed, kind


def _swap(changed: np.ndarray, labels: np.ndarray, present: list[int], partner: np.ndarray, rng) -> None:
    """Exchange all pairs of sides, or any two structures where there is no pair."""
    pairs = [(v, int(partner[v])) for v in present if v < partner[v] and int(partner[v]) in present]
    for a, b in pairs or [tuple(rng.choice(present, 2, replace=False))]:
        changed[labels == a], changed[labels == b] = b, a


def _shift(changed: np.ndarray, labels: np.ndarray, value: int, rng) -> None:
    """Move a structure by half to all of its extent along each of one to three axes."""
    mask = labels == value
    voxels = np.argwhere(mask)
    extent = np.ptp(voxels, axis=0) + 1
    moved = rng.permutation([True, rng.random() < 0.5, rng.random() < 0.5])
    shift = np.round(extent * rng.uniform(0.5, 1.0, 3)) * rng.choice([-1, 1], 3) * moved
    there = voxels + shift.astype(int)
    there = tuple(there[((there >= 0) & (there < labels.shape)).all(1)].T)
    changed[mask] = 0
    changed[there] = np.where(labels[there] == OUTSIDE, OUTSIDE, value)


def _leak(changed: np.ndarray, labels: np.ndarray, value: int, rng) -> None:
    """Grow a lump of half to twice the structure's volume out of one of its voxels into what is around."""
    mask = labels == value
    z, y, x = np.argwhere(mask)[rng.integers(mask.sum())]
    axes = np.ogrid[tuple(slice(0, n) for n in labels.shape)]
    radii = rng.uniform(0.7, 1.4, 3)
    distance = sum(((axis - at) / r) ** 2 for axis, at, r in zip(axes, (z, y, x), radii, strict=True))
    free = (labels == 0) | ((labels != OUTSIDE) & ~mask)
    count = int(mask.sum() * rng.uniform(0.5, 2.0))
    near = distance[free]
    if len(near):
        last = min(count, len(near) - 1)
        changed[free & (distance <= np.partition(near, last)[last])] = value
