"""Rapid labeling: how many slices of a new case must a person correct until the whole case is right?

make study NAME=labelling    (QUICK=1: one person, two steps a round, nothing is stored; BPR_STUDY_WORK keeps people)

A simulated annotator corrects one slice in N (3 mm slices, every organ that is labeled) of people who taught no
network. Compared on the whole region: the shipped model as it is, interpolation between the corrected slices without
any model, the shipped model moved as the corrections say (bpr.seed.between), and the loop: correct one slice in 20,
fine-tune, correct one in 10, fine-tune. A fine-tuning has 100 s, which BPR_ROUND changes. Beside it stands what two
readers agree to, each of whom looked at every slice: three scans, the same structures.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from study import QUICK, RESULTS, Row, part, write_study

from bpr.compute.engines import open_engine
from bpr.evaluation.statistics import bootstrap_mean
from bpr.models import Bundle, find_bundle, sha256
from bpr.seed.between import fill_between
from bpr.seed.case import State
from bpr.seed.finetune import Request, finetune
from bpr.seed.grid import grid_ct
from bpr.seed.marks import Mark
from bpr.seed.plan import Recipe, parse_budget
from bpr.seed.project import SeedProject
from bpr.segmentation.inference import segment_volume
from bpr.segmentation.labels import structure_by_id
from bpr.training.cases import read_labels
from bpr.training.dataset import Case, data_folder, trunk_cases
from bpr.volume import read_volume

BUNDLE = "bpr_upper_abdomen"
APART = (40, 20, 10, 4)  # one slice in so many is corrected
ROUNDS = (20, 10)  # of the loop, one after the other
ROUND_S = parse_budget(os.environ.get("BPR_ROUND", "100s"))
PEOPLE = 3  # go through the loop, which takes minutes each; all others through everything else
LEAST_VOXELS = 50
MODEL, BETWEEN, MOVED, LOOP = "shipped model", "interpolation", "shipped model, moved", "loop"


@dataclass(frozen=True)
class Subject:
    """One person on the labels' grid: ``truth`` (z, y, x) holds the values of labeled organs in the region, else 0."""

    path: Path
    truth: np.ndarray
    organs: tuple[str, ...]
    slices: np.ndarray
    heights: tuple[float, float]
    spacing: tuple[float, float, float]

    @property
    def values(self) -> list[int]:
        """Label values of the organs."""
        return [structure_by_id(name).value for name in self.organs]

    def corrected(self, apart: int) -> np.ndarray:
        """(z,) bool: one slice in ``apart`` of the region and its last one; those of 20 are among those of 10.

        Both ends are there in fairness to interpolation, which cannot know how an organ goes on beyond them.
        """
        marked = np.zeros(len(self.truth), bool)
        marked[[*self.slices[::apart], self.slices[-1]]] = True
        return marked


def subject(case: Case, bundle: Bundle, folder: Path) -> Subject | None:
    """Resample a case to its labels' grid; None when it does not hold the region."""
    labels = sitk.ReadImage(str(case.labels))
    image = sitk.Resample(sitk.ReadImage(str(case.path)), labels, sitk.Transform(), sitk.sitkLinear, -1024)
    path = folder / "ct.nrrd"
    sitk.WriteImage(image, str(path))
    grid = grid_ct(path, folder / "cache", True)
    if bundle.slot not in grid.heights or grid.slices_of(bundle) is None:
        return None
    low, high = grid.heights[bundle.slot]
    z = labels.GetOrigin()[2] + labels.GetSpacing()[2] * np.arange(labels.GetSize()[2])
    inside = (z >= low) & (z <= high)
    truth = sitk.GetArrayFromImage(labels) * inside[:, None, None]
    named = [name for name in bundle.facts["structures"] if name in case.hint["labelled"]]
    organs = tuple(name for name in named if (truth == structure_by_id(name).value).sum() >= LEAST_VOXELS)
    truth[~np.isin(truth, [structure_by_id(name).value for name in organs])] = 0
    return Subject(path, truth, organs, np.flatnonzero(inside), (low, high), labels.GetSpacing()[::-1])


def segmented(person: Subject, bundle: Bundle) -> np.ndarray:
    """(z, y, x) labels of a bundle in the region, of the organs that are labeled."""
    wanted = [structure_by_id(name).value for name in bundle.facts["structures"]]
    load = open_engine(device="cpu").predictor
    found = segment_volume(read_volume(person.path), {bundle: person.heights}, load, wanted)
    labels = sitk.GetArrayFromImage(found.labels).copy()
    labels[~np.isin(labels, person.values)] = 0
    return inside(person, labels)


