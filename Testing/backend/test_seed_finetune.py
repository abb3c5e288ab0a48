"""Fine-tuning of a toy network: it learns, stops, pauses, survives kill -9, repeats itself and judges honestly."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")
pytest.importorskip("onnx", reason="writing bundles needs onnx, which this environment leaves out")

import safetensors.torch  # noqa: E402
from seed_samples import write_toy_case  # noqa: E402

from bpr.errors import InputError, OutputError  # noqa: E402
from bpr.evaluation.statistics import Estimate  # noqa: E402
from bpr.models import find_bundle, names_in_use  # noqa: E402
from bpr.seed.compare import compare, markdown  # noqa: E402
from bpr.seed.defaults import roll_back, use_model  # noqa: E402
from bpr.seed.finetune import Request, finetune  # noqa: E402
from bpr.seed.marks import Mark  # noqa: E402
from bpr.seed.measure import OrganDice, change, mean_dice  # noqa: E402
from bpr.seed.memory import ElasticWeights, Memory, OldModel  # noqa: E402
from bpr.seed.organs import Organs  # noqa: E402
from bpr.seed.plan import Recipe, parse_budget  # noqa: E402
from bpr.seed.project import SeedProject  # noqa: E402
from bpr.seed.runs import ask, latest  # noqa: E402

QUICK = Request(steps=12, memory_cases=False, recipe=Recipe(checks=3, memory=Memory(0.25, 1.0, 0.0)))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_project(folder: Path, bundle, patients: int = 3) -> SeedProject:
    project = SeedProject.create(folder / "project", str(bundle.folder))
    for seed in range(patients):
        project.add(*write_toy_case(folder / f"in{seed}", seed), [Mark()], domain="scanner A")
    return project


@pytest.fixture
def project(tmp_path: Path, bundle) -> SeedProject:
    return make_project(tmp_path, bundle)


def weights(outcome) -> dict:
    return safetensors.torch.load_file(str(outcome.bundle.weights))


def test_it_learns_and_writes_a_bundle_with_its_card(project, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("BPR_MODELS", str(tmp_path / "models"))
    events: list[dict] = []
    recipe = Recipe(learning_rate=2e-2, encoder_scale=1.0, checks=4, memory=Memory(0, 0, 0))
    outcome = finetune(project, Request(steps=60, memory_cases=False, recipe=recipe), events.append)
    assert outcome.comparison.groups[0].change.mean > 0.2 and outcome.comparison.accepted
    assert [e["name"] for e in events if e["event"] == "stage"] == [
        "gathering",
        "before",
        "training",
        "writing",
        "after",
    ]
    assert any(e.get("code") == "cpu" for e in events) or torch.cuda.is_available()
    dice = [e for e in events if e.get("name") == "dice"]
    assert [e["step"] for e in dice] == [0, 15, 30, 45, 60] and set(dice[-1]["organs"]) == {"liver", "spleen"}
    assert events[-1]["event"] == "result" and events[-1]["state"] == "done"
    outcome.bundle.verify()
    card = outcome.bundle.card
    assert "fine-tuned" in card and "case003 | validation" in card and "60 of 60" in card
    facts = outcome.bundle.facts
    assert facts["seed"]["parent"] == "toy" and len(facts["seed"]["plan"]["cases"]) == 3
    assert facts["domains"] == ["scanner A"]
    assert (outcome.run.folder / "curves.png").stat().st_size > 10_000
    used = use_model(outcome.bundle.folder)
    assert list(names_in_use().values()) == [used.name] == ["toy_seed1"] and find_bundle("toy_seed1").role == "baseline"
    assert use_model(outcome.bundle.folder).name == "toy_seed1", "installed once"
    namesake = tmp_path / "other" / "toy_seed1"
    shutil.copytree(bundle.folder, namesake)
    assert use_model(namesake).name == "toy_seed2", "another project's model of the same name is another model"
    assert roll_back("baseline") == "toy_seed1"
    assert roll_back("baseline") == "bpr_baseline" and list(names_in_use().values()) == []
    with pytest.raises(InputError, match="the one that ships"):
        roll_back("baseline")


def test_the_same_project_twice_gives_the_same_model(tmp_path, bundle):
    """Also when the project was copied, and whatever the clock says."""
    first = finetune(make_project(tmp_path / "a", bundle), QUICK)
    second = finetune(make_project(tmp_path / "b", bundle), QUICK)
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert first.comparison == second.comparison


CHILD = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from test_seed_finetune import QUICK
from bpr.seed.finetune import finetune
from bpr.seed.project import SeedProject
finetune(SeedProject.open(Path(sys.argv[1])), QUICK, lambda e: print(e, flush=True))
"""


