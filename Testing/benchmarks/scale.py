"""Many scans: throughput with one and two workers, and 500 scans while workers and the scheduler are killed at random.

make study NAME=scale                      (QUICK=1: a dozen scans, nothing is stored)
make study NAME=scale ARGS=survival        one part alone: survival, costs or throughput

BPR_STUDY_WORK keeps parts that are done, and the scans of a part that was stopped: the same command goes on. Throughput
means something on a machine with nothing else to do only; the stored table has the parts that were measured.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk
from speed import large_ct
from study import QUICK, Row, is_done, part, write_study

from bpr.batch.table import read_rows
from bpr.phantom import make_phantom

ROOT = Path(__file__).resolve().parents[2]
SCANS, TIMED = (12, 4) if QUICK else (500, 12)
KILLS_OF_WORKERS, KILLS_OF_ALL = (2, 1) if QUICK else (40, 6)
FAST = ("--only", "scores", "--no-report")
LONGEST_S = 240 if QUICK else 3000


def command(inputs: Path, out: Path, workers: int, *options: str) -> list[str]:
    """`bpr batch` as a person starts it."""
    return [sys.executable, "-m", "bpr.cli", "batch", str(inputs), "--out", str(out), "--workers", str(workers),
            "--json", *options]  # fmt: skip


def make_scans(folder: Path, count: int) -> None:
    """Copies (hard links) of two phantoms, of the sample, and of pieces of real scans where there are any."""
    folder.mkdir()
    shared = Path(os.environ.get("BPR_SHARED_DATA", ROOT.parent / "shared" / "data")) / "ct"
    real = [ROOT / "Resources" / "SampleData" / "c3n00249.nii.gz", *sorted(shared.glob("*.nii.gz"))[:6]]
    images = [make_phantom(spacing_mm=(5.0, 5.0, 5.0), seed=seed).image for seed in (0, 1)]
    images += [sitk.ReadImage(str(path))[::3, ::3, :60] for path in real]
    for k in range(count):
        path = folder / f"scan_{k:04d}.nrrd"
        if k < len(images):
            sitk.WriteImage(images[k], str(path))
        else:
            os.link(folder / f"scan_{k % len(images):04d}.nrrd", path)


def seconds_of(inputs: Path, out: Path, workers: int) -> float:
    """Wall seconds of the work alone, a core for each worker: from the first finished scan to the last, per scan."""
    times, cores = [], os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:workers])  # a single worker would spread over all cores
    with subprocess.Popen(command(inputs, out, workers), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if json.loads(line)["event"] == "progress":
                times.append(time.time())
    os.sched_setaffinity(0, cores)
    first = workers  # the first scan of each worker includes loading the models
    return (times[-1] - times[first - 1]) / (len(times) - first)


def cpu_seconds(out: Path) -> list[float]:
    """Seconds of each scan as its own result states them."""
    return [row["seconds"] for row in read_rows(out) if row["seconds"]]


def workers_of(process: psutil.Popen) -> list[psutil.Process]:
    """Dask's worker processes of a running batch."""
    try:
        return [child for child in process.children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


class Watch:
    """Which results were ever seen, and whether one was ever made again."""

    def __init__(self, scans: Path):
        self.scans, self.seen, self.again = scans, {}, 0

    def look(self) -> int:
        for mark in self.scans.glob("*/result.json"):
            stamp = mark.stat().st_mtime_ns
            self.again += self.seen.setdefault(mark.parent.name, stamp) != stamp
        return len(self.seen)


class Tally:
    """Counts that a stopped study goes on with: they lie beside the scans."""

    def __init__(self, path: Path):
        self._path = path
        self.counts = {"worker kills": 0, "batch kills": 0, "orphans": 0, "again": 0}
        if path.is_file():
            self.counts = json.loads(path.read_text(encoding="utf-8"))

    def add(self, name: str, count: int = 1) -> None:
        """Count, and keep it on disk."""
        self.counts[name] += count
        self._path.write_text(json.dumps(self.counts), encoding="utf-8")


def survive(inputs: Path, out: Path) -> dict:
    """Kill workers and whole batches with SIGKILL until all is done; the same command resumes each time."""
    watch, tally, started = Watch(out / "scans"), Tally(out.with_suffix(".tally.json")), time.time()
    rng = random.Random(1 + sum(tally.counts.values()))
    stops = sorted(random.Random(1).sample(range(SCANS // 10, SCANS - SCANS // 10), KILLS_OF_ALL))
    stops = stops[tally.counts["batch kills"] :]
    while time.time() - started < LONGEST_S:
        process = psutil.Popen(command(inputs, out, 2, *FAST), stdout=subprocess.DEVNULL)
        children, next_kill = [], watch.look() + rng.randint(2, 12)
        while process.poll() is None:
            done = watch.look()
            children = workers_of(process) or children
            if stops and done >= stops[0]:
                stops.pop(0)
                tally.add("batch kills")
                process.kill()
            elif tally.counts["worker kills"] < KILLS_OF_WORKERS and done >= next_kill and children:
                tally.add("worker kills")
                next_kill = done + rng.randint(2, 20)  # by progress, not by the clock: a busy machine is slow
                victim = rng.choice(children)
                if victim.is_running():
                    victim.send_signal(signal.SIGKILL)
            time.sleep(0.2)
        _, alive = psutil.wait_procs(children, timeout=15)
        tally.add("orphans", len(alive))
        if process.returncode == 0:
            break
    watch.look()
    tally.add("again", watch.again)
    return tally.counts


def memory_drift(out: Path) -> float:
    """How much more memory the last tenth of the scans needed than the second tenth, MB; by time of completion."""
    rows = [row for row in read_rows(out) if row["peak_memory_mb"]]
    rows.sort(key=lambda row: (out / "scans" / row["id"] / "result.json").stat().st_mtime_ns)
    tenth = max(1, len(rows) // 10)
    early, late = rows[tenth : 2 * tenth], rows[-tenth:]
    return float(np.median([r["peak_memory_mb"] for r in late]) - np.median([r["peak_memory_mb"] for r in early]))


def clinical(scratch: Path) -> dict[str, float]:
    """What one scan of clinical size costs a worker with one thread: processor seconds, memory, megabytes."""
    ct = scratch / "clinical.nrrd"
    large_ct(ct)
    found = {"clinical scan, compressed (MB)": ct.stat().st_size / 2**20}
    for name, options in (("everything but the scene", ("--no-scene",)), ("scores alone", ("--only", "scores"))):
        out = scratch / "clinical"
        before = os.times()
        command = [sys.executable, "-m", "bpr.cli", "run", str(ct), "--out", str(out), "--threads", "1", "--json"]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 2**20
        crops = sum(file.stat().st_size for file in (out / "regions").glob("*")) / 2**20
        memory = json.loads((out / "result.json").read_text(encoding="utf-8"))["peak_memory_mb"]
        numbers = {"processor time (s)": seconds, "memory (MB)": memory, "results (MB)": size, "crops (MB)": crops}
        found |= {f"clinical scan, {name}: {what}": value for what, value in numbers.items()}
    return found


def throughput(scratch: Path) -> dict[str, float]:
    """Wall seconds of a scan with one and with two workers, side by side in one run."""
    make_scans(scratch / "timed", TIMED)
    one, two = (seconds_of(scratch / "timed", scratch / f"out{n}", n) for n in (1, 2))
    alone, together = (float(np.sum(cpu_seconds(scratch / f"out{n}"))) for n in (1, 2))
    peak = max(row["peak_memory_mb"] for row in read_rows(scratch / "out2") if row["peak_memory_mb"])
    return {"scan, one worker (s)": one, "scan, two workers (s)": two,
            "time of a scan in a worker, two workers / one": together / alone,
            "load average of the machine": os.getloadavg()[1], "largest memory of a worker (MB)": peak}  # fmt: skip


def survival(scratch: Path) -> dict[str, float]:
    """500 scans under random SIGKILL of workers and of whole batches, scheduler included."""
    work = Path(os.environ["BPR_STUDY_WORK"]) if os.environ.get("BPR_STUDY_WORK") else scratch
    place = work / "scale_many"
    if not (place / "in").is_dir():
        place.mkdir(parents=True, exist_ok=True)
        make_scans(place / "in", SCANS)
    out = place / "out"
    found = survive(place / "in", out)
    rows = list(read_rows(out))
    finished = {row["id"] for row in rows if row["state"] in ("done", "doubtful", "refused")}
    found = found | {"rows": len(rows), "finished": len(finished), "half": len(list((out / "scans").glob(".*"))),
                     "drift": memory_drift(out)}  # fmt: skip
    shutil.rmtree(place)
    return found


def survival_rows(lived: dict[str, float]) -> list[Row]:
    """Every scan one row, none done twice, nothing left over, memory flat."""
    return [
        Row("scans in the killing run: rows", lived["rows"], "", f">= {SCANS}"),
        Row("scans in the killing run: finished, each once", lived["finished"], "", f">= {SCANS}"),
        Row("workers killed", lived["worker kills"], ""),
        Row("whole batches killed, scheduler included", lived["batch kills"], ""),
        Row("scans done twice", lived["again"], "", "<= 0"),
        Row("processes left over", lived["orphans"], "", "<= 0"),
        Row("half-written folders left over", lived["half"], "", "<= 0"),
        Row("memory of a scan, end of the run minus start", lived["drift"], "MB", "<= 50"),
    ]


def throughput_rows(speed: dict[str, float]) -> list[Row]:
    """Wall seconds of a scan, and whether a second worker brings what it should."""
    ratio = 100 * speed["scan, one worker (s)"] / speed["scan, two workers (s)"] / 2
    rows = [Row(name, value, "") for name, value in speed.items()]
    return [*rows, Row("throughput of two workers / twice one worker", ratio, "%", ">= 90")]


def cost_rows(costs: dict[str, float]) -> list[Row]:
    """What one clinical scan costs."""
    return [Row(name, value, "") for name, value in costs.items()]


PARTS = {"survival": (survival, survival_rows), "costs": (clinical, cost_rows),
         "throughput": (throughput, throughput_rows)}  # fmt: skip


def main(asked: list[str]) -> None:
    """Measure the parts that were asked for (all when none is named); the table also has those measured before."""
    started, study = time.time(), []
    for name in asked:
        if name not in PARTS:
            sys.exit(f"There is no part {name!r}: {', '.join(PARTS)}.")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (measure, rows) in PARTS.items():
            if not asked or name in asked or is_done(f"scale_{name}"):
                study += rows(part(f"scale_{name}", lambda measure=measure: measure(Path(scratch))))
    write_study("scale", study, started)


if __name__ == "__main__":
    main(sys.argv[1:])
