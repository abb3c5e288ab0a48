"""Who does the work of a batch: Dask's workers on this machine or on a cluster; without Dask, one scan after another.

Retries, restarts of killed workers, memory limits and the dashboard are Dask's. At most a few scans per worker are
handed to the scheduler at a time (Dask's as_completed pattern), so that a million scans need no more memory than ten.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bpr.batch.inputs import Scan
from bpr.batch.scan import SCANS, Plan, record_failure, run_scan
from bpr.compute.memory import available_mb
from bpr.compute.threads import thread_environment, usable_cores
from bpr.errors import BPRError, Cancelled, InputError

RETRIES = 2  # of a scan that failed through no fault of its input
AHEAD = 3  # scans per worker that the scheduler holds
LEAST_MB = 1500  # what a worker needs for an ordinary scan with all models loaded
CONNECT_S = 20
INSTALL = "pip install 'bodypartregression[batch]'"
Report = Callable[[Scan], None]


@dataclass(frozen=True)
class Workers:
    """How many worker processes there are, and each one's share of cores and memory (MB, 2**20)."""

    count: int
    threads: int
    memory_mb: int


class LostScheduler(BPRError):
    """The Dask cluster went away; everything that was finished is kept."""


def has_dask() -> bool:
    """Whether dask.distributed can be imported."""
    return importlib.util.find_spec("distributed") is not None


def share_machine(workers: int | None, memory_mb: int | None = None) -> Workers:
    """Split this machine's cores and nine tenths of its free memory among so many workers (None: as fits)."""
    cores, free = usable_cores(), available_mb() * 0.9
    count = workers or max(1, min(cores, int(free // (memory_mb or LEAST_MB))))
    if count < 1:
        raise InputError(f"{count} workers can do nothing.", "Choose 1 or more.")
    return Workers(count, max(1, cores // count), int(memory_mb or free / count))


def run_serially(scans: list[Scan], plan: Plan, report: Report) -> None:
    """All scans in this process; a scan that fails is recorded and the next one begins."""
    for scan in scans:
        try:
            run_scan(scan, plan)
        except (Cancelled, KeyboardInterrupt):
            raise
        except Exception as error:  # noqa: BLE001 - one scan must not end the batch
            record_failure(scan, plan, error)
        report(scan)


@contextlib.contextmanager
def local_client(workers: Workers) -> Iterator:
    """A Dask client with worker processes on this machine, each with its own memory limit and thread budget."""
    import dask
    import distributed.config  # noqa: F401 - fills in Dask's defaults
    from distributed import Client, LocalCluster

    given = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    environment = given | thread_environment(workers.threads) | {"BPR_MEMORY_MB": str(workers.memory_mb)}
    # Models stay in memory, so pausing or spilling at a share of the limit would stop a worker for good.
    limits = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
    dashboard = "127.0.0.1:0" if importlib.util.find_spec("bokeh") else None
    limits |= {"distributed.nanny.pre-spawn-environ": environment}
    with (
        dask.config.set(limits),
        LocalCluster(n_workers=workers.count, threads_per_worker=1, memory_limit=f"{workers.memory_mb}MiB",
                     dashboard_address=dashboard, silence_logs=50) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client


@contextlib.contextmanager
def cluster_client(address: str) -> Iterator:
    """A client of a running Dask scheduler. Raises InputError when nothing answers there."""
    from distributed import Client

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler gets one sentence of ours
    try:
        client = Client(address, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"No Dask scheduler answers at {address}: {str(error).splitlines()[0]}.",
                         "Start one with: dask scheduler") from None  # fmt: skip
    with client:
        yield client


def run_on_dask(client, scans: list[Scan], plan: Plan, report: Report) -> None:
    """Hand the scans to Dask's workers, a few ahead of what they can do, and record what fails for good.

    Raises:
        LostScheduler: the cluster went away; a resume continues.
    """
    from distributed import as_completed

    run, waiting, under_way = uuid.uuid4().hex[:8], iter(scans), {}
    finished = as_completed()

    def submit(count: int) -> None:
        for scan in itertools.islice(waiting, count):
            future = client.submit(run_scan, scan, plan, key=f"{scan.id}-{run}", retries=RETRIES, pure=False)
            under_way[future.key] = scan
            finished.add(future)

    submit(AHEAD * max(1, len(client.scheduler_info(n_workers=-1)["workers"])))
    for future in finished:
        scan = under_way.pop(future.key)
        if future.status == "error":
            record_failure(scan, plan, _in_words(future.exception()))
        elif future.status != "finished":
            raise LostScheduler("The Dask scheduler is gone.", "Run the same command again: finished scans are kept.")
        future.release()
        report(scan)
        submit(1)


def _in_words(error: BaseException) -> BaseException:
    """A worker that died is not the program's fault as a traceback would have it, but the scan's size as a rule."""
    if type(error).__name__ == "KilledWorker":
        return BPRError("The worker process ended several times with this scan, most often for want of memory.",
                        "Give each worker more memory (--memory), or fewer workers.")  # fmt: skip
    return error


def sweep(plan: Plan) -> None:
    """Remove what killed workers left half written. Only when no worker of this batch is alive."""
    scans = Path(plan.out) / SCANS
    for leftover in scans.glob(".*.partial-*") if scans.is_dir() else ():
        shutil.rmtree(leftover, ignore_errors=True)
    for old in scans.glob(".*.old-*") if scans.is_dir() else ():
        target = scans / old.name[1:].rpartition(".old-")[0]
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, target)
