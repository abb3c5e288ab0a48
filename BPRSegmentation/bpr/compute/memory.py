"""How much memory a run needs and has."""

from __future__ import annotations

import os
import sys

import psutil

from bpr.errors import MemoryShortage

MARGIN = 0.9  # leave a tenth of what is free to others


def available_mb() -> float:
    """Memory that this process may still use: free memory, bounded by the control group's limit. MB (2**20)."""
    free = psutil.virtual_memory().available / 2**20
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(limit) as file, open(used) as now:
                free = min(free, (int(file.read()) - int(now.read())) / 2**20)
        except (OSError, ValueError):
            continue  # no control group, or no limit ("max")
    if os.environ.get("BPR_MEMORY_MB"):
        free = min(free, float(os.environ["BPR_MEMORY_MB"]))
    return free


def peak_mb() -> float:
    """Peak resident memory of this process so far, MB (2**20)."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def check_run(voxels: int, grid_voxels: int, structures: int) -> float:
    """Estimate the main job's memory in MB and compare it with what there is.

    Args:
        voxels: of the input; the input, its labels and their probability live at the same time.
        grid_voxels: of the networks' grid; probabilities of all structures live there, in float32 and as bytes.

    Raises:
        MemoryShortage: when the estimate is above what is available.
    """
    needed = (voxels * 6 + grid_voxels * (structures * 5 + 30)) / 2**20 + 600
    free = available_mb()
    if needed > free * MARGIN:
        raise MemoryShortage(
            f"This scan needs about {needed:.0f} MB of memory, but only {free:.0f} MB are free.",
            "Close other programs, or choose fewer regions or organs, or crop the scan.",
        )
    return needed
