"""Faults: a small part of the study `make study NAME=faults`, which lets every file operation fail in turn."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

pytest.importorskip("resource", reason="faults are injected by fork and a preloaded library, which Windows has not")

import fault_runs  # noqa: E402
import faults  # noqa: E402
from hostile import SLOW, hostile_archives  # noqa: E402
from malformed import judge, mutations  # noqa: E402

from bpr.cli import main  # noqa: E402


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def shim(scratch) -> Path:
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("injecting faults needs Linux and gcc")
    return fault_runs.build_shim(scratch)


def names(archives: dict) -> list[str]:
    return [name for name in archives if name not in SLOW]


@pytest.mark.parametrize("name", names(hostile_archives(Path("."))))
def test_hostile_bundles_are_refused(name, tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    archive = hostile_archives(tmp_path / "made")[name]()
    monkeypatch.setenv("BPR_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["models", "import", str(archive)]) == 2
    text = said.getvalue().strip()
    assert text and "\n" not in text and "Something went wrong" not in text
    assert not (tmp_path / "models").exists() or not any((tmp_path / "models").iterdir())
    assert {p.name for p in tmp_path.iterdir()} <= {"made", "models"}


def test_a_good_bundle_is_still_taken(tmp_path, monkeypatch):
    from hostile import good_files, zipped

    monkeypatch.setenv("BPR_MODELS", str(tmp_path / "models"))
    assert main(["models", "import", str(zipped(tmp_path / "good.zip", good_files()))]) == 0
    assert (tmp_path / "models" / "gift" / "models" / "model.onnx").is_file()


QUICK_JOBS = [job for job in faults.JOBS if job.name in ("main job", "batch")]


@pytest.mark.parametrize("job", QUICK_JOBS, ids=lambda job: job.name)
@pytest.mark.parametrize("mode", fault_runs.MODES)
def test_failing_file_operations(job, mode, shim, scratch):
    """An early and a late operation fail; the study lets all of them fail in turn."""
    root, log = scratch / "root", fault_runs.fresh(scratch / "log")
    job.prepare(root)
    with fault_runs.Forge(shim) as forge:
        for n in (1, 10):
            job.prepare(root)
            outcome = forge.run(job.arguments(root), log, root, fault_runs.MODES[mode], n)
            assert outcome.code == -9 or outcome.counted >= n, "the fault did not strike"
            assert job.verify(root, outcome) == "", n


def test_a_fine_tuning_that_fails_leaves_its_project_whole(shim, scratch):
    """A full disk early and a kill in the middle; then the same training goes well."""
    pytest.importorskip("monai", reason="fine-tuning needs torch and monai, which this environment leaves out")
    job = next(job for job in faults.JOBS if job.name == "fine-tuning")
    root, log = scratch / "tuning", fault_runs.fresh(scratch / "log")
    job.prepare(root)
    with fault_runs.Forge(shim, job.preload) as forge:
        for mode, n, code in (("disk full", 3, 2), ("killed", 20, -9), ("disk full", 10**6, 0)):
            job.prepare(root)
            outcome = forge.run(job.arguments(root), log, root, fault_runs.MODES[mode], n)
            assert outcome.code == code, (mode, outcome.stderr[-300:])
            assert job.verify(root, outcome) == "", mode
    (root / "project" / "cases" / "case001" / "more").write_text("not there before")
    assert job.verify(root, outcome) == "cases is damaged"


def test_the_harness_finds_a_lost_result(shim, scratch):
    """A check that could not fail would prove nothing."""
    root = scratch / "root"
    faults.prepare_run(root)
    (root / "out" / "scores.csv").unlink()
    assert faults.verify_run(root, fault_runs.Outcome(-9, [], 1, 0.0, 0.0, "")) == "the earlier result is lost"
    half = faults.is_complete(root / "out")
    assert not half


def test_malformed_inputs(scratch):
    out, log = scratch / "malformed_out", fault_runs.fresh(scratch / "log")
    with fault_runs.Forge() as forge:
        base = faults.unchanged(forge, scratch / "malformed", log, out)
        for mutation in mutations(scratch / "malformed", 7, first=160):
            shutil.rmtree(out, ignore_errors=True)
            outcome = forge.run(faults.score_arguments(mutation.path, out), log)
            kind, fault = judge(mutation, outcome, out, None if mutation.kind == "real dicom" else base)
            assert fault == "", (mutation, kind)
            assert outcome.peak_mb < 2048
