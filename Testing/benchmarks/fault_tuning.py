"""A fine-tuning under faults: a toy project with a finished training, and what must hold after the next one failed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from fault_runs import fresh, sums, tune

from bpr.errors import BPRError
from bpr.models import Bundle

HERE = Path(__file__).resolve()
PRELOAD = ("torch", "monai", "onnx", "bpr.seed.finetune")


def arguments(root: Path) -> list[str]:
    """A few steps on the project, without the phantoms that a person's training takes along: they take a minute."""
    return ["tune", str(root / "project")]


def prepare(root: Path) -> None:
    """A project of three cases, a toy network and a finished training (kept from the first call)."""
    template = root.with_name("tuning_template")
    shutil.rmtree(root, ignore_errors=True)
    if not template.exists():
        _make(root)
        shutil.copytree(root, template)
        return
    shutil.copytree(template, root)


def _make(root: Path) -> None:
    sys.path.insert(0, str(HERE.parents[1] / "backend"))
    from seed_samples import write_toy_bundle, write_toy_case

    from bpr.seed.marks import Mark
    from bpr.seed.project import SeedProject

    fresh(root)
    write_toy_bundle(root / "bundle")
    project = SeedProject.create(root / "project", str(root / "bundle" / "toy"))
    for seed in range(3):
        project.add(*write_toy_case(root / f"in{seed}", seed), [Mark()], domain="scanner")
    tune(str(project.folder), lambda event: None)


def damage(root: Path, code: int) -> str:
    """What is wrong with the project after a run that ended with ``code`` (-9: killed); "" when nothing is."""
    from bpr.seed.runs import runs

    project, template = root / "project", root.with_name("tuning_template") / "project"
    for name in ("cases", "runs/001"):
        if sums(project / name) != sums(template / name):
            return f"{name} is damaged"
    if (project / "project.json").read_bytes() != (template / "project.json").read_bytes():
        return "the project's file is damaged"
    for run in runs(project):
        if run.finished:
            try:
                Bundle(run.bundle_folder).verify()
            except (BPRError, TypeError, OSError) as error:
                return f"training {run.number} says that it is finished, but its model is not whole: {error}"
    if code == -9:
        return ""
    hidden = [p.name for p in project.rglob("*") if p.name.startswith(".") or p.suffix in (".partial", ".lock")]
    if hidden:
        return f"left over: {hidden}"
    whole = len(runs(project)) >= 2 and runs(project)[-1].finished  # one that was killed stays, to be resumed
    return "" if code or whole else "said done, but is not complete"
