"""The files of a result folder as plain values: what the scene needs of them, without MRML."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


class ResultError(Exception):
    """The result folder cannot be shown on this volume. The message is one sentence for the person."""


@dataclass(frozen=True)
class Landmark:
    """A named anatomical height inside the scan: RAS superior millimeters and score."""

    name: str
    z_mm: float
    score: float


@dataclass(frozen=True)
class Scores:
    """The score curve by slice.

    Attributes:
        axis: index axis of the volume (0 = i, 1 = j, 2 = k) along which the slices are counted.
        slices: (n,) slice indices along that axis.
        z_mm, raw, cleaned, sd: (n,) RAS superior position in mm; scores, 0 at pelvis_start and 100 at eyes_end.
        region: (n,) names of the regions the slice belongs to, as written in ``scores.csv``.
        landmarks: those that the scan holds.
    """

    axis: int
    slices: np.ndarray
    z_mm: np.ndarray
    raw: np.ndarray
    cleaned: np.ndarray
    sd: np.ndarray
    region: list[str]
    landmarks: list[Landmark] = field(default_factory=list)


@dataclass(frozen=True)
class RegionBox:
    """The crop of one region in RAS: center (3,) and size (3,) in mm; directions (3, 3): one axis a column."""

    name: str
    score_range: tuple[float, float]
    complete: float
    center: np.ndarray
    size: np.ndarray
    directions: np.ndarray


@dataclass(frozen=True)
class ResultFolder:
    """What a run wrote; a part that was not asked for is None or empty. ``summary`` is the content of result.json."""

    folder: Path
    summary: dict
    scores: Scores | None
    regions: list[RegionBox]
    segmentation: Path | None


def read_result_folder(folder: str | Path) -> ResultFolder:
    """Read the small files of a result folder.

    Raises:
        ResultError: when the folder or a file of it is missing or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultError(f"The result folder {folder} is missing.")
    segmentation = folder / "segmentation.seg.nrrd"
    try:
        # Written last of all, so it is not there yet while a run builds its scene file.
        summary = folder / "result.json"
        return ResultFolder(
            folder=folder,
            summary=json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {},
            scores=_read_scores(folder) if (folder / "scores.csv").is_file() else None,
            regions=_read_regions(folder / "regions.json") if (folder / "regions.json").is_file() else [],
            segmentation=segmentation if segmentation.is_file() else None,
        )
    except FileNotFoundError as error:
        raise ResultError(f"{Path(error.filename).name} is missing in the result folder.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"The result folder {folder.name} is damaged ({error}). Run again.") from error


def _read_scores(folder: Path) -> Scores:
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError("scores.csv has no rows")
    details = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("z_mm", "raw", "cleaned", "sd")}
    landmarks = [
        Landmark(mark["name"], float(mark["z_mm"]), float(mark["score"]))
        for mark in details.get("landmarks", [])
        if mark["in_scan"]
    ]
    return Scores(
        axis=int(details["slice axis"]),
        slices=np.array([int(row["slice"]) for row in rows]),
        region=[row["region"] for row in rows],
        landmarks=landmarks,
        **columns,
    )


def _read_regions(path: Path) -> list[RegionBox]:
    boxes = []
    for region in json.loads(path.read_text(encoding="utf-8"))["regions"]:
        box = region["box_ras_mm"]
        boxes.append(
            RegionBox(
                name=region["name"],
                score_range=tuple(region["score_range"]),
                complete=float(region["complete"]),
                center=np.array(box["center"], float).reshape(3),
                size=np.array(box["size"], float).reshape(3),
                directions=np.array(box["directions"], float).reshape(3, 3),
            )
        )
    return boxes
