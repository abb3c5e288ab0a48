"""Localized segmentation: each region's own network sees its region only; their results become one label image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from bpr.compute.memory import check_run
from bpr.models import Bundle
from bpr.scoring.slices import body_mask
from bpr.segmentation.grid import GRID_MM, body_center, network_channels
from bpr.segmentation.interface import Interface
from bpr.segmentation.merge import ProbabilityField, border_weight, clean_field
from bpr.segmentation.upsampling import labels_on
from bpr.segmentation.windows import Predictor, count_tiles, predict_grid
from bpr.volume import Volume, canonical_array, face_up

LEAST_SLICES = 4
HU_RANGE = (-1024, 3000)


@dataclass(frozen=True)
class Window:
    """One network's share of the work: the slices [first, last) of the grid that it sees."""

    bundle: Bundle
    first: int
    last: int
    longest: int = 0  # edge of a tile that must not be exceeded; 0 for none

    @property
    def network(self) -> Interface:
        """What the network takes and gives, its tile no longer than allowed."""
        own = Interface.of(self.bundle)
        return replace(own, tile=tuple(min(edge, self.longest or edge) for edge in own.tile))


@dataclass(frozen=True)
class Segmentation:
    """Labels on the volume's own grid and, per label value, the doubt 0..1."""

    labels: sitk.Image
    doubts: dict[int, float]


def segment_volume(
    volume: Volume,
    windows: dict[Bundle, tuple[float, float]],
    load: Callable[..., Predictor],
    wanted: list[int],
    progress: Callable[[int, int], None] = lambda done, total: None,
    longest_tile: int = 0,
    quarter_turns: int = 0,
    heights: dict[int, tuple[float, float]] | None = None,
) -> Segmentation:
    """Run the networks over their height intervals and merge.

    Args:
        windows: bundle to (lowest, highest) RAS height in mm that its network shall see.
        load: from a bundle to its predictor, with ``tile`` when that is not the bundle's own; one after another.
        wanted: label values that are asked for. Networks that know none of them do not run.
        longest_tile: edge, in voxels, that no tile exceeds, to need less memory; 0 for the bundles' own tiles.
        heights: label value to the RAS heights in mm outside of which the structure cannot lie.
        quarter_turns: after which the patient lies face up, as the networks have learned (ScoreCurve.quarter_turns).

    Raises:
        MemoryShortage: estimated before anything runs.
    """
    image = face_up(volume.image, quarter_turns)
    hu, grid = _body_grid(image)
    bottom = grid.GetOrigin()[2]
    plan = [replace(window, longest=longest_tile) for window in _plan(bottom, len(hu), windows, wanted)]
    values = sorted({value for window in plan for value in window.network.classes})
    check_run(volume.image.GetNumberOfPixels(), hu.size, len(values))
    field = ProbabilityField.empty(values, hu.shape)
    total = sum(count_tiles((w.last - w.first, *hu.shape[1:]), w.network.tile) for w in plan)
    middle, done = body_center(hu), 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    for window in plan:
        predict = load(window.bundle, tile=window.network.tile) if longest_tile else load(window.bundle)
        slab = hu[window.first : window.last]
        if window.bundle.facts.get("masked"):
            slab = np.where(body_mask(slab, GRID_MM, GRID_MM), slab, -1024)
        channels = network_channels(slab, window.bundle.inputs, middle)
        probability = predict_grid(channels, predict, len(window.network.classes) + 1, window.network.tile, advance)
        weight = border_weight(window.last - window.first, GRID_MM)
        field.add(probability, window.network.classes, window.first, weight)
        del predict, channels, probability
    for value, (low_mm, high_mm) in (heights or {}).items():
        if value in values:
            field.limit(value, math.ceil((low_mm - bottom) / GRID_MM), math.floor((high_mm - bottom) / GRID_MM) + 1)
    _, doubts = clean_field(field, GRID_MM**3 / 1000)
    labels = labels_on(image, grid, field, wanted, lambda: progress(total, total))
    labels.CopyInformation(volume.image)
    return Segmentation(labels, {value: doubt for value, doubt in doubts.items() if value in wanted})


def _body_grid(image: sitk.Image) -> tuple[np.ndarray, sitk.Image]:
    """The canonical grid's HU cropped to the body in plane, and an empty image with the crop's geometry."""
    hu, origin = canonical_array(image, (GRID_MM,) * 3, -1024, HU_RANGE)
    body = body_mask(hu, GRID_MM, GRID_MM)
    rows, columns = np.flatnonzero(body.any((0, 2))), np.flatnonzero(body.any((0, 1)))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    crop = sitk.Image([int(x1 - x0), int(y1 - y0), len(hu)], sitk.sitkUInt8)
    crop.SetSpacing((GRID_MM,) * 3)
    crop.SetOrigin((origin + GRID_MM * np.array([x0, y0, 0])).tolist())
    return hu[:, y0:y1, x0:x1], crop


def _plan(bottom: float, slices: int, windows: dict[Bundle, tuple[float, float]], wanted: list[int]) -> list[Window]:
    """The windows that hold slices, of which the first lies at ``bottom``, and know a structure that is asked for."""
    plan = []
    for bundle, (low_mm, high_mm) in windows.items():
        ends = np.clip([(low_mm - bottom) / GRID_MM, (high_mm - bottom) / GRID_MM + 1], 0, slices)
        first, last = int(np.floor(ends[0])), int(np.ceil(ends[1]))
        window = Window(bundle, first, last)
        if last - first >= LEAST_SLICES and set(window.network.classes) & set(wanted):
            plan.append(window)
    return plan
