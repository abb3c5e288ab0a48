"""The trainings of a project: each in its own numbered folder, with what is asked of one that runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from bpr.errors import InputError
from bpr.files import remove
from bpr.seed.files import write_json, writing

PLAN, OUTCOME, BEFORE, CHECKPOINT = "plan.json", "outcome.json", "before.json", "checkpoint.pt"
REQUESTS = ("pause", "stop")


@dataclass(frozen=True)
class Run:
    """One training's folder: plan.json, checkpoint.pt, comparison pictures, outcome.json and the new bundle."""

    folder: Path

    @property
    def number(self) -> int:
        """Its number in the project."""
        return int(self.folder.name)

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return (self.folder / OUTCOME).is_file()

    @property
    def resumable(self) -> bool:
        """Whether ``--resume`` can go on with it."""
        return not self.finished and (self.folder / PLAN).is_file()

    def outcome(self) -> dict | None:
        """What came out of it: bundle, comparison, steps; None before the end or when the file is damaged."""
        try:
            return json.loads((self.folder / OUTCOME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, name: str, content: object) -> None:
        """Write one of the run's JSON files."""
        with writing(self.folder):
            write_json(self.folder / name, content)

    @property
    def bundle_folder(self) -> Path | None:
        """The new bundle's folder, once it is there."""
        outcome = self.outcome()
        folder = self.folder / outcome["bundle"] if outcome else None
        return folder if folder and folder.is_dir() else None


def runs(project: Path) -> list[Run]:
    """All trainings of a project, the latest last."""
    folder = project / "runs"
    if not folder.is_dir():
        return []
    return sorted((Run(path) for path in folder.iterdir() if path.name.isdigit()), key=lambda run: run.number)


def latest(project: Path) -> Run | None:
    """The last training, or None."""
    found = runs(project)
    return found[-1] if found else None


def new_run(project: Path) -> Run:
    """Make the folder of the next training."""
    number = max((run.number for run in runs(project)), default=0) + 1
    run = Run(project / "runs" / f"{number:03d}")
    with writing(project):
        run.folder.mkdir(parents=True)
    return run


def resumable_run(project: Path) -> Run:
    """The last training, when it was stopped in the middle. Raises InputError otherwise."""
    run = latest(project)
    if run is None or not run.resumable:
        raise InputError("There is no unfinished training to resume.", "Start a new one without --resume.")
    return run


def ask(run: Run, request: str) -> None:
    """Ask a running training to "pause" (keep everything and end) or to "stop" early and keep the best."""
    if request not in REQUESTS:
        raise ValueError(request)
    (run.folder / "request").write_text(request, encoding="utf-8")


def clear_away(project: Path) -> None:
    """Remove what killed trainings were writing; only who holds the project's lock may do it."""
    for path in [*(project / "runs").rglob("*.partial")]:
        remove(path)


def withdraw(run: Run) -> None:
    """Forget what was asked, and clear away what a killed training was writing, before it goes on."""
    (run.folder / "request").unlink(missing_ok=True)
    for path in run.folder.iterdir():
        if path.is_dir():  # a bundle that no outcome names
            shutil.rmtree(path)
        elif path.suffix == ".partial":
            path.unlink()
