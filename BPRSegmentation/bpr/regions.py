"""Body regions as score intervals, and their crops of a volume on the volume's own grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from bpr.errors import InputError
from bpr.models import Bundle
from bpr.resources import read_table
from bpr.results.summary import RegionFound
from bpr.scoring.curve import ScoreCurve
from bpr.segmentation.labels import structure_by_id
from bpr.volume import Volume, slice_axis

LEAST_SHARE = 0.15  # a region counts as held when the scan covers this share of its core
LEAST_MM = 20.0
ORGAN_MARGIN_MM = 15.0  # the typical error of a landmark's height


@dataclass(frozen=True)
class Region:
    """One row of ``Resources/Anatomy/regions.csv``.

    The core lies between two landmarks; (low_score, high_score) is the interval fitted on training cases so that it
    holds all of the region's own organs, with a margin.
    """

    name: str
    core_low: str
    core_high: str
    low_score: float
    high_score: float

    def core_heights(self, curve: ScoreCurve) -> np.ndarray:
        """RAS heights (low, high) in mm of the core's two landmarks in this patient."""
        height = {mark.name: mark.z_mm for mark in curve.landmarks}
        return np.array([height[self.core_low], height[self.core_high]])

    def heights(self, curve: ScoreCurve, margin_mm: float = 0.0) -> np.ndarray:
        """RAS heights (low, high) in mm of the crop: the score interval, widened where an organ of its own lies beyond.

        Organs follow the ruler of bones loosely; where the slices themselves put the core's organ outside of the
        interval, the region reaches to it and ``ORGAN_MARGIN_MM`` further.
        """
        low, high = curve.height_of(np.array([self.low_score, self.high_score]))
        core = self.core_heights(curve)
        return np.array(
            [min(low, core[0] - ORGAN_MARGIN_MM) - margin_mm, max(high, core[1] + ORGAN_MARGIN_MM) + margin_mm]
        )


def region_table() -> list[Region]:
    """All regions, from the head down."""
    return [
        Region(row["region"], row["core_low"], row["core_high"], float(row["low_score"]), float(row["high_score"]))
        for row in read_table("regions")
    ]


def network_windows(
    networks: list[Bundle], curve: ScoreCurve, names: list[str] | None = None, margin_mm: float = 0.0
) -> dict[Bundle, tuple[float, float]]:
    """Region networks to the RAS heights (low, high) in mm that each shall see: the span of its regions.

    Args:
        names: the regions that are asked for and that the scan holds, all when None. Networks of other regions are
            left out: at the edge of a scan that ends before its region a network finds what is not there.
    """
    chosen = {region.name: region for region in select_regions(names)}
    windows = {}
    for network in networks:
        ends = [chosen[name].heights(curve, margin_mm) for name in network.regions if name in chosen]
        if ends:
            windows[network] = (float(np.min(ends)), float(np.max(ends)))
    return windows


def structure_heights(curve: ScoreCurve) -> dict[int, tuple[float, float]]:
    """Label value to the RAS heights (low, high) in mm outside of which the structure cannot lie in this patient.

    From ``Resources/Anatomy/extents.csv``, fitted on training cases with a wide margin.
    """
    rows = read_table("extents")
    scores = np.array([[float(row["low_score"]), float(row["high_score"])] for row in rows])
    heights = curve.height_of(scores)
    return {structure_by_id(row["structure"]).value: tuple(ends) for row, ends in zip(rows, heights, strict=True)}


def region_members(region: str) -> list[str]:
    """IDs of the structures that the region's network tells apart."""
    return [row["structure"] for row in read_table("membership") if row["region"] == region]


def select_regions(names: list[str] | None) -> list[Region]:
    """The regions of these names, all when None. Raises InputError for a name that the table does not have."""
    table = region_table()
    if names is None:
        return table
    known = {region.name for region in table}
    for name in names:
        if name not in known:
            raise InputError(f"There is no region {name!r}.", f"Regions: {', '.join(r.name for r in table)}.")
    return [region for region in table if region.name in names]


def find_regions(
    volume: Volume, curve: ScoreCurve, names: list[str] | None = None, margin_mm: float = 0.0
) -> list[RegionFound]:
    """The regions that the scan holds, with the crop of each, longer by a margin at both ends, in index space."""
    low_mm, high_mm = curve.z_mm.min(), curve.z_mm.max()
    found = []
    for region in select_regions(names):
        core = region.core_heights(curve)
        covered = min(core[1], high_mm) - max(core[0], low_mm)
        share = covered / (core[1] - core[0])
        if share < LEAST_SHARE or covered < min(LEAST_MM, 0.5 * (core[1] - core[0])):
            continue
        z_range = region.heights(curve, margin_mm)
        start, size = _crop(volume.image, curve, z_range)
        score_range = (region.low_score, region.high_score)
        bounds = (float(max(z_range[0], low_mm)), float(min(z_range[1], high_mm)))
        found.append(RegionFound(region.name, score_range, bounds, float(min(share, 1.0)), start, size))
    return found


def _crop(image: sitk.Image, curve: ScoreCurve, z_range: np.ndarray):
    """First index and size of the slices inside the interval, all of the other two axes."""
    inside = np.flatnonzero((curve.z_mm >= z_range[0]) & (curve.z_mm <= z_range[1]))
    axis = slice_axis(image)
    start, size = [0, 0, 0], list(image.GetSize())
    start[axis], size[axis] = int(inside.min()), int(inside.max() - inside.min() + 1)
    return tuple(start), tuple(size)


def crop_volume(volume: Volume, region: RegionFound) -> sitk.Image:
    """The region's part of the volume on the volume's own grid (no resampling)."""
    return sitk.RegionOfInterest(volume.image, list(region.size), list(region.start))


def with_file(region: RegionFound, file: str) -> RegionFound:
    """The same region with the name of its written crop."""
    return replace(region, file=file)
