"""A whole batch: what is not yet done is run, then the tables and the page are derived from what lies in the folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bpr.batch.cluster import (
    INSTALL,
    Workers,
    cluster_client,
    has_dask,
    local_client,
    run_on_dask,
    run_serially,
    sweep,
)
from bpr.batch.inputs import Scan
from bpr.batch.scan import FAILED, SCANS, Plan, is_done, is_final
from bpr.batch.summary import write_summary
from bpr.batch.table import read_rows, write_tables
from bpr.errors import InputError, OutputError
from bpr.results.folder import PLACE_FAULTS

RECORD = "batch.json"


def run_batch(
    scans: list[Scan], plan: Plan, workers: Workers | None, scheduler: str | None, retry_failed: bool, say
) -> Counter:
    """Run what is not yet done, then write tables and page; returns the number of scans by state.

    Args:
        workers: on this machine; None for the cluster at ``scheduler``.
        say: called with events as bpr.job prints them: stage, progress, warning, result.

    Raises:
        InputError: another batch lies there, Dask is missing for a cluster, nothing answers.
        LostScheduler: the cluster went away; what is finished stays.
    """
    if scheduler and not has_dask():
        raise InputError("A Dask cluster needs the package distributed, which is not installed.", INSTALL)
    with _place_faults(plan):
        return _run_batch(scans, plan, workers, scheduler, retry_failed, say)


def _run_batch(scans, plan: Plan, workers, scheduler, retry_failed: bool, say) -> Counter:
    _claim(plan)
    sweep(plan) if workers else None
    rest = [scan for scan in scans if not (is_done(scan, plan) or (is_final(scan, plan) and not retry_failed))]
    say({"event": "stage", "name": "batch", "text": f"{len(scans)} scans, {len(scans) - len(rest)} done before"})
    done = len(scans) - len(rest)

    def report(scan: Scan) -> None:
        nonlocal done
        done += 1
        say({"event": "progress", "fraction": round(done / len(scans), 4), "done": done, "total": len(scans),
             "unit": "scans"})  # fmt: skip

    try:
        _work(rest, plan, workers, scheduler, say, report)
    finally:
        sweep(plan) if workers else None
        files = write_tables(scans, plan)
    page = write_summary(Path(plan.out))
    states = Counter(row["state"] for row in read_rows(Path(plan.out)))
    say({"event": "result", "folder": plan.out, "states": dict(states), "files": [str(f) for f in (*files, page)]})
    return states


@contextlib.contextmanager
def _place_faults(plan: Plan) -> Iterator[None]:
    """A disk that is full or fails ends the batch with a sentence; what is finished stays, and a resume continues."""
    try:
        yield
    except OSError as error:
        if error.errno in PLACE_FAULTS or "[errno 28]" in str(error) or "[errno 5]" in str(error):
            reason = error.strerror or "the disk is full or fails"
            raise OutputError(f"The batch in {plan.out} had to stop: {reason.splitlines()[0]}.",
                              "Free space or mend the disk, then run the same command again.") from error  # fmt: skip
        raise


def _work(rest: list[Scan], plan: Plan, workers: Workers | None, scheduler: str | None, say, report) -> None:
    if not rest:
        return
    if not has_dask():
        say({"event": "warning", "code": "no_dask", "message": "Dask is not installed: the scans run one after another "
             f"in this process. For workers: {INSTALL}"})  # fmt: skip
        run_serially(rest, plan, report)
        return
    with cluster_client(scheduler) if scheduler else local_client(workers) as client:
        if "dashboard" in client.scheduler_info()["services"]:
            say({"event": "stage", "name": "dashboard", "text": f"Dask's dashboard: {client.dashboard_link}"})
        run_on_dask(client, rest, plan, report)


def _claim(plan: Plan) -> None:
    """Note in the folder what this batch does, or see that it is the same batch."""
    out = Path(plan.out)
    record = out / RECORD
    if record.is_file():
        try:
            earlier = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise OutputError(f"{record} cannot be read.", "Choose another folder for this batch.") from None
        differing = [key for key, value in plan.options().items() if earlier.get(key) != value]
        if differing:
            raise OutputError(f"The folder {out} holds a batch with other options ({', '.join(differing)}).",
                              "Choose another folder, or the options of the first time.")  # fmt: skip
    elif out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file.", "Choose a folder for the batch.")
    elif out.exists() and any(place.name != f".{RECORD}.partial" for place in out.iterdir()):
        raise OutputError(f"The folder {out} holds other files.", "Choose an empty or a new folder for the batch.")
    partial = out / f".{RECORD}.partial"
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(plan.options(), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, record)
        for part in (SCANS, FAILED):
            (out / part).mkdir(exist_ok=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"The batch cannot be written to {out}: {error.strerror or error}.",
                          "Choose another folder, or free space and check its permissions.") from None  # fmt: skip
