"""The trainings of a study: each is kept, so that a later run goes on with what is missing; several run at a time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from study import QUICK, Row, write_study

WORKERS = int(os.environ.get("BPR_WORKERS", "2"))


def work_folder(name: str) -> Path:
    """Where the trainings of a study are kept."""
    return Path(os.environ.get("BPR_WORK", "/tmp/bpr-study")) / (f"{name}-quick" if QUICK else name)


def kept(folder: Path, find: Callable[[], dict]) -> dict:
    """What ``find`` gives (plain values), with its CPU seconds; read where an earlier run kept it in the folder."""
    import torch

    done = folder / "result.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    started = time.process_time()
    found = find()
    found["cpu_s"] = round(time.process_time() - started)
    folder.mkdir(parents=True, exist_ok=True)
    partial = done.with_suffix(".partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    os.replace(partial, done)
    return found


def run_all(name: str, trials: list[Hashable], run: Callable[[Hashable], dict],
            rows_of: Callable[[dict], list[Row]], write_tables: Callable[[dict, list[Row]], None]) -> None:  # fmt: skip
    """Run all trials, and write the study after each: a long one is looked at. A quick run writes nothing.

    Args:
        run: a module's function; each of its results goes into the dictionary that the other two get.
    """
    started, found = time.time(), {}
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        waiting = {pool.submit(run, trial): trial for trial in trials}
        for future in as_completed(waiting):
            found[waiting[future]] = future.result()
            if QUICK and len(found) < len(trials):
                continue
            rows = [Row("trainings done", len(found), "", f">= {len(trials)}"), *rows_of(found)]
            write_study(name, rows, started)
            if not QUICK:
                write_tables(found, rows)
