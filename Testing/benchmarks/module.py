"""How the module feels: first progress, the window while the child works, loading the result, cancelling.

make study NAME=module        (QUICK=1: fewer cancels on a small volume, nothing is stored)
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing" / "scene"), str(ROOT / "Testing"), str(ROOT / "Testing" / "benchmarks")]

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from result_fixture import write_case, write_segmentation  # noqa: E402
from study import QUICK, Row, write_study  # noqa: E402
from test_actions import Gaps  # noqa: E402

from bpr.segmentation.labels import label_table  # noqa: E402
from panel_pictures import Panel  # noqa: E402

SIZE = (128, 128, 80) if QUICK else (512, 512, 300)
CANCELS = 3 if QUICK else 10


def make_case(root: Path):
    """A CT of the size that radiology makes, and a result with all structures as blocks over most of it."""
    image = sitk.Image(SIZE, sitk.sitkInt16) + 40
    image.SetSpacing((0.8, 0.8, 1.5))
    case = write_case(root, image)
    labels, structures = np.zeros(SIZE[::-1], np.uint8), label_table()
    edges = np.linspace(2, SIZE[0] - 2, len(structures) + 1).astype(int)
    for structure, left, right in zip(structures, edges, edges[1:], strict=False):
        labels[4:-4, SIZE[1] // 4 : -SIZE[1] // 4, left : right - 1] = structure.value
    drawn = sitk.GetImageFromArray(labels)
    drawn.CopyInformation(image)
    write_segmentation(drawn, case.folder / "segmentation.seg.nrrd")
    return case


def measure(panel: Panel) -> list[Row]:
    """All rows, from a run that talks a lot, one that is waited for, and cancelled ones."""
    from BPRSegmentationLib import run as run_module

    ui, control = panel.ui, panel.widget._control
    load, times, gaps = run_module.load_result, {}, Gaps()

    def timed_load(*arguments):
        times["blocked"], started = gaps.longest, time.monotonic()
        result = load(*arguments)
        times["load"] = time.monotonic() - started
        return result

    run_module.load_result = timed_load
    panel.run("chatty", lambda: control.run is None)
    run_module.load_result = load
    cancels, chance = [], random.Random(1)
    for _round in range(CANCELS):
        seconds, started = 2 * chance.random(), time.monotonic()
        panel.run("stubborn tree", lambda limit=started + seconds: time.monotonic() > limit)
        begun = time.monotonic()
        ui.runButton.click()
        cancels.append(time.monotonic() - begun)
    return [
        Row("longest time without the window's turn while the child runs", 1000 * times["blocked"], "ms", "<= 100"),
        Row("loading the result", times["load"], "s", "<= 2"),
        Row(f"cancel, slowest of {CANCELS} stubborn trees", max(cancels), "s", "<= 2"),
    ]


def first_progress(panel: Panel) -> Row:
    """Seconds from the click on Run until the child's own progress is seen."""
    started = time.monotonic()
    panel.run("wait", lambda: panel.ui.progressBar.value > 0)
    seconds = time.monotonic() - started
    panel.ui.runButton.click()
    return Row("from Run to the child's first progress, volume handed over", seconds, "s", "<= 1.5")


def main() -> None:
    """Measure and write."""
    started = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        case = make_case(Path(scratch) / "case")
        panel = Panel(case.folder, case.ct)
        try:
            rows = [first_progress(panel), *measure(panel)]
        finally:
            panel.close()
    write_study("module", [Row("voxels", float(np.prod(SIZE)) / 1e6, "million"), *rows], started)


if __name__ == "__main__":
    main()
