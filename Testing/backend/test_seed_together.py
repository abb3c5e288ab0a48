"""Learning together with another project: its training cases teach, what validates on either side does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")
pytest.importorskip("onnx", reason="writing bundles needs onnx, which this environment leaves out")

from seed_samples import write_toy_case  # noqa: E402

from bpr.cli import build_parser  # noqa: E402
from bpr.errors import InputError  # noqa: E402
from bpr.models import find_bundle  # noqa: E402
from bpr.seed.case import Part  # noqa: E402
from bpr.seed.finetune import Request, finetune  # noqa: E402
from bpr.seed.learn import Mix  # noqa: E402
from bpr.seed.marks import Mark  # noqa: E402
from bpr.seed.material import gather, gather_together  # noqa: E402
from bpr.seed.memory import Memory  # noqa: E402
from bpr.seed.plan import Recipe  # noqa: E402
from bpr.seed.project import SeedProject  # noqa: E402
from bpr.seed.runs import ask, latest  # noqa: E402


@pytest.fixture
def projects(tmp_path: Path, bundle) -> tuple[SeedProject, SeedProject]:
    """One of three people, and another of four of whom one validates and one is in the first project too."""
    new = SeedProject.create(tmp_path / "new", str(bundle.folder))
    for seed in range(3):
        new.add(*write_toy_case(tmp_path / f"n{seed}", seed), [Mark()], domain="scanner A")
    other = SeedProject.create(tmp_path / "other", str(bundle.folder))
    for seed in (2, 11, 12, 13):
        other.add(*write_toy_case(tmp_path / f"o{seed}", seed), [Mark()], domain="scanner B")
    other.set_part("case004", Part.VALIDATION)
    return new, other


def test_only_what_may_teach_comes_from_the_other_project(projects):
    new, other = projects
    material, _ = gather(new, _bundle(new), memory_cases=False)
    found = gather_together((str(other.folder),), material.bundle, new)
    assert [case.id for case, _ in found] == ["case002", "case003"], "not who is here already, not who validates there"
    assert {taught.domain for _, taught in found} == {"other: scanner B"}
    with pytest.raises(InputError, match="no SEED project"):
        gather_together((str(other.folder / "cases"),), material.bundle, new)


def test_each_domain_is_met_as_often_however_many_cases_it_has(projects):
    new, other = projects
    material, _ = gather(new, _bundle(new), memory_cases=False)
    others = [taught for _, taught in gather_together((str(other.folder),), material.bundle, new)]
    mix = Mix(material.training, [], material.kind, 0.0, others)
    asked = []
    for number, sampler in enumerate(mix._taught):
        sampler.draw = lambda rng, number=number: asked.append(number) or (None, None, None)
    rng = np.random.default_rng(0)
    for _ in range(400):
        mix.draw(rng)
    assert len(mix._taught) == 2 and 0.4 < np.mean(asked) < 0.6
    alone = Mix(material.training, [], material.kind, 0.0)
    assert len(alone._taught) == 1


def test_a_training_together_says_so_and_resumes_with_the_same_cases(projects):
    new, other = projects
    recipe = Recipe(checks=2, memory=Memory(0, 0, 0))
    request = Request(steps=4, memory_cases=False, recipe=recipe, together=(str(other.folder),))
    paused = finetune(new, request, lambda event: _pause(new, event))
    assert paused.state == "paused"
    resume = Request(steps=4, memory_cases=False, recipe=recipe, resume=True)
    other.mark("case002", [Mark(((1, 2),), ("liver",))], replace=True)
    with pytest.raises(InputError, match="other/case002"):
        finetune(new, resume)
    other.mark("case002", [Mark()], replace=True)
    outcome = finetune(new, resume)
    plan = outcome.bundle.facts["seed"]["plan"]
    assert plan["together"] == ["other"], "a bundle that travels names no folders"
    assert {"other/case002", "other/case003"} <= set(plan["cases"])
    assert "Learned together with the project other." in outcome.bundle.card
    assert outcome.bundle.facts["domains"] == ["scanner A"], "what is learned beside is not what is remembered"


def _pause(project: SeedProject, event: dict) -> None:
    if event.get("name") == "dice" and event["step"] == 0:
        ask(latest(project.folder), "pause")


def _bundle(project: SeedProject):
    return find_bundle(project.bundle)


def test_the_terminal_takes_several_projects():
    options = build_parser().parse_args(["finetune", "mine", "--together", "a", "--together", "b"])
    assert [Path(name).name for name in options.together] == ["a", "b"]
