"""The common ruler: one axis in mm on which landmarks of all annotated people lie, and dense slice targets on it.

Every annotated landmark says: offset + slope * z = position of that landmark on the ruler. Offsets and slopes of the
scans and positions of the landmarks are solved jointly by iteratively reweighted least squares (Student-t weights), so
a scan with few landmarks still helps to place them. Only training scans may be given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SLOPE_SD = 0.08  # people differ in height: standard deviation of a scan's slope around 1
PRIOR_SD_MM = {"bone": 5.0, "airway_vessel": 8.0, "organ": 20.0}
# The mandible moves with the tilt of the head (C7/T1 to mandible 70 +- 16 mm); it may not bend the ruler.
MOBILE_SD_MM = {"mandible_bottom": 14.0, "orbit_center": 9.0, "skull_top": 9.0}
ANCHOR = "t12_l1"
ANCHOR_MM = 400.0


@dataclass(frozen=True)
class Observation:
    """A landmark annotated in a scan; ``z_mm`` grows towards the head (any origin per scan)."""

    scan: str
    landmark: str
    kind: str
    z_mm: float
    uncertainty_mm: float


@dataclass(frozen=True)
class Ruler:
    """Positions (mm on the ruler) and person-to-person spread (mm) of the landmarks; line (offset, slope) per scan."""

    position: dict[str, float]
    spread: dict[str, float]
    kind: dict[str, str]
    lines: dict[str, tuple[float, float]] = field(default_factory=dict)


def solve_ruler(observations: list[Observation], iterations: int = 30) -> Ruler:
    """Joint robust solution for landmark positions and scan lines; t12_l1 is put at 400 mm."""
    scans = sorted({o.scan for o in observations})
    names = sorted({o.landmark for o in observations})
    kind = {o.landmark: o.kind for o in observations}
    scan = np.array([scans.index(o.scan) for o in observations])
    mark = np.array([names.index(o.landmark) for o in observations])
    z = np.array([o.z_mm for o in observations])
    doubt = np.array([o.uncertainty_mm for o in observations])
    center = np.array([z[scan == i].mean() for i in range(len(scans))])
    prior = np.array([MOBILE_SD_MM.get(name, PRIOR_SD_MM[kind[name]]) for name in names])
    spread, robust = prior.copy(), np.ones(len(z))
    for _ in range(iterations):
        weight = np.sqrt(robust / (spread[mark] ** 2 + doubt**2 / 2))
        offset, slope, position = _least_squares(weight, scan, mark, z - center[scan], names.index(ANCHOR))
        residual = offset[scan] + slope[scan] * (z - center[scan]) - position[mark]
        for k in range(len(names)):
            own = mark == k
            dof = max(own.sum() - 1, 0) * 0.8  # the lines have eaten part of the freedom
            spread[k] = np.sqrt((6 * prior[k] ** 2 + (robust[own] * residual[own] ** 2).sum()) / (6 + dof))
        robust = 5.0 / (4.0 + residual**2 / (spread[mark] ** 2 + doubt**2 / 2))
    shift = ANCHOR_MM - position[names.index(ANCHOR)]
    return Ruler(
        position={name: float(position[k] + shift) for k, name in enumerate(names)},
        spread={name: float(spread[k]) for k, name in enumerate(names)},
        kind=kind,
        lines={s: (float(offset[i] + shift - slope[i] * center[i]), float(slope[i])) for i, s in enumerate(scans)},
    )


def _least_squares(weight, scan, mark, z, anchor):
    """One weighted solve; unknowns are the scans' offsets and slopes and the landmarks' positions."""
    n, n_scans, n_marks = len(z), scan.max() + 1, mark.max() + 1
    rows = np.arange(n)
    matrix = np.zeros((n + n_scans + 1, 2 * n_scans + n_marks))
    target = np.zeros(len(matrix))
    matrix[rows, scan] = weight
    matrix[rows, n_scans + scan] = weight * z
    matrix[rows, 2 * n_scans + mark] = -weight
    prior = n + np.arange(n_scans)
    matrix[prior, n_scans + np.arange(n_scans)] = 1 / SLOPE_SD
    target[prior] = 1 / SLOPE_SD
    matrix[-1, 2 * n_scans + anchor] = 100.0  # fixes the free origin of the ruler
    solution = np.linalg.lstsq(matrix, target, rcond=None)[0]
    return solution[:n_scans], solution[n_scans : 2 * n_scans], solution[2 * n_scans :]


def dense_target(
    observations: list[Observation], z_mm: np.ndarray, ruler: Ruler, amplitude_mm: float = 10.0, length_mm: float = 70.0
) -> tuple[np.ndarray, np.ndarray] | None:
    """Ruler position (mm) and its standard deviation at heights ``z_mm`` of one scan.

    A Gaussian process (Matern 3/2) around the unit-slope line through the scan's landmarks. Bones define the ruler;
    organs weigh by their spread over people. None when the scan has no landmark that the ruler knows.
    """
    known = [o for o in observations if o.landmark in ruler.position]
    if not known:
        return None
    z = np.array([o.z_mm for o in known])
    y = np.array([ruler.position[o.landmark] for o in known])
    own = {"bone": 2.0, "airway_vessel": 4.0}
    strays = [MOBILE_SD_MM.get(o.landmark, own.get(o.kind, ruler.spread[o.landmark])) for o in known]
    noise = np.hypot([o.uncertainty_mm for o in known], strays)
    shift = np.median(y - z)

    def kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        d = np.sqrt(3) * np.abs(p[:, None] - q[None]) / length_mm
        line = 300.0**2 + SLOPE_SD**2 * (p[:, None] - z.mean()) * (q[None] - z.mean())
        return line + amplitude_mm**2 * (1 + d) * np.exp(-d)

    inner, cross = kernel(z, z) + np.diag(noise**2), kernel(z_mm, z)
    mean = z_mm + shift + cross @ np.linalg.solve(inner, y - z - shift)
    variance = np.diag(kernel(z_mm, z_mm)) - np.einsum("ij,ji->i", cross, np.linalg.solve(inner, cross.T))
    return mean, np.sqrt(np.maximum(variance, 1.0))


def organ_covariance(
    observations: list[Observation], ruler: Ruler, iterations: int = 40
) -> tuple[list[str], np.ndarray]:
    """How organs stray from the ruler of bones together: their names (sorted) and the covariance in mm^2.

    Expectation maximization over people who show some of the organs, shrunk towards independent spreads as if six more
    people had been seen.
    """
    organs = sorted(name for name, kind in ruler.kind.items() if kind == "organ")
    rows = []
    for scan in sorted({o.scan for o in observations}):
        own = [o for o in observations if o.scan == scan]
        bones = [o for o in own if o.kind != "organ"]
        row = np.full(len(organs), np.nan)
        for o in own if bones else ():
            if o.landmark in organs:
                place, _ = dense_target(bones, np.array([o.z_mm]), ruler)
                row[organs.index(o.landmark)] = place[0] - ruler.position[o.landmark]
        if np.isfinite(row).any():
            rows.append(row)
    prior = np.diag([ruler.spread[name] ** 2 for name in organs])
    covariance = prior
    for _ in range(iterations):
        total = 6 * prior
        for row in rows:
            seen = np.isfinite(row)
            noisy = covariance[np.ix_(seen, seen)] + 16 * np.eye(seen.sum())
            gain = covariance[:, seen] @ np.linalg.inv(noisy)
            mean = gain @ row[seen]
            total = total + np.outer(mean, mean) + covariance - gain @ covariance[seen]
        covariance = total / (len(rows) + 6)
    return organs, covariance
