"""Five SEED cases of a simulated new scanner: what fine-tuning a shipped bundle gains there and forgets elsewhere.

make study NAME=seed        (QUICK=1: two cases and a few steps, nothing is stored)

The scanner differs in kernel, noise, calibration, shading and contrast phase. SEED cases are open scans of five people;
everything is measured on the people whose scans never teach (use = restricted), who also chose no weights and no step:
the training itself holds out one of the five. BPR_SEED_BUDGET sets the time budget (default 10m), OMP_NUM_THREADS the
cores.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from scanner import Scanner
from study import QUICK, Row, write_study

from bpr.compute.engines import open_engine
from bpr.models import Bundle, find_bundle
from bpr.seed.case import SeedCase
from bpr.seed.cases import TeachingCase, teaching_case
from bpr.seed.finetune import Outcome, Request, finetune
from bpr.seed.kinds import kind_of
from bpr.seed.marks import Mark
from bpr.seed.measure import OrganDice, by_structure, change, mean_dice, measure
from bpr.seed.plan import Recipe, parse_budget
from bpr.seed.project import SeedProject
from bpr.segmentation.labels import label_table
from bpr.training.dataset import Case, data_folder, trunk_cases
from bpr.volume import read_volume

BUNDLE = "bpr_upper_abdomen"
SEEDS = ("hcc007", "acrin001_b", "hcc013", "tcgaay4070a", "vtk_pancreasctcb001")
NEW_SCANNER = Scanner(kernel=0.5, detail_mm=4.0, noise_hu=30.0, grain_mm=3.0, scale=0.96, shift_hu=-15.0,
                      cupping_hu=30.0, contrast=0.7)  # fmt: skip
BUDGET = os.environ.get("BPR_SEED_BUDGET", "10m")


@dataclass(frozen=True)
class Test:
    """The test people in one scanner, ready to be measured."""

    cases: list[TeachingCase]

    def measured(self, bundle: Bundle) -> list[OrganDice]:
        """Dice of a bundle as it runs in the main job."""
        return measure(kind_of(bundle), self.cases, open_engine(device="cpu").predictor(bundle))


def marks_of(case: Case) -> list[Mark]:
    """Everything that the label file says: labeled organs, and those that are certainly absent."""
    known = {structure.id for structure in label_table()}
    named = [*case.hint["labelled"], *(text.split(" ")[0] for text in case.hint["absent"])]
    return [Mark((), tuple(name for name in named if name in known))]


def add(project: SeedProject, case: Case, scanner: Scanner | None, scratch: Path, seed: int) -> SeedCase:
    """Add a scan to a project, as it is or in another scanner."""
    path = case.path
    if scanner:
        path = scratch / f"{case.id}.nrrd"
        sitk.WriteImage(scanner.scan(read_volume(case.path).image, seed), str(path))
    domain = "new scanner" if scanner else "old scanners"
    return project.add(path, case.labels, marks_of(case), domain=domain, patient=case.patient)


def test_people(bundle: Bundle, cases: list[Case], scanner: Scanner | None, folder: Path) -> Test:
    """The restricted cases that hold the region, through the same way as SEED cases."""
    project = SeedProject.create(folder / ("new" if scanner else "old"), bundle.name)
    found = []
    for number, case in enumerate(cases):
        added = add(project, case, scanner, folder, number)
        found.append(teaching_case(added, bundle, project.folder / "cache"))
    return Test(found)


def train(bundle: Bundle, cases: list[Case], folder: Path) -> Outcome:
    """The five SEED cases and the fine-tuning, as a person would start it."""
    project = SeedProject.create(folder / "seed", bundle.name)
    for number, case in enumerate(cases):
        add(project, case, NEW_SCANNER, folder, 100 + number)
    request = Request(steps=6, recipe=Recipe(checks=1)) if QUICK else Request(budget_s=parse_budget(BUDGET))
    return finetune(project, request, lambda event: print(event, flush=True) if event.get("name") == "dice" else None)


def gained(name: str, before: list[OrganDice], after: list[OrganDice], goal: str) -> list[Row]:
    """The change with its interval over patients, and the means before and after."""
    gain = change(before, after)
    rows = [Row(f"{name}: mean change by patient", gain.mean, "Dice", goal)]
    rows += [Row(f"{name}: {end} end of the 95 % interval", value, "Dice")
             for end, value in (("lower", gain.low), ("upper", gain.high))]  # fmt: skip
    rows += [Row(f"{name}: mean over organs {when}", mean_dice(found), "Dice")
             for when, found in (("before", before), ("after", after))]  # fmt: skip
    return rows


def main() -> None:
    started = time.time()
    bundle, cases = find_bundle(BUNDLE), [case for case in trunk_cases(data_folder(None)) if case.labels]
    people = [case for case in cases if case.use == "restricted"][: 2 if QUICK else None]
    seeds = [case for case in cases if case.id in SEEDS][: 2 if QUICK else None]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        old, new = (test_people(bundle, people, scanner, folder) for scanner in (None, NEW_SCANNER))
        before_old, before_new = old.measured(bundle), new.measured(bundle)
        outcome = train(bundle, seeds, folder)
        after_old, after_new = old.measured(outcome.bundle), new.measured(outcome.bundle)
        facts, threads = outcome.run.outcome(), outcome.bundle.facts["seed"]["plan"]["threads"]
    rows = [Row("SEED cases", len(seeds), ""), Row("test people", len({case.patient for case in people}), ""),
            Row("time budget", parse_budget(BUDGET), "s"), Row("threads", threads, ""),
            Row("time used, all told", facts["seconds"], "s", f"<= {parse_budget(BUDGET) * 1.02:.0f}"),
            Row("steps", facts["steps"], ""), Row("best step", facts["best"], ""),
            Row("lost by the old model on the new scanner", -change(before_old, before_new).mean, "Dice", ">= 0.10"),
            *gained("new scanner", before_new, after_new, ">= 0.05"),
            *gained("remembered scanners", before_old, after_old, ">= -0.01")]  # fmt: skip
    rows += [Row(f"new scanner, {name}: change", found.mean - by_structure(before_new)[name].mean, "Dice")
             for name, found in by_structure(after_new).items()]  # fmt: skip
    print("\n".join(facts["sentences"]))
    write_study("seed", rows, started)


if __name__ == "__main__":
    main()
