"""Faults: failing file operations, malformed inputs, hostile bundles; what must hold after each is checked.

make study NAME=faults       (QUICK=1: a few of each, nothing is stored; BPR_STUDY_WORK keeps parts that are done)

The way of SQLite's tests: a job runs again and again, and each time a later file operation fails (disk full, no
permission, I/O error, killed), until a run completes without the failure having struck.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fault_tuning
import psutil
import SimpleITK as sitk
from fault_runs import MODES, Forge, Outcome, build_shim, fresh, sums
from hostile import SLOW, hostile_archives
from malformed import judge, mutations, write_bases
from study import QUICK, Row, part, write_study

from bpr.batch.table import read_rows

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "Resources" / "SampleData" / "c3n00249.nii.gz"
EARLIER = {"result.json": "{}", "scores.csv": "earlier"}
MALFORMED, AT_ONCE = (20 if QUICK else 1000), 100
# Not every single one of the many small writes of tables: each n-th operation, by job.
EVERY = {"main job": 1, "main job with labels and report": 3, "batch": 8, "fine-tuning": 12}


@dataclass(frozen=True)
class Job:
    """A job under faults.

    Attributes:
        arguments: of ``bpr``, given the folder below which operations fail.
        prepare: fills that folder anew, with an earlier result.
        verify: what is wrong afterwards ("" when nothing is), given the folder and how the run ended.
        preload: modules that each run would import otherwise.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    prepare: Callable[[Path], None]
    verify: Callable[[Path, Outcome], str]
    preload: tuple[str, ...] = ()


