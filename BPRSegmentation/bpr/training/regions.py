"""Fitting the regions' score intervals on training cases, so that no owned organ is cut by its region."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.resources import read_table, resources_dir
from bpr.scoring.scale import to_score
from bpr.segmentation.labels import label_table, structure_by_id
from bpr.training.cases import read_labels
from bpr.training.dataset import Case, first_slice_height
from bpr.training.ruler import Observation, Ruler, dense_target

MARGIN_MM = 15.0  # the typical error of a predicted height on validation cases
EXTENT_MARGIN_MM = 40.0  # people differ more than the few training cases do
BEYOND_SCORE = 50.0  # beyond the ruler's ends, for structures whose end no training case shows


def organ_extents(
    cases: list[Case], observations: list[Observation], ruler: Ruler, cut_ends: bool = False
) -> dict[str, list[tuple]]:
    """Per structure ID the (lowest, highest) ruler position in mm in each case that shows it.

    An end that the scan cuts is NaN unless ``cut_ends``: then it is the scan's end, so that all that is labeled counts.
    """
    found: dict[str, list[tuple]] = {}
    for case in cases:
        own = [o for o in observations if o.scan == case.id]
        if not case.labels or not own:
            continue
        image = read_labels(case)
        labels = sitk.GetArrayFromImage(image)
        z = image.GetOrigin()[2] + np.arange(len(labels)) * image.GetSpacing()[2] - first_slice_height(case.path)
        place, _ = dense_target(own, z, ruler)
        for name in case.hint["labelled"]:
            slices = np.flatnonzero((labels == structure_by_id(name).value).any((1, 2)))
            if len(slices) and name not in case.hint.get("partial", []):
                low = place[slices[0]] if slices[0] > 1 or cut_ends else np.nan
                high = place[slices[-1]] if slices[-1] < len(labels) - 2 or cut_ends else np.nan
                found.setdefault(name, []).append((low, high))
    return found


def fit_regions(cases: list[Case], observations: list[Observation], ruler: Ruler) -> dict[str, tuple[float, float]]:
    """Score interval (low, high) per region: the core between its landmarks, widened to hold all owned structures.

    Regions without labeled structures (head, neck) are widened by two spreads of their end landmarks instead.
    """
    extents = organ_extents(cases, observations, ruler, cut_ends=True)
    members = read_table("membership")
    intervals = {}
    for row in read_table("regions"):
        low, high = ruler.position[row["core_low"]], ruler.position[row["core_high"]]
        owned = [m["structure"] for m in members if m["region"] == row["region"] and m["owned"] == "1"]
        ends = [end for name in owned for end in extents.get(name, [])]
        if ends:
            low = np.nanmin([low, *(end[0] for end in ends)]) - MARGIN_MM
            high = np.nanmax([high, *(end[1] for end in ends)]) + MARGIN_MM
        else:
            low -= 2 * ruler.spread[row["core_low"]]
            high += 2 * ruler.spread[row["core_high"]]
        intervals[row["region"]] = (float(to_score(low, ruler.position)), float(to_score(high, ruler.position)))
    return intervals


def fit_extents(cases: list[Case], observations: list[Observation], ruler: Ruler) -> dict[str, tuple[float, float]]:
    """Score interval (low, high) per structure ID outside of which no person has it; what lies there is an error."""
    fitted = {}
    for name, ends in organ_extents(cases, observations, ruler).items():
        lows, highs = np.array(ends, float).T
        low = to_score(np.nanmin(lows) - EXTENT_MARGIN_MM, ruler.position) if np.isfinite(lows).any() else -BEYOND_SCORE
        high = (
            to_score(np.nanmax(highs) + EXTENT_MARGIN_MM, ruler.position)
            if np.isfinite(highs).any()
            else 100 + BEYOND_SCORE
        )
        fitted[name] = (float(low), float(high))
    return fitted


def write_extents(extents: dict[str, tuple[float, float]]) -> Path:
    """Store fitted intervals in ``Resources/Anatomy/extents.csv``, in label-table order."""
    path = resources_dir() / "Anatomy" / "extents.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["structure", "low_score", "high_score"])
        for structure in label_table():
            if structure.id in extents:
                writer.writerow([structure.id, *(f"{value:.1f}" for value in extents[structure.id])])
    return path


def write_regions(intervals: dict[str, tuple[float, float]]) -> Path:
    """Store fitted intervals in ``Resources/Anatomy/regions.csv``."""
    path = resources_dir() / "Anatomy" / "regions.csv"
    rows = read_table("regions")
    for row in rows:
        row["low_score"], row["high_score"] = (f"{value:.1f}" for value in intervals[row["region"]])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
