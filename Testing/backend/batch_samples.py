"""A batch of a thousand scans whose results were made up, to see what the table and the page do with many rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bpr.batch.inputs import Scan
from bpr.batch.scan import Plan, record_failure
from bpr.errors import InputError
from bpr.job import JobRequest

ORGANS = {"liver": 1500, "spleen": 210, "heart": 700, "kidney_left": 165, "kidney_right": 160, "lung_left": 2400}
REASONS = ("{} is not a NIfTI file; it holds a text file.", "{} does not look like a CT.",
           "{} is incomplete: part of its voxels is missing.", "{} has fewer than 3 slices.")  # fmt: skip


def made_up_batch(out: Path, count: int = 1000, seed: int = 0) -> tuple[list[Scan], Plan]:
    """Result folders of ``count`` scans: 5 % failed, some doubtful, one liver ten times too large ("scan_0007")."""
    rng = np.random.default_rng(seed)
    plan = Plan(JobRequest("", ""), str(out))
    scans = [Scan(f"scan_{k:04d}", f"/data/study/scan_{k:04d}.nii.gz") for k in range(count)]
    for k, scan in enumerate(scans):
        if k % 20 == 3:
            name = Path(scan.path).name
            record_failure(
                scan, plan, InputError(REASONS[(k // 20) % len(REASONS)].format(name), "Choose another file.")
            )
            continue
        folder = plan.folder(scan)
        folder.mkdir(parents=True)
        (folder / "report.html").write_text(f"<h1>Report of {scan.id}</h1>", encoding="utf-8")
        (folder / "result.json").write_text(json.dumps(_content(k, rng)), encoding="utf-8")
    return scans, plan


def _content(k: int, rng: np.random.Generator) -> dict:
    quality = "doubtful" if k % 25 == 1 else "refused" if k % 100 == 2 else "good"
    low = float(rng.uniform(20, 45))
    segments = [{"value": 1, "id": name, "name": name, "volume_ml": float(ml * rng.lognormal(0, 0.18)),
                 "mean_hu": float(rng.normal(60, 8)), "doubt": float(rng.uniform(0.02, 0.3)),
                 "at_edge": bool(rng.random() < 0.1)} for name, ml in ORGANS.items()]  # fmt: skip
    if k == 7:
        segments[0] |= {"volume_ml": 15000.0, "at_edge": False}
    notices = [{"code": "too_short", "message": "The scan is short."}] if quality == "doubtful" else []
    return {
        "volume": {"size": [512, 512, int(rng.integers(60, 400))], "source": {"format": "NIfTI"}},
        "verdict": {"quality": quality, "slice_order": "normal", "stated_spacing_mm": 2.5, "implied_spacing_mm": 2.6},
        "coverage": ["t12_l1", "lung_apex"], "score_range": [low, low + float(rng.uniform(20, 55))],
        "mm_per_unit": float(7.5 * rng.lognormal(0, 0.06)), "regions": [{"name": "thorax"}, {"name": "upper abdomen"}],
        "segments": segments if quality != "refused" else [], "notices": notices, "device": "cpu", "engine": "openvino",
        "seconds": {"scoring": float(rng.gamma(9, 1.2))}, "peak_memory_mb": round(float(rng.normal(700, 60))),
        "files": ["report.html", "result.json"],
    }  # fmt: skip
