"""Painting analytic shapes into a CT and its label map, each only inside its own bounding box."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator

Box = tuple[slice, slice, slice]


class Canvas:
    """HU and labels on a grid whose axes carry reference-body coordinates (mm, see ``plan``).

    Attributes:
        x, y, z: (nx,), (ny,), (nz,) coordinates of the voxel centers, growing.
        hu: float32 (nz, ny, nx).
        labels: uint8 (nz, ny, nx).
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray):
        self.x, self.y, self.z = (np.asarray(axis, np.float32) for axis in (x, y, z))
        shape = (len(z), len(y), len(x))
        self.hu = np.full(shape, -1000, np.float32)
        self.labels = np.zeros(shape, np.uint8)

    def box(self, low: Sequence[float], high: Sequence[float]) -> Box | None:
        """Index ranges (z, y, x) of the voxels between two corners (x, y, z); None when there are none."""
        ranges = []
        for axis, start, end in zip((self.z, self.y, self.x), reversed(low), reversed(high), strict=True):
            first, last = np.searchsorted(axis, [start, end])
            last = min(last + 1, len(axis))
            if first >= last:
                return None
            ranges.append(slice(int(first), int(last)))
        return tuple(ranges)

    def mesh(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates x (1,1,nx), y (1,ny,1), z (nz,1,1) inside a box, ready to broadcast."""
        return self.x[None, None, box[2]], self.y[None, box[1], None], self.z[box[0], None, None]

    def paint(self, box: Box, mask: np.ndarray, hu: float | np.ndarray, label: int | None = 0) -> None:
        """Set HU and label where ``mask``; ``label`` None leaves the labels alone (vessels inside a lung)."""
        if np.ndim(hu):
            hu = np.broadcast_to(hu, mask.shape)[mask]
        self.hu[box][mask] = hu
        if label is not None:
            self.labels[box][mask] = label

    def where(
        self,
        low: Sequence[float],
        high: Sequence[float],
        inside: Callable,
        hu: float,
        label: int | None = 0,
        spare: int = 0,
    ) -> None:
        """Paint where ``inside(x, y, z)`` is true between two corners (x, y, z), sparing the label ``spare``."""
        box = self.box(low, high)
        if box is not None:
            mask = np.broadcast_to(inside(*self.mesh(box)), tuple(part.stop - part.start for part in box))
            if spare:
                mask = mask & (self.labels[box] != spare)
            self.paint(box, mask, hu, label)

    def ellipsoid(
        self,
        center: Sequence[float],
        radii: Sequence[float],
        hu: float,
        label: int | None = 0,
        shear: tuple[float, float] = (0.0, 0.0),
        lumps: float = 0.0,
        phase: float = 0.0,
    ) -> None:
        """Ellipsoid whose poles in z lie exactly at ``center[2] +- radii[2]``.

        ``shear`` is the shift of x and y per mm of z; ``lumps`` (0..0.4) modulates the width smoothly, with ``phase``.
        """
        reach = [
            radii[0] * (1 + lumps) + abs(shear[0]) * radii[2],
            radii[1] * (1 + lumps) + abs(shear[1]) * radii[2],
            radii[2],
        ]
        low, high = np.subtract(center, reach), np.add(center, reach)

        def inside(x, y, z):
            dz = z - center[2]
            dx, dy = (x - center[0] - shear[0] * dz) / radii[0], (y - center[1] - shear[1] * dz) / radii[1]
            width = dx**2 + dy**2
            if lumps:
                wave = np.sin(2.3 * dx + phase) * np.sin(2.9 * dy + 2 * phase) + np.sin(
                    3.1 * dz / radii[2] + dx + phase
                )
                width = width * (1 + lumps * wave)
            return width + (dz / radii[2]) ** 2 <= 1

        self.where(low, high, inside, hu, label)

    def column(
        self,
        span: tuple[float, float],
        axis: Callable,
        hu: float,
        label: int | None = 0,
        power: float = 2.0,
        grow: float = 0.0,
    ) -> None:
        """Superellipse of this ``power`` swept along z over ``span``.

        ``axis(z)`` gives center x, y and radii x, y (n, 4) at heights (n,); ``grow`` mm widens all radii.
        """
        rows = (self.z >= span[0]) & (self.z <= span[1])
        if not rows.any():
            return
        first, last = np.flatnonzero(rows)[[0, -1]]
        cx, cy, rx, ry = np.asarray(axis(self.z[first : last + 1]), np.float32).T
        rx, ry = np.maximum(rx + grow, 0.1), np.maximum(ry + grow, 0.1)
        low = ((cx - rx).min(), (cy - ry).min(), span[0])
        high = ((cx + rx).max(), (cy + ry).max(), span[1])
        box = self.box(low, high)
        if box is None:
            return
        box = (slice(int(first), int(last) + 1), *box[1:])
        x, y, _ = self.mesh(box)
        dx, dy = (x - cx[:, None, None]) / rx[:, None, None], (y - cy[:, None, None]) / ry[:, None, None]
        mask = np.abs(dx) ** power + np.abs(dy) ** power <= 1
        self.paint(box, mask, hu, label)

    def tube(
        self, points: np.ndarray, radii: float | np.ndarray, hu: float | np.ndarray, label: int | None = 0
    ) -> None:
        """Chain of capsules through ``points`` (n, 3 as x, y, z); radius and HU for each point or one for all."""
        points = np.asarray(points, float)
        radii = np.broadcast_to(np.asarray(radii, float), len(points))
        hus = np.broadcast_to(np.asarray(hu, float), len(points))
        for i in range(len(points) - 1):
            self._capsule(points[i], points[i + 1], radii[i], radii[i + 1], float(hus[i]), label)

    def _capsule(self, a: np.ndarray, b: np.ndarray, ra: float, rb: float, hu: float, label: int | None) -> None:
        reach = max(ra, rb)
        along = b - a
        length2 = max(float(along @ along), 1e-6)

        def inside(x, y, z):
            t = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1] + (z - a[2]) * along[2]) / length2, 0, 1)
            distance2 = (x - a[0] - t * along[0]) ** 2 + (y - a[1] - t * along[1]) ** 2 + (z - a[2] - t * along[2]) ** 2
            return distance2 <= (ra + t * (rb - ra)) ** 2

        self.where(np.minimum(a, b) - reach, np.maximum(a, b) + reach, inside, hu, label)


def path(points: Sequence[Sequence[float]], per_span: int = 6) -> np.ndarray:
    """Smooth curve (n, 3) through points, never overshooting one in any coordinate."""
    points = np.asarray(points, float)
    at = np.arange(len(points))
    return PchipInterpolator(at, points, axis=0)(np.linspace(0, len(points) - 1, per_span * (len(points) - 1) + 1))
