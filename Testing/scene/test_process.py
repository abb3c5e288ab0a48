"""The child process: its lines become events, and cancelling ends the whole tree."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from BPRSegmentationLib.process import ChildProcess, child_environment

FAKE = Path(__file__).with_name("fake_child.py")


def start(*arguments: str) -> ChildProcess:
    return ChildProcess([sys.executable, str(FAKE), *arguments], child_environment(FAKE.parent))


def events_until(child: ChildProcess, kind: str, limit_s: float = 20) -> list[dict]:
    events, end = [], time.monotonic() + limit_s
    while not any(event["event"] == kind for event in events):
        assert time.monotonic() < end, f"no {kind} event; got {events}"
        events += child.poll()
        time.sleep(0.01)
    return events


def test_lines_become_events_in_order_and_other_text_is_kept(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "job.json").write_text(f'{{"out": "{tmp_path / "out"}"}}')
    events = events_until(start("good", str(tmp_path / "job.json"), str(tmp_path / "result")), "exit")
    assert [event["event"] for event in events] == ["stage", "text", "text", "progress", "warning", "result", "exit"]
    assert events[1]["text"] == "text with ä and no JSON"
    assert events[2]["text"] == "{broken json"
    assert events[-1]["code"] == 0


def test_standard_error_and_exit_code_are_reported(tmp_path: Path) -> None:
    events = events_until(start("crash", str(tmp_path / "job.json")), "exit")
    assert {"event": "text", "text": "Segmentation fault (really)"} in events
    assert events[-1] == {"event": "exit", "code": 139}


def test_cancel_ends_a_tree_that_ignores_sigterm_within_two_seconds(tmp_path: Path) -> None:
    child = start("stubborn tree", str(tmp_path / "job.json"))
    events = events_until(child, "metric")
    grandchild = next(event["value"] for event in events if event["event"] == "metric")
    assert psutil.pid_exists(grandchild)
    started = time.monotonic()
    child.cancel()
    assert time.monotonic() - started < 2
    assert not child.running
    gone, alive = psutil.wait_procs([psutil.Process(p) for p in (child.pid, grandchild) if psutil.pid_exists(p)], 1)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_cancel_after_the_end_does_nothing(tmp_path: Path) -> None:
    child = start("no result", str(tmp_path / "job.json"))
    events_until(child, "exit")
    child.cancel()
    assert not child.running


def test_a_program_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        ChildProcess([str(tmp_path / "PythonSlicer")], {})


def test_environment_puts_our_package_first_and_asks_for_utf8(tmp_path: Path) -> None:
    environment = child_environment(tmp_path, {"PYTHONPATH": "/other", "HOME": "/home/x"})
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), "/other"]
    assert environment["PYTHONUTF8"] == "1" and environment["HOME"] == "/home/x"