def start_child(project: SeedProject) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "BPRSegmentation"), "OMP_WAIT_POLICY": "passive"}
    code = CHILD.format(here=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", code, str(project.folder)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env=environment)  # fmt: skip


def test_a_killed_training_resumes_to_the_same_weights(tmp_path, bundle):
    """kill -9 after the measurement at step 8, in the middle of the steps after it."""
    whole = finetune(make_project(tmp_path / "a", bundle), QUICK)
    project = make_project(tmp_path / "b", bundle)
    child = start_child(project)
    for line in child.stdout:
        if "'step': 8" in line and "'dice'" in line:
            break
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert latest(project.folder).resumable
    SeedProject.open(project.folder).cases()
    events: list[dict] = []
    outcome = finetune(project, replace(QUICK, resume=True), events.append)
    assert [e["step"] for e in events if e.get("name") == "dice"] == [0, 4, 8, 12]
    a, b = weights(whole), weights(outcome)
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(InputError, match="no unfinished training"):
        finetune(project, replace(QUICK, resume=True))


def test_pause_keeps_everything_and_stop_keeps_the_best(project):
    def pause(event: dict) -> None:
        if event.get("name") == "dice" and event["step"] == 4:
            ask(latest(project.folder), "pause")

    events: list[dict] = []
    outcome = finetune(project, QUICK, lambda e: (events.append(e), pause(e)))
    assert outcome.state == "paused" and events[-1]["state"] == "paused" and outcome.run.resumable

    def stop(event: dict) -> None:
        if event.get("name") == "dice" and event["step"] == 8:
            ask(latest(project.folder), "stop")

    outcome = finetune(project, replace(QUICK, resume=True), stop)
    assert outcome.state == "done" and outcome.run.outcome()["steps"] in (8, 9)
    assert outcome.run.outcome()["reason"] == "stopped by a person"


def test_a_changed_project_is_not_resumed(project):
    def pause(event: dict) -> None:
        if event.get("name") == "dice" and event["step"] == 4:
            ask(latest(project.folder), "pause")

    finetune(project, QUICK, pause)
    project.mark("case001", [Mark(((3, 20),))], replace=True)
    with pytest.raises(InputError, match=r"changed since this training began \(case001\)"):
        finetune(project, replace(QUICK, resume=True))


def test_a_budget_is_kept_and_one_that_is_too_short_is_refused(project):
    with pytest.raises(InputError, match="is too short"):
        finetune(project, Request(budget_s=2, memory_cases=False))
    assert latest(project.folder) is None, "nothing was begun"
    assert [parse_budget(text) for text in ("90s", "10m", "2h", "5")] == [90, 600, 7200, 300]
    with pytest.raises(InputError, match="not possible"):
        parse_budget("soon")


def test_it_stops_when_nothing_is_gained_and_names_memorising(project):
    recipe = Recipe(learning_rate=1e-9, checks=10, patience=3, memory=Memory(0, 0, 0))
    outcome = finetune(project, Request(steps=10, memory_cases=False, recipe=recipe)).run.outcome()
    assert outcome["steps"] == 5 and outcome["best"] == 0 and outcome["reason"] == "no further gain"
    assert not outcome["accepted"] and "not better" in outcome["sentences"][0]
    memorising = replace(recipe, gap=-1.0)
    outcome = finetune(project, Request(steps=10, memory_cases=False, recipe=memorising)).run.outcome()
    assert outcome["reason"] == "it only memorised the training cases"


def test_two_trainings_at_once_are_refused(project):
    (project.folder / "training.lock").write_text("1")
    with pytest.raises(InputError, match="is running"):
        finetune(project, QUICK)


def test_a_full_disk_in_the_middle_is_one_sentence_and_the_project_stays(tmp_path, bundle):
    """Files of more than 40 kB cannot be written: the weights do not fit, the small records do."""
    project = make_project(tmp_path, bundle)
    before = [case.sums for case in project.cases()[0]]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard[1]))
    try:
        with pytest.raises(OutputError, match="disk") as caught:
            finetune(project, QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, hard)
    assert "Traceback" not in str(caught.value)
    assert [case.sums for case in SeedProject.open(project.folder).cases()[0]] == before
    assert finetune(project, QUICK).state == "done"


