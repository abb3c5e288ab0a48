"""Every study of Testing/benchmarks can be started, and its goals are judged as they read."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="studies need torch, which this environment leaves out")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STUDIES = [path.stem for path in BENCHMARKS.glob("*.py") if "def main(" in path.read_text(encoding="utf-8")]


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when Python is started on the file itself."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_can_be_loaded(name: str):
    module = importlib.import_module(name)
    sys.modules.pop(name)
    assert callable(module.main) and f"make study NAME={name}" in (module.__doc__ or "")


def test_goals_are_judged_as_they_read():
    row = importlib.import_module("study").Row
    assert row("a", 7.0, "mm", "<= 7.0").met and not row("a", 7.1, "mm", "<= 7.0").met
    assert row("b", 99.9, "%", ">= 99.9").met and row("c", 1.0, "x").met is None


def test_ratios_are_taken_over_the_same_people():
    tables = importlib.import_module("scoring_tables")
    import numpy as np

    def errors(values):
        people = np.array(["p", "p", "q", "r"])
        return tables.Errors(people, people, people, np.array(["bone"] * 4), np.array(values), np.ones(4))

    ratio, low, high = tables.paired([errors([1.0, -1.0, 2.0, 3.0])], [errors([2.0, -2.0, 4.0, 6.0])])
    assert ratio == pytest.approx(0.5) and low == pytest.approx(0.5) and high == pytest.approx(0.5)