def small_ct(path: Path, first: int = 0) -> Path:
    """A piece of the sample, coarse: real enough to be scored, small enough for thousands of runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.ReadImage(str(SAMPLE))[::3, ::3, first : first + 40 : 2], str(path))
    return path


def prepare_run(root: Path) -> None:
    fresh(root)
    small_ct(root / "in" / "ct.nrrd")
    (root / "out").mkdir()
    for name, text in EARLIER.items():
        (root / "out" / name).write_text(text)


def is_earlier(folder: Path) -> bool:
    if not folder.is_dir() or any(not p.is_file() for p in folder.iterdir()):
        return False
    return {p.name: p.read_text(errors="replace") for p in folder.iterdir()} == EARLIER


def is_complete(folder: Path) -> bool:
    """All files that a result lists are there, and the ones that can be read are whole."""
    try:
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        if not all((folder / file).stat().st_size for file in content["files"]):
            return False
        for image in folder.rglob("*.nrrd"):
            sitk.ReadImage(str(image))
        report = folder / "report.html"
        return "report.html" not in content["files"] or "</html>" in report.read_text(encoding="utf-8")[-20:]
    except (OSError, ValueError, KeyError, RuntimeError):
        return False


def sentence_fault(outcome: Outcome) -> str:
    """ "" when a run that failed said why in one clear sentence."""
    error = outcome.error
    if error is None:
        return f"no error event (exit {outcome.code}): {outcome.stderr[-300:]}"
    if outcome.code != 2 or not re.fullmatch(r"[^\n]+[.!?]", error["message"]):
        return f"exit {outcome.code}: {error['message']}"
    if any(word in error["message"] for word in ("Traceback", "Something went wrong", "itk::")):
        return error["message"]
    return ""


def verify_run(root: Path, outcome: Outcome) -> str:
    """The main job: the earlier result or the new one, whole; nothing beside it; a sentence unless it was killed."""
    out = root / "out"
    hidden = [p for p in root.iterdir() if p.name.startswith(".")]
    if outcome.code is None:
        return "it hung"
    if outcome.code == -9:
        swapped = not out.exists() and any(is_earlier(p) for p in hidden if ".old-" in p.name)
        return "" if is_earlier(out) or is_complete(out) or swapped else "the earlier result is lost"
    if hidden:
        return f"left over: {[p.name for p in hidden]}"
    if outcome.code == 0:
        return "" if is_complete(out) else "said done, but is not complete"
    if not is_earlier(out) and not is_complete(out):
        return "the earlier result is lost"
    return sentence_fault(outcome)


def prepare_batch(root: Path) -> None:
    """Two scans, one of which an earlier batch has finished (kept from the first call)."""
    template = root.with_name("batch_template")
    if template.exists():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)
        return
    fresh(root)
    small_ct(root / "in" / "a.nrrd")
    with contextlib.redirect_stdout(io.StringIO()):
        run_here(batch_arguments(root))
    small_ct(root / "in" / "b.nrrd", 20)
    shutil.copytree(root, template)


def run_here(arguments: list[str]) -> int:
    import bpr.batch.cluster
    import bpr.batch.run
    from bpr.cli import main

    kept = bpr.batch.run.has_dask, bpr.batch.cluster.has_dask
    bpr.batch.run.has_dask = bpr.batch.cluster.has_dask = lambda: False
    try:
        return main(arguments)
    finally:
        bpr.batch.run.has_dask, bpr.batch.cluster.has_dask = kept


def batch_arguments(root: Path) -> list[str]:
    return ["batch", str(root / "in"), "--out", str(root / "out"), "--only", "scores", "--no-report", "--json"]


def verify_batch(root: Path, outcome: Outcome) -> str:
    """A batch: the finished scan untouched, the other whole or absent, tables whole or absent, sentences."""
    out, template = root / "out", root.with_name("batch_template") / "out"
    if outcome.code is None:
        return "it hung"
    first = next((template / "scans").iterdir())
    if sums(out / "scans" / first.name) != sums(first):
        return "the finished scan is damaged"
    for folder in (out / "scans").iterdir():
        if folder.name.startswith("."):
            if outcome.code != -9:
                return f"left over: {folder.name}"
        elif not is_complete(folder):
            return f"half a result: {folder.name}"
    hidden = [p.name for p in (*out.iterdir(), *(out / "failed").glob("*")) if p.name.startswith(".")]
    if hidden and outcome.code != -9:
        return f"left over: {hidden}"
    try:
        rows = list(read_rows(out))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"the table is damaged: {error}"
    if outcome.code == 0:
        failed = [row for row in rows if row["state"] == "failed"]
        if len(rows) != 2 or any("Something went wrong" in row["error"] for row in failed):
            return f"rows: {[(row['id'], row['state'], row['error']) for row in rows]}"
        return ""
    return "" if outcome.code == -9 else sentence_fault(outcome)


def verify_tuning(root: Path, outcome: Outcome) -> str:
    """A fine-tuning: see fault_tuning; a run that failed said why."""
    wrong = "it hung" if outcome.code is None else fault_tuning.damage(root, outcome.code)
    return wrong or ("" if outcome.code in (0, -9) else sentence_fault(outcome))


def run_arguments(root: Path) -> list[str]:
    """The quick part of the main job: all kinds of files but pictures and labels."""
    job = root.with_name("job.json")
    request = {"input": str(root / "in" / "ct.nrrd"), "out": str(root / "out"), "produce": ["scores", "regions"]}
    job.write_text(json.dumps(request | {"threads": 1}))
    return ["job", str(job)]


def whole_arguments(root: Path) -> list[str]:
    return ["run", str(root / "in" / "ct.nrrd"), "--out", str(root / "out"), "--no-scene", "--regions", "thorax",
            "--threads", "1", "--json"]  # fmt: skip


JOBS = [
    Job("main job", run_arguments, prepare_run, verify_run),
    Job("main job with labels and report", whole_arguments, prepare_run, verify_run),
    Job("batch", batch_arguments, prepare_batch, verify_batch),
    Job("fine-tuning", fault_tuning.arguments, fault_tuning.prepare, verify_tuning, fault_tuning.PRELOAD),
]


def orphans(before: set[int]) -> list[str]:
    """Command lines of processes below this one that were not there before and live on for three seconds."""
    new = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    _, alive = psutil.wait_procs(new, timeout=3) if new else (None, [])
    return [" ".join(p.cmdline())[:200] for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def sweep(job: Job, forge: Forge, scratch: Path, mode: str, every: int = 1) -> Iterator[tuple[int, str]]:
    """Let operation 1, 1 + every, ... fail until a run is not struck; yields (n, what was wrong)."""
    root, log, n = scratch / "root", fresh(scratch / "log"), 1
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    while True:
        job.prepare(root)
        outcome = forge.run(job.arguments(root), log, root, MODES[mode], n)
        struck = outcome.code == -9 or outcome.counted >= n
        if not struck:
            yield 0, job.verify(root, outcome) or ("" if outcome.code == 0 else "failed without a fault")
            return
        wrong = job.verify(root, outcome)
        if not wrong and (left := orphans(before)):
            wrong = f"left a process behind: {left}"
        if not wrong and mode == "killed":
            again = forge.run(job.arguments(root), log)
            wrong = job.verify(root, again) or ("" if again.code == 0 else "does not recover")
        yield n, wrong
        n += every


def injected(job: Job, mode: str, shim: Path, scratch: Path) -> tuple[int, list[str]]:
    """One job under one mode; how many faults there were, and a line for each thing that was wrong."""
    count, wrong = 0, []
    with Forge(shim, job.preload) as forge:
        for n, fault in sweep(job, forge, scratch, mode, 60 if QUICK else EVERY[job.name]):
            count += n > 0
            if fault:
                wrong.append(f"{job.name}, {mode}, operation {n}: {fault}")
                print(wrong[-1], flush=True)
    print(f"{job.name}, {mode}: {count} faults", flush=True)
    return count, wrong


def score_arguments(path: Path, out: Path) -> list[str]:
    return ["run", str(path), "--out", str(out), "--only", "scores", "--threads", "1", "--step", "5", "--json"]


def unchanged(forge: Forge, folder: Path, log: Path, out: Path) -> dict:
    """The summary of the input that nothing was done to; it must give no notice."""
    if not (folder / "bases").is_dir():
        write_bases(folder / "bases")
    outcome = forge.run(score_arguments(folder / "bases" / "ct.nrrd", out), log)
    content = json.loads((out / "result.json").read_text(encoding="utf-8"))
    if outcome.code or content["notices"]:
        raise RuntimeError(f"the unchanged input is not good: {outcome.events[-1]}, {content['notices']}")
    return content


def malformed_inputs(scratch: Path, first: int, count: int) -> tuple[Counter, list[str], float, float]:
    """Kinds of endings, a line for each wrong one, most processor seconds, most memory in MB, of ``count`` seeds."""
    kinds, wrong, longest, largest = Counter(), [], 0.0, 0.0
    log, out = fresh(scratch / "log"), scratch / "malformed_out"
    with Forge() as forge:
        base = unchanged(forge, scratch / "malformed", log, out)
        for mutation in mutations(scratch / "malformed", count, first):
            shutil.rmtree(out, ignore_errors=True)
            outcome = forge.run(score_arguments(mutation.path, out), log)
            kind, fault = judge(mutation, outcome, out, None if mutation.kind == "real dicom" else base)
            kinds[kind] += 1
            longest, largest = max(longest, outcome.seconds), max(largest, outcome.peak_mb)
            if fault:
                wrong.append(f"seed {mutation.seed}, {mutation.what}: {fault}")
                print(wrong[-1], flush=True)
    print(f"malformed inputs up to seed {first + count - 1}: {dict(kinds)}", flush=True)
    return kinds, wrong, longest, largest


def hostile_bundles(scratch: Path) -> tuple[int, list[str]]:
    """How many archives there were, and a line for each that was not refused in one sentence without a trace."""
    models, work = scratch / "models", fresh(scratch / "hostile")
    os.environ["BPR_MODELS"] = str(models)
    wrong, count = [], 0
    for name, make in hostile_archives(work).items():
        if QUICK and name in SLOW:
            continue
        count += 1
        path = make()
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            from bpr.cli import main

            code = main(["models", "import", str(path)])
        text = said.getvalue().strip()
        if code != 2 or "\n" in text or "Something went wrong" in text:
            wrong.append(f"{name}: exit {code}: {text}")
        traces = [p for p in (models, scratch / "pwned", Path("pwned"), Path("/tmp/bpr-pwned")) if p.exists()]
        traces = [p for p in traces if not (p == models and not any(models.iterdir()))]
        if traces:
            wrong.append(f"{name}: left {traces}")
        path.unlink()
    return count, wrong


def all_injected(scratch: Path) -> tuple[dict[str, int], list[str]]:
    """All jobs under all modes: faults by job and mode, and what was wrong."""
    counts, wrong, shim = {}, [], build_shim(scratch)
    for job in JOBS:
        for mode in MODES:
            name = f"{job.name}, {mode}"
            counts[name], more = part(f"faults_{name}", lambda job=job, mode=mode: injected(job, mode, shim, scratch))
            wrong += more
    return counts, wrong


def all_malformed(scratch: Path) -> tuple[Counter, list[str], float, float]:
    """As ``malformed_inputs``, for all seeds."""
    kinds, wrong, longest, largest = Counter(), [], 0.0, 0.0
    for first in range(0, MALFORMED, AT_ONCE):
        count = min(AT_ONCE, MALFORMED - first)
        some, more, seconds, memory = part(
            f"faults_malformed_{first}", lambda first=first, count=count: malformed_inputs(scratch, first, count)
        )
        kinds.update(some)
        wrong += more
        longest, largest = max(longest, seconds), max(largest, memory)
    return kinds, wrong, longest, largest


def main() -> None:
    started = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        archives, accepted = part("faults_hostile", lambda: hostile_bundles(scratch))
        print("\n".join(accepted) or f"{archives} hostile bundles refused", flush=True)
        kinds, mishandled, longest, largest = all_malformed(scratch)
        counts, wrong = all_injected(scratch)
    rows = [Row(f"faults injected: {name}", count, "") for name, count in counts.items()]
    rows += [
        Row("faults injected", sum(counts.values()), "", ">= 500"),
        Row(
            "of these badly handled (half files, lost results, leftovers, orphans, no sentence)", len(wrong), "", "<= 0"
        ),
        *(Row(f"malformed inputs: {kind}", count, "") for kind, count in sorted(kinds.items())),
        Row("malformed inputs", sum(kinds.values()), "", ">= 1000"),
        Row("of these badly handled (traceback, hang, silent result)", len(mishandled), "", "<= 0"),
        Row("longest processor time of a malformed input", longest, "s", "<= 60"),
        Row("largest memory of a malformed input", largest, "MB", "<= 2048"),
        Row("hostile bundles", archives, "", ">= 20"),
        Row("hostile bundles accepted or badly refused", len(accepted), "", "<= 0"),
    ]
    write_study("faults", rows, started)


if __name__ == "__main__":
    main()
