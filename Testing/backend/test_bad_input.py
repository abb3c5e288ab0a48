"""Whatever is wrong: the right exit code, one sentence that names it, no traceback, and nothing half written."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from bad_inputs import TABLE, Row, good, unharmed

from bpr.cli import main

FAILING = [row for row in TABLE if row.code]
WORKING = [row for row in TABLE if not row.code]


@pytest.fixture(scope="session")
def small_ct(sample_ct: Path) -> sitk.Image:
    """The sample at half its resolution in plane."""
    return sitk.ReadImage(str(sample_ct))[::2, ::2, :]


def by_name(row: Row) -> str:
    return row.name


def run(row: Row, folder: Path, ct: sitk.Image, *more: str) -> int:
    """Exit code of the command line on a row's input; its results go below the folder."""
    return main(["run", str(row.make(folder, ct)), "--out", str(folder / row.out), *row.arguments, *more])


def check_sentences(text: str) -> None:
    assert re.fullmatch(r"[^\n]+[.!?]", text), text
    for word in ("Traceback", "Error:", "itk::", "errno", "Something went wrong"):
        assert word not in text


def scores(folder: Path) -> np.ndarray:
    """Cleaned scores by growing height."""
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = sorted((float(row["z_mm"]), float(row["cleaned"])) for row in csv.DictReader(file))
    return np.array([score for _, score in rows])


