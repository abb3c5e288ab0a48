"""Global masks as a prior: what does a template of labeled people bring, alone and beside the CT, with few cases?

make study NAME=masks        (QUICK=1: few scans, steps and arms, nothing is stored; BPR_STUDY_WORK keeps what is done)

Six organs of head and neck at 5 mm. Templates are placed by the score curve in height and by the body's middle across.
Teaching are 110 long scans, of which subsets are drawn, measured are the 52 short ones, which have taught the score
network nothing. Every arm trains the same network from the same weights with the same crops, augmentation and steps,
and has the same number of input channels; only what they hold differs. No validation set chooses anything. Crops lie
where the ruler puts them, which tells every network a good deal already; the arms "anywhere" know less. "not augmented"
and "longer" ask whether a network that may learn its few cases by heart needs the mask more.
"""

from __future__ import annotations

import time
from dataclasses import asdict

import numpy as np
from headneck import ORGANS, Scan, load_scans
from mask_runs import ARMS, COUNTS, Arm, Learner, Result, measured, template_results, train
from mask_tables import arm_rows, gain_rows, write_tables
from study import QUICK, Row, part, write_study

from bpr.training.dataset import data_folder

SUBSETS = {1: 3, 2: 3, 4: 3, 8: 3, 0: 1}  # of the teaching cases
STEPS = {1: 300, 2: 300, 4: 300, 8: 300, 0: 500}
CONTROLS = 1  # subsets of all other arms
MOST = ("CT", "CT + mask")


def subset(scans: list[Scan], count: int, number: int) -> list[Scan]:
    """The teaching scans of a run; small subsets consist of scans in which every organ was drawn."""
    teaching = [scan for scan in scans if scan.teaches]
    if not count:
        return teaching
    complete = [scan for scan in teaching if len(scan.organs) == len(ORGANS)]
    chosen = np.random.default_rng([number, 7]).permutation(len(complete))[:count]
    return [complete[k] for k in chosen]


def runs() -> list[tuple[int, int, Arm]]:
    """(subset, teaching cases, arm), one subset after the other and what matters most first."""
    if QUICK:
        return [(0, 2, arm) for arm in ARMS[:2]]
    return [
        (number, count, arm)
        for number in range(max(SUBSETS.values()))
        for arm in ARMS
        for count in COUNTS
        if number < (SUBSETS[count] if arm.name in MOST else min(CONTROLS, SUBSETS[count])) and count in arm.counts
    ]


def run(learner: Learner, arm: Arm, scans: list[Scan], count: int, number: int) -> dict:
    """Train and measure once; plain values."""
    teaching = subset(scans, count, number)
    started = time.process_time()
    train(learner, arm, teaching, 5 if QUICK else arm.longer * STEPS[count], number)
    seconds = time.process_time() - started
    results = measured(learner, arm, teaching, [scan for scan in scans if not scan.teaches])
    found = np.mean([r.dice for r in results])
    print(f"{arm.name}, {count or 'all'} cases, subset {number}: Dice {found:.3f}, {seconds:.0f} s", flush=True)
    return {"seconds": seconds, "results": [asdict(result) for result in results]}


def template(scans: list[Scan], count: int, number: int) -> dict:
    """The template of a subset by itself."""
    results = template_results(subset(scans, count, number), [scan for scan in scans if not scan.teaches])
    return {"seconds": 0.0, "results": [asdict(result) for result in results]}


def gathered(scans: list[Scan]) -> dict[tuple[str, int], list[list[Result]]]:
    """(arm, teaching cases) to the results of each subset; what is done already is read."""
    learner, found = Learner(), {}
    folder = "masks_quick" if QUICK else "masks"
    for number, count, arm in runs():
        name = f"{folder}_{arm.name}_{count}_{number}".replace(" ", "")
        kept = part(name, lambda a=arm, c=count, n=number: run(learner, a, scans, c, n))
        found.setdefault((arm.name, count), []).append([Result(**entry) for entry in kept["results"]])
        if arm.name == MOST[0]:
            kept = part(f"{folder}_template_{count}_{number}", lambda c=count, n=number: template(scans, c, n))
            found.setdefault(("template itself", count), []).append([Result(**entry) for entry in kept["results"]])
    return found


def main() -> None:
    started = time.time()
    scans = load_scans(data_folder(None), 4 if QUICK else 10**9)
    found = gathered(scans)
    errors = np.abs([scan.dens_mm for scan in scans if not scan.teaches and np.isfinite(scan.dens_mm)])
    rows = [Row("people who teach", sum(scan.teaches for scan in scans), ""),
            Row("people who are measured", len({r.person for r in found["CT", runs()[0][1]][0]}), ""),
            Row("score curve at the dens, median error", float(np.median(errors)), "mm"),
            *gain_rows(found), *arm_rows(found)]  # fmt: skip
    write_tables(found)
    write_study("masks", rows, started)


if __name__ == "__main__":
    main()
