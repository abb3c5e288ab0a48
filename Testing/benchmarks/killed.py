"""kill -9 at random moments of a fine-tuning: what is lost, and does it end where an undisturbed one ends?

make study NAME=killed       (QUICK=1: two moments, nothing is stored; BPR_KILLS sets the number, default 20)

A toy network on three toy cases (Testing/backend/seed_samples.py), the whole way from reading to the written bundle.
Every moment has its own project: the child is killed, the project is read again, the training resumed (or started anew
when it had not begun), and its weights compared with those of a training that was left alone. Children are forked, so
that the moments lie in the training and not in the seconds in which torch is loaded.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from study import QUICK, Row, write_study

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "backend"))
from seed_samples import write_toy_bundle, write_toy_case

from bpr.seed.finetune import Request, finetune
from bpr.seed.marks import Mark
from bpr.seed.memory import Memory
from bpr.seed.plan import Recipe
from bpr.seed.project import SeedProject
from bpr.seed.runs import CHECKPOINT, Run, latest

KILLS = 2 if QUICK else int(os.environ.get("BPR_KILLS", "20"))
RECIPE = Recipe(learning_rate=1e-2, encoder_scale=1.0, checks=4, memory=Memory(0.25, 1.0, 0.0))
REQUEST = Request(steps=16, memory_cases=False, recipe=RECIPE)
EPOCH = REQUEST.steps // RECIPE.checks  # steps between two measurements
FORK = multiprocessing.get_context("fork")


def make_project(folder: Path, bundle: Path) -> SeedProject:
    """A project of three toy patients."""
    project = SeedProject.create(folder, str(bundle))
    for seed in range(3):
        project.add(*write_toy_case(folder.parent / f"{folder.name}_{seed}", seed), [Mark()], domain="scanner A")
    return project


def child(folder: Path, resume: bool) -> None:
    """What is killed: a training that writes down every event."""
    torch.set_num_threads(1)
    with open(folder.with_suffix(".events"), "a", encoding="utf-8") as file:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

        def emit(event: dict) -> None:
            file.write(json.dumps(event, default=str) + "\n")
            file.flush()

        finetune(SeedProject.open(folder), replace(REQUEST, resume=resume), emit)


def start(folder: Path, resume: bool = False) -> multiprocessing.Process:
    """A forked training."""
    process = FORK.Process(target=child, args=(folder, resume))
    process.start()
    return process


def last_step(folder: Path) -> int:
    """The last step that was reported."""
    lines = folder.with_suffix(".events").read_text(encoding="utf-8").splitlines()
    return max((json.loads(line).get("step", 0) for line in lines[:-1] if line), default=0)


def stored_step(run: Run | None) -> int:
    """The step from which a training goes on."""
    checkpoint = run.folder / CHECKPOINT if run else None
    return torch.load(checkpoint, weights_only=True)["step"] if checkpoint and checkpoint.is_file() else 0


def weights(run: Run) -> dict[str, torch.Tensor]:
    """The new bundle's weights."""
    return safetensors.torch.load_file(str(next(run.bundle_folder.glob("**/*.safetensors"))))


def dice(run: Run) -> float:
    """Validation Dice of the new model, as it was compared."""
    return run.outcome()["comparison"]["groups"][0]["after"]["mean"]


def kill_once(folder: Path, bundle: Path, moment_s: float, whole: Run) -> dict:
    """Kill one training after so many seconds, resume it, compare."""
    project = make_project(folder, bundle)
    process = start(folder)
    time.sleep(moment_s)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    killed = process.exitcode == -signal.SIGKILL
    run = latest(folder)
    good, bad = SeedProject.open(folder).cases()
    lost = max(last_step(folder) - stored_step(run), 0) if run and not run.finished else 0
    if killed and not (run and run.finished):
        again = start(folder, resume=bool(run and run.resumable))
        again.join()
    run = latest(folder)
    ended = bool(run and run.finished)
    same = ended and all(torch.equal(a, b) for a, b in zip(weights(run).values(), weights(whole).values(), strict=True))
    return {"killed": killed, "lost": lost, "ended": ended, "same": same, "project": len(good) == 3 and not bad,
            "dice": abs(dice(run) - dice(whole)) if ended else 1.0, "left": _left_over(project.folder)}  # fmt: skip


def _left_over(folder: Path) -> int:
    """Half-written files that nobody will ever finish."""
    return sum(path.suffix == ".partial" for path in folder.rglob("*"))


def main() -> None:
    started = time.time()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = write_toy_bundle(folder / "bundle").folder
        make_project(folder / "whole", bundle)
        began = time.monotonic()
        start(folder / "whole").join()
        seconds = time.monotonic() - began
        whole = latest(folder / "whole")
        moments = np.random.default_rng(0).uniform(0.02, 0.98, KILLS) * seconds
        found = []
        for number, moment in enumerate(moments):
            found.append(kill_once(folder / f"killed{number}", bundle, float(moment), whole))
            print(f"killed after {moment:.2f} s of {seconds:.2f}: {found[-1]}", flush=True)
    rows = [Row("trainings killed in the middle", sum(f["killed"] for f in found), "", f">= {KILLS * 0.8:.0f}"),
            Row("ended after resuming", 100 * np.mean([f["ended"] for f in found]), "%", ">= 100"),
            Row("most steps lost", max(f["lost"] for f in found), "", f"<= {EPOCH}"),
            Row("same weights, to the bit, as undisturbed", 100 * np.mean([f["same"] for f in found]), "%"),
            Row("largest difference of final Dice", max(f["dice"] for f in found), "Dice", "<= 0.01"),
            Row("projects unharmed", 100 * np.mean([f["project"] for f in found]), "%", ">= 100"),
            Row("half-written files left", max(f["left"] for f in found), "", "<= 0")]  # fmt: skip
    write_study("killed", [replace(row, value=float(row.value)) for row in rows], started)


if __name__ == "__main__":
    main()
