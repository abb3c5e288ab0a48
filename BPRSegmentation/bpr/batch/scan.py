"""One scan of a batch in a worker process: the main job with models that stay loaded, and a record when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bpr.batch.inputs import Scan
from bpr.errors import BPRError, Cancelled, InputError, MemoryShortage, OutputError
from bpr.job import JobRequest, run_job
from bpr.results.folder import MARK

SCANS, FAILED = "scans", "failed"
TRANSIENT = (MemoryShortage, OutputError)  # may go well another time: tried again at once and at a resume


@dataclass(frozen=True)
class Plan:
    """What is done with each scan. ``request`` carries the options of the main job; its input and out are unused."""

    request: JobRequest
    out: str
    body_composition: bool = False

    def folder(self, scan: Scan) -> Path:
        """Where the scan's results appear, complete or not at all."""
        return Path(self.out) / SCANS / scan.id

    def failure(self, scan: Scan) -> Path:
        """Where it is said why there are none."""
        return Path(self.out) / FAILED / f"{scan.id}.json"

    def options(self) -> dict:
        """What must not change between a batch and its resume."""
        request = {key: value for key, value in asdict(self.request).items() if key not in ("input", "out", "threads")}
        return json.loads(json.dumps(request)) | {"body_composition": self.body_composition}


class KeptEngine:
    """An engine whose predictors stay loaded: a worker verifies and compiles each model once, not once a scan."""

    def __init__(self, engine):
        self._engine = engine
        self._kept: dict = {}
        self.name, self.device = engine.name, engine.device

    def predictor(self, bundle, **options):
        """The predictor of a bundle, from memory when it was used before with the same options."""
        key = (bundle.folder, *sorted(options.items()))
        if key not in self._kept:
            self._kept[key] = self._engine.predictor(bundle, **options)
        return self._kept[key]


_engines: dict[tuple, KeptEngine] = {}  # of this process; a worker is one process with one thread of work


def kept_engine(engine: str, device: str, threads: int | None) -> KeptEngine:
    """This process's engine with its loaded models."""
    from bpr.compute.engines import open_engine

    key = (engine, device, threads)
    if key not in _engines:
        _engines[key] = KeptEngine(open_engine(engine, device, threads))
    return _engines[key]


def run_scan(scan: Scan, plan: Plan) -> str:
    """Run one scan; returns its ID.

    A scan that can never go well (wrong input) is recorded as failed. Everything else is raised, so that the engine of
    the batch tries again, here or in another worker.
    """
    if is_done(scan, plan):
        return scan.id
    _reset_peak()
    request = replace(plan.request, input=scan.path, out=str(plan.folder(scan)))
    try:
        engine = kept_engine(request.engine, request.device, request.threads)
        if plan.body_composition:
            from bpr.body_composition.job import add_to_result

            run_job(request, engine=engine, extend=add_to_result)
        else:
            run_job(request, engine=engine)
    except (Cancelled, KeyboardInterrupt, *TRANSIENT):
        raise
    except InputError as error:
        record_failure(scan, plan, error)
    with contextlib.suppress(OSError):
        if is_done(scan, plan):
            plan.failure(scan).unlink(missing_ok=True)
    return scan.id


def record_failure(scan: Scan, plan: Plan, error: BaseException) -> None:
    """Write why a scan has no results: type, sentence, advice, and for our own faults the traceback."""
    details = ""
    if isinstance(error, BPRError):
        event = {"type": type(error).__name__, "message": error.message, "advice": error.advice}
    else:
        details = "".join(traceback.format_exception(error))
        event = {"type": type(error).__name__, "message": f"Something went wrong in the program: {error}.",
                 "advice": "Please report it with the details in this file."}  # fmt: skip
    final = isinstance(error, InputError) and not isinstance(error, TRANSIENT)
    path = plan.failure(scan)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    content = {"input": scan.path, **event, "final": final, "details": details}
    try:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_failure(scan: Scan, plan: Plan) -> dict | None:
    """The record of a failed scan, or None."""
    return _read(plan.failure(scan))


def is_done(scan: Scan, plan: Plan) -> bool:
    """Whether the scan's complete results are there."""
    return (plan.folder(scan) / MARK).is_file()


def is_final(scan: Scan, plan: Plan) -> bool:
    """Whether a resume leaves the scan alone: it has results, or its input was refused for good."""
    return is_done(scan, plan) or bool((read_failure(scan, plan) or {}).get("final"))


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _reset_peak() -> None:
    """Let the kernel count peak memory anew, so that each scan has its own; only Linux can."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
