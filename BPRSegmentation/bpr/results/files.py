"""The files of a result folder: scores, regions with their crops, the segmentation, and a summary of the run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from bpr import __version__
from bpr.errors import OutputError
from bpr.regions import crop_volume, with_file
from bpr.results.seg_nrrd import SegmentHeader, describe_segments
from bpr.results.summary import RegionFound, RunResult
from bpr.scoring.curve import ScoreCurve
from bpr.segmentation.labels import Structure, structure_by_value, terminology_entry
from bpr.volume import slice_axis


def write_json(path: Path, content: dict) -> None:
    """UTF-8 JSON with readable numbers."""
    path.write_text(json.dumps(content, indent=1, default=plain, ensure_ascii=False) + "\n", encoding="utf-8")


def plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def region_of_slices(curve: ScoreCurve, regions: list[RegionFound]) -> list[str]:
    """For each slice the region whose interval's middle is nearest among those that hold it, or ""."""
    names = []
    for score in curve.cleaned:
        holding = [r for r in regions if r.score_range[0] <= score <= r.score_range[1]]
        nearest = min(holding, key=lambda r: abs(score - sum(r.score_range) / 2), default=None)
        names.append(nearest.name if nearest else "")
    return names


def write_scores(result: RunResult, folder: Path) -> None:
    """``scores.csv`` and ``scores.json``, the latter with the field names of the published bpreg package and ours."""
    curve = result.curve
    names = region_of_slices(curve, result.regions)
    with open(folder / "scores.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slice", "z_mm", "raw", "cleaned", "sd", "region"])
        for k in range(len(curve.z_mm)):
            numbers = (curve.z_mm[k], curve.raw[k], curve.cleaned[k], curve.sd[k])
            writer.writerow([k, *(f"{value:.3f}" for value in numbers), names[k]])
    verdict = curve.verdict
    ratio = verdict.implied_spacing_mm / max(verdict.stated_spacing_mm, 1e-6)
    examined = {
        r.name: [k for k in range(len(names)) if r.score_range[0] <= curve.cleaned[k] <= r.score_range[1]]
        for r in result.regions
    }
    write_json(folder / "scores.json", {
        "cleaned slice scores": np.round(curve.cleaned, 3),
        "unprocessed slice scores": np.round(curve.raw, 3),
        "z": np.round(curve.z_mm, 3),
        "body part examined": examined,
        "body part examined tag": "-".join(r.name.upper() for r in reversed(result.regions)) or "NONE",
        "look-up table": {m.name: {"mean": round(m.score, 3)} for m in curve.landmarks},
        "reverse zordering": int(verdict.slice_order == "reversed"),
        "valid z-spacing": int(all(notice.code != "spacing_doubtful" for notice in verdict.notices)),
        "z-spacing": verdict.stated_spacing_mm,
        "expected z-spacing": verdict.implied_spacing_mm,
        "slope ratio": ratio,
        "observed slope": 1 / curve.mm_per_unit,
        "settings": {"version": __version__, "bundle": result.bundles.get("score", "")},
        "slice axis": slice_axis(result.volume.image),
        "sd": np.round(curve.sd, 3),
        "mm per unit": curve.mm_per_unit,
        "landmarks": [asdict(mark) for mark in curve.landmarks],
        "verdict": asdict(verdict),
    })  # fmt: skip


def box_ras(image: sitk.Image, start: tuple[int, int, int], size: tuple[int, int, int]) -> dict:
    """Center, edge lengths (mm) and axis directions (columns, RAS) of a block of voxels."""
    middle = [float(a) + (n - 1) / 2 for a, n in zip(start, size, strict=True)]
    center = image.TransformContinuousIndexToPhysicalPoint(middle)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    directions = to_ras @ np.array(image.GetDirection()).reshape(3, 3)
    edges = [n * s for n, s in zip(size, image.GetSpacing(), strict=True)]
    return {"center": (to_ras @ center).tolist(), "size": edges, "directions": directions.tolist()}


def write_regions(result: RunResult, folder: Path) -> list[RegionFound]:
    """``regions.json``; returns the regions with the names of the files that ``write_crops`` makes."""
    named = [with_file(r, f"regions/{r.name.replace(' ', '_')}.nrrd") for r in result.regions]
    rows = [
        {"name": r.name, "score_range": r.score_range, "z_range_mm": r.z_range_mm, "complete": round(r.complete, 3),
         "start_ijk": r.start, "size_ijk": r.size, "box_ras_mm": box_ras(result.volume.image, r.start, r.size),
         "file": r.file}
        for r in named
    ]  # fmt: skip
    write_json(folder / "regions.json", {"regions": rows})
    return named


def write_crops(result: RunResult, folder: Path) -> None:
    """One cropped volume per region, two at a time: compressing them is most of the writing."""
    if result.regions:
        (folder / "regions").mkdir()

    def write(region: RegionFound) -> None:
        _write_image(crop_volume(result.volume, region), folder / region.file)

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(write, result.regions):
            pass


def write_segmentation(result: RunResult, folder: Path, find: Callable[[int], Structure] = structure_by_value) -> Path:
    """``segmentation.seg.nrrd`` as Slicer writes it: IDs, names, colors, terminology, one layer on the input's grid.

    ``find`` gives the structure of a label value; a domain may have a label table of its own.
    """
    labels = sitk.Image(result.segmentation)
    boxes = ndimage.find_objects(sitk.GetArrayViewFromImage(labels))
    headers = []
    for structure in (find(segment.value) for segment in result.segments):
        extent = tuple((side.start, side.stop - 1) for side in reversed(boxes[structure.value - 1]))
        headers.append(SegmentHeader(structure.id, structure.name, structure.value, structure.color,
                                     terminology_entry(structure), extent=extent))  # fmt: skip
    describe_segments(labels, headers)
    path = folder / "segmentation.seg.nrrd"
    _write_image(labels, path)
    return path


def _write_image(image: sitk.Image, path: Path) -> None:
    """Lightly compressed: level 1 is several times faster than the default and a little larger."""
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    except RuntimeError as error:  # ITK has no error of its own for a full disk
        raise OutputError(f"{path.name} cannot be written: the disk may be full.",
                          "Free some space or choose another folder.") from error  # fmt: skip


def summary(result: RunResult) -> dict:
    """What ``result.json`` holds and the child process sends: facts without arrays."""
    image, curve = result.volume.image, result.curve
    verdict = curve.verdict if curve else None
    return {
        "version": __version__,
        "volume": {"name": result.volume.name, "size": image.GetSize(), "spacing_mm": image.GetSpacing(),
                   "source": result.volume.source},
        "verdict": asdict(verdict) if verdict else None,
        "coverage": verdict.coverage if verdict else None,
        "score_range": [float(curve.cleaned.min()), float(curve.cleaned.max())] if curve else None,
        "mm_per_unit": curve.mm_per_unit if curve else None,
        "regions": [{"name": r.name, "complete": round(r.complete, 3), "z_range_mm": r.z_range_mm, "file": r.file}
                    for r in result.regions],
        "segments": [asdict(segment) for segment in result.segments],
        "notices": [asdict(notice) for notice in all_notices(result)],
        "device": result.device,
        "engine": result.engine,
        "bundles": result.bundles,
        "seconds": {stage: round(value, 2) for stage, value in result.seconds.items()},
        "peak_memory_mb": round(result.peak_memory_mb),
    }  # fmt: skip


def all_notices(result: RunResult) -> list:
    """Remarks of reading, scoring and the run, each once."""
    verdict = result.curve.verdict.notices if result.curve else []
    return list(dict.fromkeys([*result.volume.notices, *verdict, *result.notices]))
