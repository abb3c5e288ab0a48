"""Five SEED cases of a new scanner: what they teach alone, and what together with another scanner's project.

make study NAME=together       (QUICK=1: two cases and a few steps, nothing is stored)

Both trainings take BPRTraining's own way (``bpr finetune``), the second with ``--together``. The other project holds
other people in a third scanner; all are open scans that the shipped bundle knows as they were, so only the scanners are
new. Measured on the people whose scans never teach, in the new scanner. BPR_SEED_BUDGET sets each time budget (10m),
which is time by the clock: a busy machine learns less in it. About 30 minutes of one core, QUICK 3.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from scanner import Scanner
from seed import BUDGET, BUNDLE, NEW_SCANNER, SEEDS, add, test_people
from study import QUICK, Row, write_study

from bpr.models import Bundle, find_bundle
from bpr.seed.finetune import Outcome, Request, finetune
from bpr.seed.measure import change, mean_dice
from bpr.seed.plan import Recipe, parse_budget
from bpr.seed.project import SeedProject
from bpr.training.dataset import Case, data_folder, trunk_cases

OTHER_SCANNER = Scanner(kernel=-0.3, detail_mm=3.0, noise_hu=20.0, grain_mm=2.0, scale=1.04, shift_hu=20.0,
                        cupping_hu=-20.0, contrast=1.3)  # fmt: skip
OTHERS = 2 if QUICK else 10


def project_of(folder: Path, bundle: Bundle, cases: list[Case], scanner: Scanner, first_seed: int) -> SeedProject:
    """A project of these people in a scanner; all of them on the training side."""
    project = SeedProject.create(folder, bundle.name)
    for number, case in enumerate(cases):
        add(project, case, scanner, folder.parent, first_seed + number)
    return project


def learned(folder: Path, bundle: Bundle, cases: list[Case], together: tuple[str, ...]) -> Outcome:
    """The new scanner's cases, trained as a person would start it."""
    project = project_of(folder, bundle, cases, NEW_SCANNER, 100)
    request = Request(steps=6, recipe=Recipe(checks=1), together=together) if QUICK else (
        Request(budget_s=parse_budget(BUDGET), together=together))  # fmt: skip
    return finetune(project, request)


def main() -> None:
    started = time.time()
    bundle, cases = find_bundle(BUNDLE), [case for case in trunk_cases(data_folder(None)) if case.labels]
    people = [case for case in cases if case.use == "restricted"][: 2 if QUICK else None]
    new = [case for case in cases if case.id in SEEDS][: 2 if QUICK else None]
    taken = {case.patient for case in new}
    others = [case for case in cases if case.use == "open" and case.patient not in taken][:OTHERS]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        test = test_people(bundle, people, NEW_SCANNER, folder)
        other = project_of(folder / "other scanner", bundle, others, OTHER_SCANNER, 200)
        before = test.measured(bundle)
        outcomes = {"alone": learned(folder / "alone", bundle, new, ()),
                    "together": learned(folder / "together", bundle, new, (str(other.folder),))}  # fmt: skip
        after = {name: test.measured(outcome.bundle) for name, outcome in outcomes.items()}
        steps = {name: outcome.run.outcome()["steps"] for name, outcome in outcomes.items()}
    gain = change(after["alone"], after["together"])
    rows = [Row("SEED cases", len(new), ""), Row("cases of the other project", len(others), ""),
            Row("test people", len({case.patient for case in people}), ""),
            Row("together against alone: mean change by patient", gain.mean, "Dice", ">= 0.0"),
            Row("together against alone: lower end of the 95 % interval", gain.low, "Dice"),
            Row("together against alone: upper end of the 95 % interval", gain.high, "Dice"),
            Row("untouched model: mean over organs", mean_dice(before), "Dice")]  # fmt: skip
    for name, found in after.items():
        rows += [Row(f"{name}: mean over organs", mean_dice(found), "Dice"), Row(f"{name}: steps", steps[name], ""),
                 Row(f"{name}: change over the untouched model", change(before, found).mean, "Dice")]  # fmt: skip
    write_study("together", rows, started)


if __name__ == "__main__":
    main()
