"""Runs in which the n-th file operation fails: a process that forks a child for each, arms it, and says how it ended.

The parent has imported what a run needs and opened nothing, so that a run costs what the work costs, not the imports.
Linux and gcc only: the faults are injected below Python and ITK alike (fault_shim.c, loaded before the C library).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

MODES = {"disk full": 1, "no permission": 2, "I/O error": 3, "killed": 4}
LONGEST_S = 60  # of processor time, so that a busy machine makes nothing look as if it hung
STUCK_S = 600  # of the clock, for what hangs without working
HERE = Path(__file__).resolve()


@dataclass(frozen=True)
class Outcome:
    """How a child ended: exit code (negative: signal, None: hung), events, operations, processor seconds, peak MB."""

    code: int | None
    events: list[dict]
    counted: int
    seconds: float
    peak_mb: float
    stderr: str

    @property
    def error(self) -> dict | None:
        """The error event, when there was one."""
        return next((event for event in self.events if event.get("event") == "error"), None)


def build_shim(folder: Path) -> Path:
    """Compile the shim. Raises FileNotFoundError where there is no gcc."""
    library = folder / "fault_shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE.with_name("fault_shim.c")), "-ldl"],
                   check=True)  # fmt: skip
    return library


class Forge:
    """The parent process; use as a context manager. ``run`` forks one child at a time."""

    def __init__(self, shim: Path | None = None, preload: tuple[str, ...] = ()):
        """``preload`` names more modules that the parent imports, so that its children need not."""
        environment = os.environ | ({"LD_PRELOAD": str(shim)} if shim else {})
        command = [sys.executable, str(HERE), *preload]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                         env=environment)  # fmt: skip

    def __enter__(self) -> Forge:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=LONGEST_S)

    def run(self, arguments: list[str], scratch: Path, root: Path | None = None, mode: int = 0, n: int = 0) -> Outcome:
        """Run ``bpr`` with these arguments in a child whose n-th operation below ``root`` fails.

        Args:
            arguments: of ``bpr``; or "job" and the job file of ``python -m bpr.job``; or "tune" and a SEED project.
            scratch: an existing folder outside of ``root`` for what the child prints.
        """
        task = {"arguments": arguments, "scratch": str(scratch), "root": str(root or "/nowhere"), "mode": mode, "n": n}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        events = []
        for line in (scratch / "stdout").read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        stderr = (scratch / "stderr").read_text(encoding="utf-8", errors="replace")
        return Outcome(answer["code"], events, answer["counted"], answer["seconds"], answer["peak_mb"], stderr)


def _child(task: dict) -> None:
    """Become the run: own process group, output into files, shim armed."""
    os.setpgid(0, 0)
    scratch = Path(task["scratch"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    import bpr.batch.cluster
    import bpr.batch.run
    from bpr.cli import main
    from bpr.job import main as job_main

    # One process, so that the order of file operations is always the same.
    bpr.batch.run.has_dask = bpr.batch.cluster.has_dask = lambda: False
    os.chdir(scratch)
    os.environ["TMPDIR"] = str(scratch)
    library = ctypes.CDLL(None)
    counter = os.open(scratch / "counted", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    armed = hasattr(library, "fault_arm")
    if armed:
        library.fault_arm(task["root"].encode(), task["mode"], ctypes.c_long(task["n"]))
    code = 99
    try:
        kind, *rest = task["arguments"]
        code = job_main(rest) if kind == "job" else _tuned(*rest) if kind == "tune" else main(task["arguments"])
    finally:
        if armed:
            library.fault_count.restype = ctypes.c_long
            count = library.fault_count()
            library.fault_arm(b"/nowhere", 0, ctypes.c_long(0))
            os.write(counter, str(count).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def tune(project: str, emit) -> None:
    """A short fine-tuning of a SEED project, as `bpr finetune` does it but for the phantoms."""
    import torch

    from bpr.seed.finetune import Request, finetune
    from bpr.seed.memory import Memory
    from bpr.seed.plan import Recipe
    from bpr.seed.project import SeedProject

    torch.set_num_threads(1)
    recipe = Recipe(checks=1, memory=Memory(0, 0, 0))
    finetune(SeedProject.open(Path(project)), Request(steps=3, memory_cases=False, recipe=recipe), emit)


def _tuned(project: str) -> int:
    """``tune`` with the endings of a command: an exit code, an error event."""
    from bpr.job import explain, print_event

    try:
        tune(project, print_event)
    except BaseException as error:  # noqa: BLE001 - put into words as bpr.cli does
        code, event = explain(error)
        print_event(event)
        return code
    return 0


def _serve() -> None:
    """Answer the tasks that come on standard input, a line each."""
    for name in ("bpr.scoring.inference", "bpr.segmentation.inference", "bpr.results.report", "bpr.results.pictures",
                 "bpr.batch.run", "bpr.batch.commands", "openvino", "pydicom", "matplotlib.pyplot",
                 *sys.argv[1:]):  # fmt: skip
        with contextlib.suppress(ImportError):
            __import__(name)
    for line in sys.stdin:
        task = json.loads(line)
        started, before = time.time(), 0
        child = os.fork()
        if child == 0:
            _child(task)
        code, usage = _wait(child, started)
        with contextlib.suppress(ProcessLookupError):  # whatever the run left behind
            os.killpg(child, signal.SIGKILL)
        counted = Path(task["scratch"], "counted").read_text() or str(before)
        answer = {"code": code, "counted": int(counted), "seconds": usage.ru_utime + usage.ru_stime,
                  "peak_mb": usage.ru_maxrss / 1024}  # fmt: skip
        print(json.dumps(answer), flush=True)


def _wait(child: int, started: float) -> tuple[int | None, resource.struct_rusage]:
    """Exit code and use of resources; a child that works or waits for too long is ended, and its code is None."""
    process, looked = psutil.Process(child), started
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage
        time.sleep(0.005)
        if time.time() - looked < 1:
            continue
        looked = time.time()
        worked = sum(process.cpu_times()[:2])
        if worked > LONGEST_S or time.time() - started > STUCK_S:
            os.killpg(child, signal.SIGKILL)
            return None, os.wait4(child, 0)[2]


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of all files of a folder by name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    _serve()
