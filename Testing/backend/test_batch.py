"""Batches: every scan exactly one row, the same numbers as a single run, a resume that does nothing twice."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from bad_inputs import write_dicom
from batch_samples import made_up_batch

from bpr.batch.inputs import find_scans
from bpr.batch.summary import write_summary
from bpr.batch.table import read_rows, write_tables
from bpr.cli import main
from bpr.errors import InputError

FAST = ("--only", "scores", "--no-report", "--json")
SAME = ("scores.csv", "scores.json")


@pytest.fixture(scope="module")
def scans(sample_ct: Path, tmp_path_factory) -> Path:
    """Two small volumes and a file that is none."""
    folder = tmp_path_factory.mktemp("scans")
    image = sitk.ReadImage(str(sample_ct))
    sitk.WriteImage(image[::2, ::2, :70], str(folder / "a.nrrd"))
    (folder / "deep").mkdir()
    sitk.WriteImage(image[::2, ::2, 20:], str(folder / "deep" / "b.nii.gz"))
    (folder / "c.nii.gz").write_text("no image")
    return folder


def batch(inputs: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "bpr.cli", "batch", str(inputs), "--out", str(out), *FAST, *options]


def events(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def stamps(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in (out / "scans").glob("*/result.json")}


def test_scans_are_found_in_folders_dicom_trees_and_lists(tmp_path, scans, sample_ct):
    ct = sitk.ReadImage(str(sample_ct))[::8, ::8, :5]
    write_dicom(tmp_path / "study" / "one", ct)
    write_dicom(tmp_path / "study" / "two", ct, series="1.2.9")
    write_dicom(tmp_path / "study" / "two", ct, first=100, series="1.2.8")
    write_dicom(tmp_path / "study" / "mr", ct, series="1.2.7", Modality="MR")
    (tmp_path / "list.csv").write_text("name,path\nx,study/one\ny,missing.nrrd\n", encoding="utf-8")
    found, notices = find_scans([str(tmp_path / "study"), str(tmp_path / "list.csv"), str(scans)], tmp_path / "out")
    names = [Path(scan.path).name for scan in found]
    assert names == ["one", "000.dcm", "100.dcm", "missing.nrrd", "a.nrrd", "c.nii.gz", "b.nii.gz"]
    assert len({scan.id for scan in found}) == len(found)
    assert [notice.message for notice in notices] == ["Left out: 1 MR series, which are no CT."]
    again, _ = find_scans([str(tmp_path / "study" / "two")], tmp_path / "out")
    assert {scan.id for scan in again} <= {scan.id for scan in found}


def test_the_batchs_own_folder_is_not_searched(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("a.nrrd", "a.seg.nrrd", "out/d.nrrd"):
        (tmp_path / name).touch()
    found, _ = find_scans([str(tmp_path)], tmp_path / "out")
    assert [Path(scan.path).name for scan in found] == ["a.nrrd"]


@pytest.mark.parametrize("given, words", [("none", "does not exist"), ("empty", "no CT"), ("list.csv", "no column")])
def test_wrong_requests_are_one_sentence(tmp_path, given, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=words):
        find_scans([str(tmp_path / given)], tmp_path / "out")


def test_a_batch_on_dask_gives_each_scan_one_row_and_the_numbers_of_a_single_run(tmp_path, scans):
    pytest.importorskip("distributed", reason="the extra 'batch' is not installed")
    out = tmp_path / "out"
    done = subprocess.run(batch(scans, out, "--workers", "2"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert events(done.stdout)[-1]["states"] == {"done": 2, "failed": 1}
    rows = {Path(row["input"]).name: row for row in read_rows(out)}
    assert rows["c.nii.gz"]["error"] == "c.nii.gz is not a NIfTI file; it holds a text file."
    assert [p.name for p in (out / "scans").iterdir() if p.name.startswith(".")] == []
    single = tmp_path / "single"
    threads = json.loads((out / "scans" / rows["a.nrrd"]["id"] / "result.json").read_text())["threads"]
    command = [sys.executable, "-m", "bpr.cli", "run", str(scans / "a.nrrd"), "--out", str(single), "--only", "scores",
               "--threads", str(threads), "--json"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    for name in SAME:
        assert (out / "scans" / rows["a.nrrd"]["id"] / name).read_bytes() == (single / name).read_bytes()


def test_a_killed_batch_resumes_without_doing_a_scan_twice(tmp_path, scans):
    pytest.importorskip("distributed", reason="the extra 'batch' is not installed")
    out = tmp_path / "out"
    with subprocess.Popen(batch(scans, out, "--workers", "1"), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if json.loads(line)["event"] == "progress" and stamps(out):
                break
        os.kill(process.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    before = stamps(out)
    assert len(before) >= 1
    done = subprocess.run(batch(scans, out, "--workers", "1"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    after = stamps(out)
    assert len(after) == 2 and {key: after[key] for key in before} == before
    assert len(list(read_rows(out))) == 3


def test_without_dask_the_scans_run_one_after_another_and_it_says_so(tmp_path, scans, monkeypatch, capfd):
    monkeypatch.setattr("bpr.batch.run.has_dask", lambda: False)
    monkeypatch.setattr("bpr.batch.cluster.has_dask", lambda: False)
    out = tmp_path / "out"
    assert main(batch(scans, out)[3:]) == 0
    said = events(capfd.readouterr().out)
    assert any(e["event"] == "warning" and "pip install" in e["message"] for e in said)
    assert said[-1]["states"] == {"done": 2, "failed": 1}
    before = stamps(out)
    assert main(batch(scans, out)[3:]) == 0 and stamps(out) == before
    assert main([*batch(scans, out)[3:], "--step", "4"]) == 2
    assert "other options (step_mm)" in capfd.readouterr().out
    assert main([*batch(scans, out)[3:], "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert "needs the package distributed" in capfd.readouterr().out


def test_margin_and_tile_are_options_of_the_batch_and_json_needs_no_rich(tmp_path, scans, capfd):
    """What the panel of Slicer can choose, the command line can; a resume with another choice is refused."""
    code = "import sys; sys.modules['rich'] = None; from bpr.cli import main; sys.exit(main(sys.argv[1:]))"
    few = tmp_path / "few.csv"
    few.write_text(f"path\n{scans / 'c.nii.gz'}\n", encoding="utf-8")
    given = [*batch(few, tmp_path / "out", "--workers", "1")[3:], "--margin", "12", "--tile", "48"]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and events(done.stdout)[-1]["states"] == {"failed": 1}, done.stderr
    asked = json.loads((tmp_path / "out" / "batch.json").read_text(encoding="utf-8"))
    assert (asked["margin_mm"], asked["tile"]) == (12.0, 48)
    for option, value, words in (("--tile", "64", "other options (tile)"), ("--tile", "47", "A tile of 47 voxels"),
                                 ("--margin", "-1", "A margin of -1")):  # fmt: skip
        assert main([*given, option, value]) == 2
        assert words in capfd.readouterr().out


def test_a_fault_of_one_scan_is_a_row_with_its_traceback(tmp_path, scans, monkeypatch):
    monkeypatch.setattr("bpr.batch.run.has_dask", lambda: False)
    monkeypatch.setattr("bpr.results.files.write_scores", lambda *a: 1 / 0)
    out = tmp_path / "out"
    assert main(batch(scans, out)[3:]) == 0
    assert {row["state"] for row in read_rows(out)} == {"failed"}
    records = [json.loads(path.read_text()) for path in (out / "failed").glob("*.json")]
    assert sum("ZeroDivisionError" in record["details"] for record in records) == 2
    monkeypatch.undo()
    monkeypatch.setattr("bpr.batch.run.has_dask", lambda: False)
    assert main(batch(scans, out)[3:]) == 0  # our own fault is tried again, a wrong input is not
    assert sorted(row["state"] for row in read_rows(out)) == ["done", "done", "failed"]
    assert len(list((out / "failed").glob("*.json"))) == 1


class Links(HTMLParser):
    """All links of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src")]


def test_a_thousand_rows_on_one_page(tmp_path):
    scans, plan = made_up_batch(tmp_path / "out", 1000)
    write_tables(scans, plan)
    rows = list(read_rows(tmp_path / "out"))
    assert [row["id"] for row in rows] == [scan.id for scan in scans]
    page = write_summary(tmp_path / "out").read_text(encoding="utf-8")
    links = Links(page).found
    assert {link for link in links if not (tmp_path / "out" / link).is_file()} == set()
    assert len(set(links)) == 950  # every scan but the failed ones
    assert "15,000 mL" in page and "10 times the median" in page
    assert "the file does not look like a CT." in page and "<b>50</b>failed" in page
    assert "http" not in page.lower() and len(page) < 2e6


def test_parquet_and_csv_say_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'batch' is not installed")
    scans, plan = made_up_batch(tmp_path / "out", 60)
    write_tables(scans, plan)
    table = parquet.read_table(tmp_path / "out" / "table.parquet").to_pylist()
    with open(tmp_path / "out" / "table.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 61
    for stored, read in zip(table, read_rows(tmp_path / "out"), strict=True):
        assert stored.keys() == read.keys()
        for name, value in stored.items():
            assert (value or None) == (read[name] or None) or np.isclose(value, read[name]), name
