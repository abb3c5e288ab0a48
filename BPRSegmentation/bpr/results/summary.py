"""What a run found, as one value: the source of the files, the report, the terminal and the scene."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk

from bpr.errors import Notice
from bpr.scoring.curve import ScoreCurve
from bpr.volume import Volume


@dataclass(frozen=True)
class RegionFound:
    """One body region in this scan.

    ``score_range`` and ``z_range_mm`` (RAS superior, low to high, with the margin) delimit the crop; ``complete`` is
    the share of the region's core that the scan covers; ``start`` and ``size`` are the crop in the input's index order
    (i, j, k) as SimpleITK's RegionOfInterest takes it; ``file`` is relative to the result folder once written.
    """

    name: str
    score_range: tuple[float, float]
    z_range_mm: tuple[float, float]
    complete: float
    start: tuple[int, int, int]
    size: tuple[int, int, int]
    file: str | None = None


@dataclass(frozen=True)
class SegmentFound:
    """One segment: label value, stable ID, display name, milliliters, doubt 0..1, whether the scan's edge cuts it."""

    value: int
    id: str
    name: str
    volume_ml: float
    mean_hu: float
    doubt: float
    at_edge: bool


@dataclass(frozen=True)
class RunResult:
    """All that the main job found for one volume; ``segmentation`` is a uint8 label image on the volume's own grid."""

    volume: Volume
    curve: ScoreCurve | None
    regions: list[RegionFound] = field(default_factory=list)
    segments: list[SegmentFound] = field(default_factory=list)
    segmentation: sitk.Image | None = None
    notices: list[Notice] = field(default_factory=list)
    device: str = ""
    engine: str = ""
    bundles: dict[str, str] = field(default_factory=dict)  # role -> bundle name and version
    seconds: dict[str, float] = field(default_factory=dict)  # stage -> seconds
    peak_memory_mb: float = 0.0
    folder: Path | None = None
