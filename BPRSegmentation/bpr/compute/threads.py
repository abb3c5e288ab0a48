"""How many threads a process uses: the engine, the linear algebra and the resampling.

Sums that several threads share are added in another order, so the last bits of a result depend on the number.
"""

from __future__ import annotations

import os

BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables for a process that has not imported numpy yet: numpy reads them once, at import."""
    return dict.fromkeys((*BLAS, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), str(threads))


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has in a container or a cluster's job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(threads: int) -> None:
    """Limit this process, before it imports numpy and SimpleITK."""
    os.environ.update(thread_environment(threads))
