"""Speed and memory of the main job on a chest-abdomen-pelvis CT of 512 x 512 x 300 voxels, each run in its own process.

make study NAME=speed        (QUICK=1: a volume of an eighth of the size, nothing is stored)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from study import QUICK, Row, write_study

from bpr.compute.engines import open_engine
from bpr.models import choose_bundles
from bpr.phantom import make_phantom
from bpr.scoring.inference import score_volume
from bpr.volume import read_volume

SCORED_MM = 900.0


def large_ct(path: Path) -> None:
    """The phantom from neck to thigh, resampled to the usual clinical grid."""
    phantom = make_phantom(spacing_mm=(3.0, 3.0, 3.0), seed=1).image
    size = (256, 256, 150) if QUICK else (512, 512, 300)
    extent = [n * s for n, s in zip(phantom.GetSize(), phantom.GetSpacing(), strict=True)]
    spacing = [e / n for e, n in zip(extent, size, strict=True)]
    image = sitk.Resample(phantom, size, sitk.Transform(), sitk.sitkLinear, phantom.GetOrigin(), spacing,
                          phantom.GetDirection(), -1000, sitk.sitkInt16)  # fmt: skip
    sitk.WriteImage(image, str(path))


def run(ct: Path, out: Path, *options: str) -> dict:
    """One run of `bpr run` as a person starts it; wall seconds include the start of Python."""
    started = time.time()
    command = [sys.executable, "-m", "bpr.cli", "run", str(ct), "--out", str(out), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    return {"wall": time.time() - started, "memory": summary["peak_memory_mb"], "stages": summary["seconds"]}


def agreement(first: Path, second: Path) -> float:
    """Share of voxels with the same label."""
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(p / "segmentation.seg.nrrd"))) for p in (first, second))
    return float((a == b).mean())


def score_seconds(ct: Path) -> float:
    """The score curve of a scan of 900 mm alone, after loading; the better of two."""
    whole, bundle = read_volume(ct), choose_bundles([])["score"]
    volume = replace(whole, image=whole.image[:, :, : round(SCORED_MM / whole.image.GetSpacing()[2])])
    predict = open_engine("openvino").predictor(bundle)
    times = []
    for _ in range(2):
        started = time.time()
        score_volume(volume, bundle, predict)
        times.append(time.time() - started)
    return min(times)


def main() -> None:
    started = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        ct, a, b = (Path(scratch) / name for name in ("ct.nrrd", "openvino", "torch"))
        large_ct(ct)
        length = float(np.prod(sitk.ReadImage(str(ct)).GetSpacing()[2]) * sitk.ReadImage(str(ct)).GetSize()[2])
        whole = run(ct, a)
        fast = run(ct, a, "--no-scene")
        slow = run(ct, b, "--no-scene", "--engine", "torch")
        rows = [
            Row("scan length", length, "mm"),
            Row("score curve of 900 mm after loading", score_seconds(ct), "s", "<= 2"),
            Row("main job, everything", whole["wall"], "s", "<= 40"),
            Row("main job, peak memory", whole["memory"], "MB", "<= 4096"),
            Row("main job without scene, OpenVINO", fast["wall"], "s"),
            Row("main job without scene, torch eager", slow["wall"], "s"),
            Row("segmenting, torch eager / OpenVINO", slow["stages"]["segmenting"] / fast["stages"]["segmenting"], "x"),
            Row("same labels, OpenVINO and torch", 100 * agreement(a, b), "%", ">= 99.9"),
        ]
        rows += [Row(f"stage {name}", seconds, "s") for name, seconds in whole["stages"].items()]
    write_study("speed", rows, started)


if __name__ == "__main__":
    main()
