"""The main job on every CT and DICOM folder of the shared data: complete results on the input's grid, or a refusal.

make study NAME=scans        (QUICK=1: three scans, nothing is stored; BPR_SHARED_DATA names the folder)
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk
from study import QUICK, Row, write_study

from bpr.errors import InputError
from bpr.job import PRODUCTS, JobRequest, run_job
from bpr.volume import same_geometry

COMPLETE = {"result.json", "scores.csv", "scores.json", "regions.json", "report.html", "segmentation.seg.nrrd"}


def check(path: Path, out: Path) -> str:
    """ "" for complete results with the right geometry, the sentence of a refusal, or what is wrong after "FAULT"."""
    produce = tuple(product for product in PRODUCTS if product != "scene")
    try:
        result = run_job(JobRequest(str(path), str(out), produce))
    except InputError as error:
        return f"FAULT: several lines: {error}" if "\n" in str(error) else f"refused: {error}"
    missing = COMPLETE - {file.name for file in out.iterdir()}
    if result.segmentation is None:
        missing.discard("segmentation.seg.nrrd")
    if missing:
        return f"FAULT: {missing} missing"
    if result.segmentation is not None:
        written = sitk.ReadImage(str(out / "segmentation.seg.nrrd"))
        if not same_geometry(written, result.volume.image, 1e-4):
            return "FAULT: the segmentation lies elsewhere"
    return ""


def main() -> None:
    started = time.time()
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("BPR_SHARED_DATA", root.parent / "shared" / "data"))
    inputs = sorted((data / "ct").glob("*.nii.gz")) + sorted(p for p in (data / "dicom").iterdir() if p.is_dir())
    inputs += sorted((data / "mr").iterdir())
    inputs = inputs[:: len(inputs) // 3] if QUICK else inputs
    complete = refused = faults = 0
    with tempfile.TemporaryDirectory() as scratch:
        for path in inputs:
            said = check(path, Path(scratch) / "result")
            print(f"{path.name}: {said or 'complete'}", flush=True)
            complete += said == ""
            refused += said.startswith("refused")
            faults += said.startswith("FAULT")
    rows = [Row("inputs", len(inputs), ""), Row("complete, on the input's grid to 1e-4 mm", complete, ""),
            Row("refused in one sentence", refused, ""), Row("faults", faults, "", "<= 0")]  # fmt: skip
    write_study("scans", rows, started)


if __name__ == "__main__":
    main()