@pytest.fixture(scope="session")
def base_scores(small_ct: sitk.Image, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Scores of the CT that nothing is wrong with."""
    folder = tmp_path_factory.mktemp("base")
    assert main(["run", str(good(folder, small_ct)), "--out", str(folder / "out"), "--only", "scores", "--json"]) == 0
    return scores(folder / "out")


def test_the_table_is_complete():
    assert len(TABLE) >= 40
    assert len({row.name for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("row", FAILING, ids=by_name)
def test_failure_is_one_sentence_and_leaves_nothing(tmp_path, small_ct, monkeypatch, capfd, row):
    if row.setup:
        row.setup(monkeypatch, tmp_path)
    (tmp_path / "input").mkdir()
    path = row.make(tmp_path / "input", small_ct)
    before = unharmed(tmp_path)
    code = main(["run", str(path), "--out", str(tmp_path / row.out), *row.arguments, "--json"])
    printed = capfd.readouterr()
    events = [json.loads(line) for line in printed.out.splitlines()]
    errors = [event for event in events if event["event"] == "error"]
    assert code == row.code, errors
    assert printed.err == ""
    assert len(errors) == 1 and errors[0] == events[-1] and errors[0]["details_file"] is None
    check_sentences(errors[0]["message"])
    if code == 2:
        check_sentences(errors[0]["advice"])
    assert row.words in errors[0]["message"]
    assert not row.names_file or path.name in errors[0]["message"]
    assert unharmed(tmp_path) == before


@pytest.mark.parametrize("row", WORKING, ids=by_name)
def test_what_can_be_mended_is_mended_and_told(tmp_path, small_ct, base_scores, capfd, row):
    code, out = run(row, tmp_path, small_ct, "--json"), tmp_path / row.out
    printed = capfd.readouterr()
    assert code == 0, printed.out
    assert printed.err == ""
    content = json.loads((out / "result.json").read_text(encoding="utf-8"))
    told = {notice["code"]: notice["message"] for notice in content["notices"]}
    assert row.words in told if row.words else told == {}
    for message in told.values():
        check_sentences(message)
    warned = [json.loads(line) for line in printed.out.splitlines()]
    assert [event["code"] for event in warned if event["event"] == "warning"] == list(told)
    if row.scores:
        expected = base_scores[::-1] if row.scores == "reversed" else base_scores
        limit = 0.5 if row.scores == "same" else 2.0
        assert np.abs(scores(out) - expected).max() < limit
    assert [place.name for place in out.parent.glob(".*")] == []


def test_upside_down_gives_no_regions_and_no_organs(tmp_path, small_ct):
    wrong = sitk.GetImageFromArray(sitk.GetArrayFromImage(small_ct)[::-1])
    wrong.CopyInformation(small_ct)
    out = tmp_path / "out"
    arguments = ["run", str(good(tmp_path, wrong)), "--out", str(out), "--no-scene", "--json"]
    assert main(arguments) == 0
    content = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert content["regions"] == [] and content["segments"] == []
    assert {"order_reversed", "not_segmented"} <= {notice["code"] for notice in content["notices"]}
    assert not (out / "segmentation.seg.nrrd").exists() and not list(out.glob("regions/*"))


@pytest.mark.parametrize("name", ["truncated nii.gz", "too little memory", "disk full while writing",
                                  "canceled while scoring", "canceled while writing"])  # fmt: skip
def test_an_earlier_result_survives_a_failure(tmp_path, small_ct, monkeypatch, name):
    row = next(row for row in TABLE if row.name == name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("{}")
    (tmp_path / "out" / "scores.csv").write_text("earlier")
    before = unharmed(tmp_path / "out")
    if row.setup:
        row.setup(monkeypatch, tmp_path)
    assert run(row, tmp_path, small_ct, "--json") == row.code
    assert unharmed(tmp_path / "out") == before
    assert list(tmp_path.glob(".out*")) == []


@pytest.mark.parametrize("name", ["truncated NRRD", "8-bit screenshot", "unknown organ", "model altered by one bit"])
def test_a_person_reads_one_line(tmp_path, small_ct, monkeypatch, capfd, name):
    row = next(row for row in TABLE if row.name == name)
    if row.setup:
        row.setup(monkeypatch, tmp_path)
    assert run(row, tmp_path, small_ct) == 2
    printed = capfd.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("bpr: ")]
    assert len(lines) == 1 and row.words in lines[0]
    assert "Traceback" not in printed.out + printed.err


def child(job: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "bpr.job", str(job)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_a_terminated_child_leaves_nothing(tmp_path, small_ct):
    path = good(tmp_path, small_ct)
    job = tmp_path / "job.json"
    request = {"input": str(path), "out": str(tmp_path / "out"), "produce": ["scores", "segmentation"]}
    job.write_text(json.dumps(request))
    with child(job) as process:
        for line in process.stdout:
            if json.loads(line).get("name") == "segmenting":
                break
        assert list(tmp_path.glob(".out.partial-*"))
        process.send_signal(signal.SIGTERM)
        rest, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(rest.splitlines()[-1])["type"] == "Cancelled"
    assert "Traceback" not in printed
    assert sorted(place.name for place in tmp_path.iterdir()) == ["ct.nii.gz", "job.json"]


@pytest.mark.parametrize("content, words", [
    ("{", "cannot be read"), ("", "cannot be read"), ("[]", "malformed"), ("3", "malformed"), ("null", "malformed"),
    ('{"input": "a.nrrd"}', "malformed"), ('{"input": "a.nrrd", "out": "b", "color": "red"}', "color"),
    ('{"input": "a.nrrd", "out": "b", "produce": ["music"]}', "music"),
    ('{"input": 3, "out": "b"}', "input"), ('{"input": "a.nrrd", "out": "b", "step_mm": "thick"}', "step_mm"),
    ('{"input": "a.nrrd", "out": "b", "organs": 7}', "organs"),
    ('{"input": "a.nrrd", "out": "b", "produce": "scores"}', "produce"),
    (b"\xff\xfe\x00", "cannot be read"),
])  # fmt: skip
def test_malformed_jobs(tmp_path, capfd, monkeypatch, content, words):
    from bpr.job import main as job_main

    monkeypatch.chdir(tmp_path)
    job = tmp_path / "job.json"
    job.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert job_main([str(job)]) == 2
    printed = capfd.readouterr()
    (event,) = [json.loads(line) for line in printed.out.splitlines()]
    assert event["event"] == "error" and words in event["message"] and event["details_file"] is None
    check_sentences(event["message"])
    assert printed.err == "" and [place.name for place in tmp_path.iterdir()] == ["job.json"]


def test_a_missing_job_file(tmp_path, capfd):
    from bpr.job import main as job_main

    assert job_main([str(tmp_path / "none.json")]) == 2
    assert job_main([]) == 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("arguments", [["models", "list"], ["run", "nowhere.nii", "--out", "out", "--json"]])
def test_nobody_reads_what_is_said(tmp_path, arguments):
    """The reader of a pipe has gone, as with ``bpr ... | head`` or a Slicer that crashed: the program just ends."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "bpr.cli", *arguments]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, timeout=120)
    os.close(writing)
    assert ended.returncode == 130 and ended.stderr == b"" and not any(tmp_path.iterdir())
