"""Whether the regions hold their organs: share of each organ's voxels inside the crop of the region that owns it.

make study NAME=regions      (QUICK=1: three cases, nothing is stored)

Heights come from the shipped score bundle, as in the main job. Training cases are those that taught it (their regions'
intervals were fitted on them too); validation cases are the restricted people. Spine, aorta and psoas run through
several regions and belong to none.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from study import QUICK, RESULTS, Row, write_study

from bpr.compute.engines import open_engine
from bpr.models import choose_bundles
from bpr.regions import Region, region_table
from bpr.resources import read_table
from bpr.scoring.curve import ScoreCurve
from bpr.scoring.inference import score_volume
from bpr.segmentation.labels import structure_by_id
from bpr.training.dataset import Case, data_folder, trunk_cases
from bpr.volume import read_volume


def owners() -> dict[str, list[Region]]:
    """Structure to the regions that list it, its owner first."""
    regions = {region.name: region for region in region_table()}
    found: dict[str, list[Region]] = {}
    for row in sorted(read_table("membership"), key=lambda row: row["owned"], reverse=True):
        found.setdefault(row["structure"], []).append(regions[row["region"]])
    return found


def inside(case: Case, curve: ScoreCurve) -> dict[str, tuple[float, float, int]]:
    """Structure to (share of its voxels in its owner's crop, share in any of its regions' crops, voxels)."""
    image = sitk.ReadImage(str(case.labels))
    labels = sitk.GetArrayFromImage(image)
    z = image.GetOrigin()[2] + np.arange(len(labels)) * image.GetSpacing()[2]
    shares = {}
    for name, regions in owners().items():
        per_slice = (labels == structure_by_id(name).value).sum((1, 2))
        if name not in case.hint["labelled"] or per_slice.sum() == 0:
            continue
        held = [(z >= low) & (z <= high) for low, high in (region.heights(curve) for region in regions)]
        total = per_slice.sum()
        shares[name] = (per_slice[held[0]].sum() / total, per_slice[np.any(held, 0)].sum() / total, int(total))
    return shares


def measure(cases: list[Case]) -> tuple[list[Row], str]:
    """Rows of both sets and a Markdown table by structure."""
    bundle = choose_bundles([])["score"]
    predict = open_engine().predictor(bundle)
    found = {}
    for case in cases:
        found[case.id] = (case.use, inside(case, score_volume(read_volume(case.path), bundle, predict)))
    rows, lines = (
        [],
        ["| structure | set | cases | share in the owner's crop | lowest | share in any crop |", "|" + "---|" * 6],
    )
    owned = [row["structure"] for row in read_table("membership") if row["owned"] == "1"]
    for use, title in (("open", "training"), ("restricted", "validation")):
        sets = [shares for kind, shares in found.values() if kind == use]
        worst = 1.0
        for name in owned:
            values = np.array([shares[name] for shares in sets if name in shares])
            if not len(values):
                continue
            owner, union = (values[:, :2] * values[:, 2:]).sum(0) / values[:, 2].sum()
            worst = min(worst, union)
            lines.append(f"| {name} | {title} | {len(values)} | {owner:.2%} | {values[:, 0].min():.2%} | {union:.2%} |")
        everything = np.array([shares[name] for shares in sets for name in shares if name in owned])
        union = (everything[:, 1] * everything[:, 2]).sum() / everything[:, 2].sum()
        rows.append(
            Row(
                f"{title}, all owned structures, share of voxels in their regions' crops",
                100 * float(union),
                "%",
                ">= 99.9",
            )
        )
        rows.append(Row(f"{title}, worst structure", 100 * float(worst), "%", ">= 99.9"))
    return rows, "\n".join(lines) + "\n"


def main() -> None:
    started = time.time()
    cases = [case for case in trunk_cases(data_folder(os.environ.get("BPR_DATA"))) if case.labels]
    if QUICK:
        cases = [*cases[:2], *[case for case in cases if case.use == "restricted"][:1]]
    rows, table = measure(cases)
    print(table)
    if not QUICK:
        Path(RESULTS / "regions_by_structure.md").write_text(table, encoding="utf-8")
    write_study("regions", rows, started)


if __name__ == "__main__":
    main()
