"""Speed and memory of the main job on a chest-abdomen-pelvis CT of 512 x 512 x 300 voxels, each run in its own process.

make study NAME=speed        (QUICK=1: a volume of an eighth of the size, nothing is stored)

Memory is that of the job and of the process that builds its scene, together. The network that stands for
TotalSegmentator's fast mode has its size and random weights, on which speed does not depend: five levels, 32 base
filters, 118 classes, patches of 128^3 voxels of 3 mm that overlap by half, torch eager. Two of its patches are timed,
all are counted.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk
from study import QUICK, Row, write_study

from bpr.compute.engines import open_engine
from bpr.models import choose_bundles
from bpr.phantom import make_phantom
from bpr.scoring.inference import score_volume
from bpr.segmentation.windows import tile_starts
from bpr.volume import canonical_array, read_volume

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


@dataclass(frozen=True)
class Run:
    """Wall and processor seconds with the start of Python, MB at the worst moment, seconds by stage."""

    wall: float
    processor: float
    memory: float
    stages: dict[str, float]


def run(ct: Path, out: Path, *options: str) -> Run:
    """One run of `bpr run` as a person starts it."""
    started, before, peak = time.time(), _children_seconds(), 0.0
    command = [sys.executable, "-m", "bpr.cli", "run", str(ct), "--out", str(out), "--json", *options]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told:
        process = psutil.Popen(command, stdout=told)
        while process.poll() is None:
            peak = max(peak, _memory_mb(process))
            time.sleep(0.1)
        wall = time.time() - started
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        told.seek(0)
        summary = json.loads(told.read().splitlines()[-1])["summary"]
    return Run(wall, _children_seconds() - before, peak, summary["seconds"])


def _memory_mb(process: psutil.Process) -> float:
    """Resident memory of a process and all that it has started."""
    total = 0
    with contextlib.suppress(psutil.Error):  # it may end in between
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    return total / 2**20


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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


def large_network_seconds(ct: Path) -> tuple[float, int]:
    """Seconds that the network of TotalSegmentator's size needs for all patches of the scan, and how many they are."""
    import torch
    from monai.networks.nets import DynUNet

    edge, filters = (64, (4, 8, 16, 32, 40)) if QUICK else (128, (32, 64, 128, 256, 320))
    network = DynUNet(3, 1, 118, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, filters=filters).eval()
    hu, _ = canonical_array(sitk.ReadImage(str(ct)), (3.0, 3.0, 3.0))
    padded = np.pad(hu, [(0, max(0, edge - n)) for n in hu.shape], constant_values=-1000) / 500
    count = math.prod(len(tile_starts(n, edge, overlap=0.5)) for n in hu.shape)
    patch = torch.from_numpy(np.ascontiguousarray(padded[None, None, :edge, :edge, :edge]))
    times = []
    with torch.inference_mode():
        for _ in range(2):
            begun = time.time()
            network(patch).argmax(1)
            times.append(time.time() - begun)
    return min(times) * count, count


def main() -> None:
    started = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        ct, a, b = (Path(scratch) / name for name in ("ct.nrrd", "openvino", "torch"))
        large_ct(ct)
        length = float(np.prod(sitk.ReadImage(str(ct)).GetSpacing()[2]) * sitk.ReadImage(str(ct)).GetSize()[2])
        whole = run(ct, a)
        fast = run(ct, a, "--no-scene")
        slow = run(ct, b, "--no-scene", "--engine", "torch")
        one = run(ct, Path(scratch) / "region", "--regions", "thorax")
        other, patches = large_network_seconds(ct)
        rows = [
            Row("scan length", length, "mm"),
            Row("score curve of 900 mm after loading", score_seconds(ct), "s", "<= 1"),
            Row("main job, everything", whole.wall, "s", "<= 20"),
            Row("main job, processor time", whole.processor, "s"),
            Row("main job, peak memory", whole.memory, "MB", "<= 3072"),
            Row("main job, thorax alone", one.wall, "s", "<= 8"),
            Row("main job without scene, OpenVINO", fast.wall, "s"),
            Row("main job without scene, torch eager", slow.wall, "s"),
            Row("segmenting, torch eager / OpenVINO", slow.stages["segmenting"] / fast.stages["segmenting"], "x"),
            Row("same labels, OpenVINO and torch", 100 * agreement(a, b), "%", ">= 99.9"),
            Row(f"network of TotalSegmentator's fast size, {patches} patches, torch eager", other, "s"),
            Row("that network / our main job, everything", other / whole.wall, "x", ">= 4"),
            Row("that network / our segmenting", other / whole.stages["segmenting"], "x", ">= 4"),
        ]
        rows += [Row(f"stage {name}", seconds, "s") for name, seconds in whole.stages.items()]
    write_study("speed", rows, started)


if __name__ == "__main__":
    main()