def test_a_frozen_encoder_stays_and_the_rest_learns(project, bundle):
    recipe = Recipe(learning_rate=1e-2, encoder_scale=0, checks=2, memory=Memory(0, 0, 0))
    outcome = finetune(project, Request(steps=8, memory_cases=False, recipe=recipe))
    old, new = safetensors.torch.load_file(str(bundle.weights)), weights(outcome)
    for name in old:
        assert torch.equal(old[name], new[name]) == bool(Organs.encoder.match(name)), name


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(2, 3, 1)


def test_learning_without_forgetting_holds_the_silent_voxels_only():
    network, images = tiny(), torch.randn(1, 2, 8, 8, 8)
    old = OldModel(network)
    silent = torch.zeros(1, 8, 8, 8, dtype=torch.bool)
    assert old.loss(images, network(images), silent).item() == 0
    silent[:, :4] = True
    assert old.loss(images, network(images), silent).item() == pytest.approx(0, abs=1e-6)
    other = (network(images) + torch.randn(1, 3, 8, 8, 8)).detach().requires_grad_(True)
    old.loss(images, other, silent).backward()
    assert other.grad[:, :, 4:].abs().max() == 0 and other.grad[:, :, :4].abs().max() > 0


def test_elastic_weights_resist_most_where_it_matters():
    network = tiny()
    patches = [torch.cat([torch.randn(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)], 1) for _ in range(4)]
    elastic = ElasticWeights(network, patches)
    assert elastic.penalty(network).item() == 0
    used, unused = elastic.fisher["weight"][:, 0], elastic.fisher["weight"][:, 1]
    assert used.min() > 0 and unused.max() == 0, "the second input was always zero: its weights are free"
    with torch.no_grad():
        network.weight[:, 1] += 5
    assert elastic.penalty(network).item() == 0
    with torch.no_grad():
        network.weight[:, 0] += 1
    assert elastic.penalty(network).item() > 0


def test_earlier_domains_are_replayed_and_watched(tmp_path, bundle, monkeypatch):
    """A model that has learned scanner A, trained on scanner B, is measured on A's validation cases."""
    monkeypatch.setenv("BPR_MODELS", str(tmp_path / "models"))
    project = make_project(tmp_path, bundle)
    first = finetune(project, QUICK)
    use_model(first.bundle.folder)
    project.change(bundle=first.bundle.name)
    for seed in range(3, 6):
        project.add(*write_toy_case(tmp_path / f"in{seed}", seed, shift_hu=60), [Mark()], domain="scanner B")
    second = finetune(project, QUICK)
    groups = {group.domain: group.remembered for group in second.comparison.groups}
    assert groups.get("scanner A") is True or "scanner A" not in groups
    assert second.bundle.name == "toy_seed2" and second.bundle.facts["domains"] == ["scanner A", "scanner B"]


def dice(domain: str, values: dict[str, float]) -> list[OrganDice]:
    return [OrganDice(name, name, domain, "liver", value) for name, value in values.items()]


def test_a_model_that_forgot_is_never_accepted():
    before = dice("new", {"a": 0.5, "b": 0.6}) + dice("sample", {"s": 0.9})
    better = dice("new", {"a": 0.7, "b": 0.8})
    good = compare(before, better + dice("sample", {"s": 0.895}), {"sample"}, held_out=False)
    assert good.accepted and "+0.200" in good.sentences[0]
    bad = compare(before, better + dice("sample", {"s": 0.88}), {"sample"}, held_out=False)
    assert not bad.accepted and "forgotten some of sample" in bad.sentences[0]
    worse = compare(before, dice("new", {"a": 0.4, "b": 0.6}) + dice("sample", {"s": 0.9}), {"sample"}, False)
    assert not worse.accepted and "not better" in worse.sentences[0]
    assert "| **sample (remembered)** | 0.900 | 0.880 | -0.020" in markdown(bad)


def test_absent_organs_do_not_count_as_dice():
    rows = [OrganDice("a", "a", "d", "liver", 0.8), OrganDice("a", "a", "d", "spleen", None)]
    assert mean_dice(rows) == 0.8 and np.isnan(mean_dice(rows[1:]))
    assert change(rows, rows) == Estimate(0.0, 0.0, 0.0, 1)


def test_the_child_process_speaks_the_protocol(project):
    """What the module starts: bpr finetune --json, one JSON object a line, exit 0 only after the result."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "BPRSegmentation"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bpr.cli", "finetune", str(project.folder), "--steps", "4", "--memory", "none",
               "--json"]  # fmt: skip
    (project.folder / "training.lock").write_text("1")
    refused = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert refused.returncode == 2
    event = json.loads(refused.stdout.splitlines()[-1])
    assert event["event"] == "error" and "is running" in event["message"] and event["advice"]
