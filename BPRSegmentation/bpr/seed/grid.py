"""A CT on the networks' grid, cut to the body and to the heights that a bundle's network sees."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import SimpleITK as sitk

from bpr.files import whole
from bpr.models import Bundle, choose_bundles, sha256
from bpr.resources import read_table
from bpr.segmentation.grid import GRID_MM
from bpr.segmentation.inference import LEAST_SLICES
from bpr.volume import Volume, canonical, read_volume

BODY_HU = -300  # what is denser is body (or table)


@dataclass(frozen=True)
class GridCT:
    """HU (z, y, x) int16 on the 4 mm grid along the patient's axes; ``origin`` is LPS mm of its first voxel.

    ``heights`` maps region names to (low, high) RAS mm; empty when the scan's scores cannot be trusted.
    """

    hu: np.ndarray
    origin: tuple[float, float, float]
    heights: dict[str, tuple[float, float]]

    def empty(self) -> sitk.Image:
        """An empty label image with this geometry."""
        image = sitk.Image([int(n) for n in self.hu.shape[::-1]], sitk.sitkUInt8)
        image.SetSpacing((GRID_MM,) * 3)
        image.SetOrigin(self.origin)
        return image

    def slices_of(self, bundle: Bundle) -> slice | None:
        """The slices that the bundle's network sees; None when the scan holds too few of them.

        A region's network sees its region; without trustworthy scores it sees everything, as the baseline does.
        """
        if bundle.role != "region" or not self.heights:
            return slice(0, len(self.hu))
        ends = np.array([self.heights[name] for name in bundle.regions])
        low, high = (round((mm - self.origin[2]) / GRID_MM) for mm in (ends.min(), ends.max()))
        first, last = max(low, 0), min(high + 1, len(self.hu))
        return slice(first, last) if last - first >= LEAST_SLICES else None


def grid_ct(path: Path, cache: Path, need_heights: bool) -> GridCT:
    """Resample a stored CT and find its regions' heights; both are kept in ``cache`` under the file's SHA-256, heights
    also under what made them.

    Raises:
        InputError: the file is no CT (any more).
    """
    stored = cache / f"{sha256(path)}{_rule() if need_heights else ''}.npz"
    found = _load(stored)
    if found is None or (need_heights and "heights" not in found):
        found = measured(read_volume(path), need_heights)
        cache.mkdir(parents=True, exist_ok=True)
        arrays = {"hu": found["hu"], "origin": found["origin"]}
        if need_heights:
            arrays["heights"] = np.array(json.dumps(found["heights"]))
        with whole(stored) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)
    heights = {name: tuple(pair) for name, pair in found.get("heights", {}).items()}
    return GridCT(found["hu"], tuple(map(float, found["origin"])), heights)


def _rule() -> str:
    """What the heights depend on beside the scan: the score bundle and the regions' intervals, as a short digest."""
    bundle = choose_bundles([])["score"]
    facts = [bundle.name, bundle.version, sha256(bundle.weights), read_table("regions")]
    return "_" + hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _load(path: Path) -> dict | None:
    """A cached grid; None when there is none or it is damaged."""
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
        if "heights" in found:
            found["heights"] = json.loads(str(found["heights"]))
        return found if {"hu", "origin"} <= set(found) else None
    except (OSError, ValueError, EOFError, BadZipFile):
        return None


def measured(volume: Volume, need_heights: bool) -> dict:
    """``hu``, ``origin`` and, when asked for, ``heights`` of a volume."""
    grid = canonical(volume.image, (GRID_MM,) * 3, -1024)
    hu = np.clip(sitk.GetArrayFromImage(grid), -1024, 3000).astype(np.int16)
    inside = np.argwhere(hu > BODY_HU)
    low, high = (inside.min(0), inside.max(0) + 1) if len(inside) else (np.zeros(3, int), np.array(hu.shape))
    low[0], high[0] = 0, len(hu)
    hu = hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    origin = grid.TransformIndexToPhysicalPoint([int(v) for v in low[::-1]])
    found = {"hu": hu, "origin": np.array(origin)}
    if need_heights:
        found["heights"] = region_heights(volume)
    return found


def region_heights(volume: Volume) -> dict[str, tuple[float, float]]:
    """(low, high) RAS mm of every region by the score curve; empty when its verdict is a refusal."""
    from bpr.compute.engines import open_engine
    from bpr.regions import region_table
    from bpr.scoring.inference import score_volume

    bundle = choose_bundles([])["score"]
    curve = score_volume(volume, bundle, open_engine(device="cpu").predictor(bundle))
    if curve.verdict.quality == "refused":
        return {}
    scores = {region.name: np.array([region.low_score, region.high_score]) for region in region_table()}
    return {name: tuple(map(float, curve.height_of(pair))) for name, pair in scores.items()}
