"""What can be measured of a label map: each structure's size, shape and edges, and how the structures lie together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import ndimage

from bpr.training.cases import OUTSIDE

OWN = 30  # numbers of each structure
UNIT = 50.0  # mm; distances between structures and to the scan's ends are given in it


def measured(
    labels: np.ndarray, known: np.ndarray, spacing: Sequence[float], turn: np.ndarray | None = None
) -> np.ndarray:
    """All numbers of a map, float32: OWN of each structure in turn, then four of each two structures.

    Of a structure: whether it was looked for, whether it is there, log volume, ``_spread``, ``_body``, log of surface
    against volume, shares of its surface at the scan's lower and upper end and sides, room to both ends. Of two: from
    the middle of the first to that of the second (z, y, x), and how much of the smaller surface is common.

    Args:
        labels: (z, y, x) output channels, OUTSIDE where nobody looked. known: (structures + 1,) which were looked for.
        spacing: mm along z, y, x. turn: (3, 3) by which positions are turned first, to see the same person askew.

    Returns:
        (structures * OWN + pairs * 4,); nan where a structure is missing or was not looked for.
    """
    count, mm = len(known) - 1, np.asarray(spacing, float)
    turn = np.eye(3) if turn is None else turn
    seen = np.flatnonzero((labels != OUTSIDE).any((1, 2)))
    labels, low = _about_structures(labels)
    faces = _faces(labels, count, mm)
    surface = faces[:, 1:-1].sum((0, 2)) + faces[:, :, 1:-1].sum((0, 1))
    boxes = ndimage.find_objects(np.where(labels == OUTSIDE, 0, labels), count)
    own, middle = np.full((count, OWN), np.nan), np.full((count, 3), np.nan)
    there = np.array([box is not None for box in boxes]) & known[1:]
    own[:, 0], own[known[1:], 1] = known[1:], there[known[1:]]
    for k in np.flatnonzero(there):
        mask = labels[boxes[k]] == k + 1
        voxels = np.argwhere(mask) + low + [side.start for side in boxes[k]]
        places = voxels * mm @ turn.T
        middle[k], volume = places.mean(0), len(voxels) * mm.prod()
        room = (voxels[:, 0].min() - seen[0]) * mm[0] / UNIT, (seen[-1] - voxels[:, 0].max()) * mm[0] / UNIT
        own[k, 2:] = [np.log(volume), *_spread(places - middle[k]), *_body(mask, places - middle[k], mm, volume),
                      np.log(surface[k] / volume ** (2 / 3)), *(_ends(faces, k + 1) / surface[k]),
                      *np.minimum(room, 2)]  # fmt: skip
    surface[~there] = np.nan
    return np.concatenate([own.ravel(), _pairs(middle, faces, surface)]).astype(np.float32)


def _about_structures(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map about its structures with a voxel around them, and the (z, y, x) index at which that begins."""
    there = np.argwhere((labels > 0) & (labels != OUTSIDE))
    if not len(there):
        return np.full((2, 2, 2), OUTSIDE, labels.dtype), np.zeros(3, int)
    low, high = there.min(0) - 1, there.max(0) + 2
    box = tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))
    pad = [(int(a < 0), int(b > n)) for a, b, n in zip(low, high, labels.shape, strict=True)]
    return np.pad(labels[box], pad, constant_values=OUTSIDE), low


def _faces(labels: np.ndarray, count: int, mm: np.ndarray) -> np.ndarray:
    """(3, count + 2, count + 2) mm2 of voxel faces by axis, lower and upper neighbor; the last one is OUTSIDE."""
    size = count + 2
    numbers = np.where(labels == OUTSIDE, count + 1, labels).astype(np.int64)
    tables = np.zeros((3, size, size))
    for axis in range(3):
        along = np.moveaxis(numbers, axis, 0)
        both = np.bincount((along[:-1] * size + along[1:]).ravel(), minlength=size**2).reshape(size, size)
        tables[axis] = both * (mm.prod() / mm[axis])
        np.fill_diagonal(tables[axis], 0)
    return tables


def _spread(places: np.ndarray) -> list[float]:
    """By axis from its middle: log deviation, correlations, skewness, reach to either side in deviations."""
    deviation = np.sqrt((places**2).mean(0)) + 0.5  # mm: a structure of one slice has no other
    scaled = places / deviation
    related = [(scaled[:, a] * scaled[:, b]).mean() for a, b in combinations(range(3), 2)]
    return [*np.log(deviation), *related, *(scaled**3).mean(0), *-scaled.min(0), *scaled.max(0)]


def _body(mask: np.ndarray, places: np.ndarray, mm: np.ndarray, volume: float) -> list[float]:
    """Largest and mean depth below the surface (logs), where it is deepest, the largest piece's share of it all."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=mm)[1:-1, 1:-1, 1:-1][mask]
    pieces, radius = ndimage.label(mask)[0], volume ** (1 / 3)
    share = np.bincount(pieces.ravel())[1:].max() / len(places)
    return [np.log(depth.max() / radius), np.log(depth.mean() / radius), *(places[depth.argmax()] / radius), share]


def _ends(faces: np.ndarray, channel: int) -> np.ndarray:
    """mm2 of a structure's surface at the scan's lower end, at its upper end, at its sides."""
    before, after = faces[:, -1, channel], faces[:, channel, -1]
    return np.array([before[0], after[0], before[1:].sum() + after[1:].sum()])


def _pairs(middle: np.ndarray, faces: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """(pairs * 4,) how each two structures lie and how much they touch."""
    touching = (faces + faces.swapaxes(1, 2)).sum(0)[1:-1, 1:-1]
    rows = [[*((middle[b] - middle[a]) / UNIT), touching[a, b] / min(surface[a], surface[b])]
            for a, b in combinations(range(len(middle)), 2)]  # fmt: skip
    return np.array(rows).ravel()