def inside(person: Subject, labels: np.ndarray) -> np.ndarray:
    """Labels in the region only."""
    result = np.zeros_like(labels)
    result[person.slices] = labels[person.slices]
    return result


def filled(person: Subject, labels: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """What a proposal shows after the marked slices (z,) have been corrected."""
    result = inside(person, fill_between(labels, person.truth, dict.fromkeys(person.values, marked), person.spacing))
    result[marked] = person.truth[marked]
    return result


def dice(person: Subject, labels: np.ndarray) -> float:
    """Mean Dice of the organs in the whole region."""
    pairs = [(labels == value, person.truth == value) for value in person.values]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def entry(
    person: Subject, labels: np.ndarray, marked: np.ndarray, apart: int, changed: int, seconds: float = 0.0
) -> dict:
    """One point of a curve: corrected slices, voxels that the annotator changed, Dice, seconds of the round."""
    return {"apart": apart, "slices": int(marked.sum()), "changed": changed, "dice": dice(person, labels),
            "seconds": seconds}  # fmt: skip


def loop(person: Subject, bundle: Bundle, start: np.ndarray, folder: Path) -> list[dict]:
    """Rounds of correcting, fine-tuning and proposing."""
    project = SeedProject.create(folder / "project", bundle.name)
    shown, drawn, marked = start, start.copy(), np.zeros(len(start), bool)
    changed, entries, name = 0, [], ""
    for apart in ROUNDS[:1] if QUICK else ROUNDS:
        new = person.corrected(apart) & ~marked
        changed += int((shown[new] != person.truth[new]).sum())
        marked |= new
        drawn[marked] = person.truth[marked]
        image = sitk.GetImageFromArray(drawn)
        image.CopyInformation(sitk.ReadImage(str(person.path)))
        sitk.WriteImage(image, str(folder / "drawn.nrrd"))
        marks = [Mark(tuple((int(k), int(k)) for k in np.flatnonzero(marked)), person.organs)]
        if name:
            project.replace_segmentation(name, folder / "drawn.nrrd", role="annotator", state=State.ACCEPTED)
            project.mark(name, marks, replace=True)
        else:
            name = project.add(person.path, folder / "drawn.nrrd", marks, patient="p", domain="new").id
        started = time.monotonic()
        request = Request(steps=2, recipe=Recipe(checks=1)) if QUICK else Request(budget_s=ROUND_S)
        outcome = finetune(project, request)
        model = segmented(person, outcome.bundle)
        shown = filled(person, model, marked)
        drawn, seconds = shown.copy(), time.monotonic() - started
        entries.append(entry(person, shown, marked, apart, changed, seconds) | {"model": dice(person, model)})
        project.change(bundle=str(outcome.bundle.folder))
    return entries


def without_training(person: Subject, start: np.ndarray) -> dict[str, list[dict]]:
    """Points of the methods that learn nothing from the corrections."""
    nothing = np.zeros_like(person.truth)
    curves = {MODEL: [entry(person, start, np.zeros(len(start)), 0, 0)], BETWEEN: [], MOVED: []}
    for apart in APART:
        marked = person.corrected(apart)
        for name, labels in ((BETWEEN, nothing), (MOVED, start)):
            changed = int((labels[marked] != person.truth[marked]).sum())
            curves[name].append(entry(person, filled(person, labels, marked), marked, apart, changed))
    return curves


def person_curves(case: Case, bundle: Bundle, learns: bool) -> dict[str, list[dict]]:
    """Every method's points of one person, the loop's if asked; empty when the case does not hold the region."""
    version = sha256(bundle.weights)[:8]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        @cache
        def ready() -> tuple[Subject | None, np.ndarray | None]:
            person = subject(case, bundle, folder)
            return person, person and segmented(person, bundle)

        def still() -> dict:
            person, start = ready()
            return without_training(person, start) if person else {}

        def learning() -> list[dict]:
            person, start = ready()
            return loop(person, bundle, start, folder)

        curves = part(f"labelling{'_quick' * QUICK}_{version}_{case.id}", still)
        if curves and learns:
            curves[LOOP] = part(f"labelling{'_quick' * QUICK}_{version}_{case.id}_loop", learning)
        words = ", ".join(f"{name} {points[-1]['dice']:.3f}" for name, points in curves.items())
        print(f"{case.id}: {words}, rounds {[round(p['seconds']) for p in curves.get(LOOP, [])]} s", flush=True)
        return curves


def collected(curves: dict[str, dict]) -> dict[tuple[str, int], dict[str, dict]]:
    """(method, apart) to person to point."""
    found: dict[tuple[str, int], dict[str, dict]] = {}
    for person, methods in curves.items():
        for name, points in methods.items():
            for point in points:
                found.setdefault((name, point["apart"]), {})[person] = point
    return found


def rows_of(found: dict) -> list[Row]:
    """The bar, then Dice, corrected slices and changed voxels of every point."""
    rows = []
    for method, goal in ((LOOP, ">= 0"), (MOVED, "")):
        last = (method, ROUNDS[0] if QUICK else ROUNDS[-1])
        people = list(found.get(last, {}))
        gain = bootstrap_mean([found[last][p]["dice"] - found[BETWEEN, 4][p]["dice"] for p in people], people)
        name = f"{method}, one slice in {last[1]}, minus interpolation with one in 4"
        rows += [Row(name, gain.mean, "Dice", goal), Row(f"{name}, lower end", gain.low, "Dice"),
                 Row(f"{name}, upper end", gain.high, "Dice")]  # fmt: skip
    rounds = [point["seconds"] for (name, _), points in found.items() if name == LOOP for point in points.values()]
    rows.append(Row("longest round: training, segmenting, filling in", max(rounds, default=np.nan), "s", "<= 120"))
    for (name, apart), of_people in found.items():
        points = list(of_people.values())
        words = f"{name}, one slice in {apart}" if apart else name
        values = bootstrap_mean([point["dice"] for point in points], list(of_people))
        rows += [Row(f"{words}: Dice", values.mean, ""), Row(f"{words}: lower end", values.low, ""),
                 Row(f"{words}: upper end", values.high, ""),
                 Row(f"{words}: corrected slices", float(np.mean([p["slices"] for p in points])), ""),
                 Row(f"{words}: changed voxels", float(np.mean([p["changed"] for p in points])), "")]  # fmt: skip
    return rows


def draw(found: dict) -> None:
    """results/labelling.png: Dice against corrected slices and against changed voxels."""
    if QUICK:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, plots = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    start = found[MODEL, 0]
    for plot, key, label in zip(plots, ("slices", "changed"), ("corrected slices", "changed voxels"), strict=True):
        for name in (BETWEEN, MOVED, LOOP):
            points = [found[method] for method in found if method[0] == name]
            if name != BETWEEN:
                points = [start, *points]
            x = [np.mean([p[key] for p in people.values()]) for people in points]
            y = [np.mean([p["dice"] for p in people.values()]) for people in points]
            plot.plot(x, y, "o-", label=name)
        plot.set_xlabel(f"{label} a case, mean")
        plot.grid(alpha=0.3)
    plots[0].set_ylabel("Dice of the whole region")
    plots[0].legend()
    figure.savefig(RESULTS / "labelling.png", dpi=120)
    plt.close(figure)


def readers_agree(data: Path, bundle: Bundle) -> list[float]:
    """Dice of two readers by structure of the bundle, in the scans that were read twice."""
    values = [structure_by_id(name).value for name in bundle.facts["structures"]]
    found = []
    for case in trunk_cases(data):
        again = data / "ct_labels" / "second_reader" / f"{case.id}.nii.gz"
        if case.labels and again.is_file():
            first, second = read_labels(case), read_labels(replace(case, labels=again))
            second = sitk.Resample(second, first, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
            pairs = [[sitk.GetArrayViewFromImage(image) == value for image in (first, second)] for value in values]
            found += [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs
                      if min(a.sum(), b.sum()) >= LEAST_VOXELS]  # fmt: skip
    return found


def main() -> None:
    started = time.time()
    bundle = find_bundle(BUNDLE)
    cases = [case for case in trunk_cases(data_folder(None)) if case.labels and case.use == "restricted"]
    cases = cases[:1] if QUICK else cases
    curves: dict[str, dict] = {}
    for case in cases:
        learns = sum(LOOP in methods for methods in curves.values()) < PEOPLE
        curves[case.patient] = person_curves(case, bundle, learns)
    found = collected(curves)
    draw(found)
    people = sum(bool(methods) for methods in curves.values())
    agreed = Row("two readers of the same scans: Dice", float(np.mean(readers_agree(data_folder(None), bundle))), "")
    write_study("labelling", [Row("people", people, ""), agreed, *rows_of(found)], started)


if __name__ == "__main__":
    main()
