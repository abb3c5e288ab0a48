"""`bpr batch INPUT... --out DIR`: many scans, one table, one page."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from bpr.errors import InputError
from bpr.job import PRODUCTS, JobRequest, print_event


def add_batch(commands, only: dict[str, tuple[str, ...]]) -> None:
    """Register the command. ``only`` maps the names of products to what is made then, as for `bpr run`."""
    batch = commands.add_parser("batch", help="run many scans: folders, DICOM trees, CSV lists; resumes")
    batch.add_argument("input", nargs="+", help="volume files, folders, or CSV lists with a column 'path'")
    batch.add_argument("--out", required=True, type=Path, help="folder of the batch; the same again resumes it")
    batch.add_argument("--workers", type=int, metavar="N", help="worker processes on this machine (default: as fits)")
    batch.add_argument("--scheduler", metavar="ADDRESS", help="use a running Dask cluster, such as tcp://host:8786")
    batch.add_argument("--memory", type=int, metavar="MB", help="memory of each worker on this machine")
    batch.add_argument("--only", choices=sorted(only), help="make this product only")
    batch.add_argument("--regions", type=_names, help="comma-separated regions")
    batch.add_argument("--organs", type=_names, help="comma-separated organ IDs")
    batch.add_argument("--bundle", action="append", default=[], metavar="NAME", help="use this model (repeatable)")
    batch.add_argument("--device", default="auto")
    batch.add_argument("--engine", default="auto")
    batch.add_argument("--step", type=float, default=2.5, metavar="MM")
    batch.add_argument("--margin", type=float, default=0.0, metavar="MM", help="added to both ends of each region")
    batch.add_argument("--tile", type=int, default=0, metavar="VOXELS", help="longest edge of what a network sees "
                       "at once (default: as trained); smaller needs less memory")  # fmt: skip
    batch.add_argument("--scene", action="store_true", help="also write scene.mrb for each scan")
    batch.add_argument("--no-report", action="store_true", help="leave out each scan's report: a second less per scan")
    batch.add_argument("--body-composition", action="store_true", help="also measure muscle and fat at L3")
    batch.add_argument("--retry-failed", action="store_true", help="try scans again whose input was refused before")
    batch.add_argument("--json", action="store_true", help="print JSON lines instead of a progress bar")
    batch.set_defaults(action=lambda options: _batch(options, only))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _batch(options: argparse.Namespace, only: dict[str, tuple[str, ...]]) -> int:
    from bpr.batch.inputs import find_scans
    from bpr.batch.run import run_batch
    from bpr.batch.scan import Plan
    from bpr.models import domain_models

    for model in domain_models(options.bundle):
        raise InputError(f"{model.name} gives no scores, which every row of a batch has.",
                         f"Run its scans one by one: bpr run SCAN --bundle {model.name}.")  # fmt: skip
    produce = only[options.only] if options.only else PRODUCTS
    dropped = {"scene"} - ({"scene"} if options.scene else set()) | ({"report"} if options.no_report else set())
    workers = None if options.scheduler else _workers(options)
    threads = workers.threads if workers else 1  # on a cluster: one core for each thread of a Dask worker
    request = JobRequest("", "", tuple(p for p in produce if p not in dropped), options.regions, options.organs,
                         options.bundle, options.device, options.engine, options.step, options.margin, threads,
                         options.tile)  # fmt: skip
    request.check()
    scans, notices = find_scans(options.input, options.out)
    plan = Plan(request, os.path.abspath(options.out), options.body_composition)
    with contextlib.nullcontext() if options.json else _progress_bar() as bar:
        say = print_event if options.json else lambda event: _show(event, bar)
        for notice in notices:
            say({"event": "warning", "code": notice.code, "message": notice.message})
        run_batch(scans, plan, workers, options.scheduler, options.retry_failed, say)
    return 0


def _progress_bar():
    """Imported here, so that a batch that prints JSON needs no rich."""
    from bpr.terminal import ProgressBar

    return ProgressBar()


def _workers(options: argparse.Namespace):
    from bpr.batch.cluster import has_dask, share_machine

    if options.workers is not None and options.workers < 1:
        raise InputError(f"{options.workers} workers can do nothing.", "Choose 1 or more.")
    return share_machine(options.workers if has_dask() else 1, options.memory)


def _show(event: dict, bar) -> None:
    """Short lines for people above the progress bar."""
    if event["event"] == "progress":
        bar.show(event)
    elif event["event"] == "result":
        states = ", ".join(f"{count} {state}" for state, count in sorted(event["states"].items()))
        print(f"{states}\nResults: {event['folder']}\nPage: {event['files'][-1]}")
    else:
        print(event.get("text") or f"note: {event['message']}", file=sys.stderr)
