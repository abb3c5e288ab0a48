"""What a person at the terminal sees: one progress bar with the stage and an estimate, then what was found."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bpr.results.files import all_notices
from bpr.results.summary import RunResult

DOUBTFUL = 0.3  # mean probability that a segment's voxels give to something else


class ProgressBar:
    """Shows the events of a job on standard error; use as a context manager and pass ``show`` as emit."""

    def __init__(self):
        columns = (TextColumn("{task.description:24}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("Starting", total=1.0)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: dict) -> None:
        """One event of bpr.job."""
        if event["event"] == "stage":
            self._progress.update(self._task, description=event["text"])
        elif event["event"] == "progress":
            self._progress.update(self._task, completed=event["fraction"])


def print_result(result: RunResult) -> None:
    """Coverage, regions, organs with volumes, device and engine, seconds, peak memory, and where the results lie."""
    console = Console(highlight=False)
    curve = result.curve
    if curve:
        first, last = curve.verdict.coverage
        reach = f"from {first} to {last}" if first else "no known landmark"
        console.print(
            f"[bold]{result.volume.name}[/]: {len(curve.z_mm)} slices, scores "
            f"{curve.cleaned.min():.0f} to {curve.cleaned.max():.0f} ({reach}), {curve.verdict.quality}"
        )
    for region in result.regions:
        low, high = region.z_range_mm
        console.print(f"  region {region.name}: {low:.0f} to {high:.0f} mm, {region.complete:.0%} of its core")
    if result.segments:
        table = Table("organ", "ml", "mean HU" if curve else "mean intensity", "remarks")
        for segment in result.segments:
            remarks = ["cut by the scan's edge"] if segment.at_edge else []
            remarks += ["doubtful"] if segment.doubt > DOUBTFUL else []
            table.add_row(
                segment.name, f"{segment.volume_ml:.{0 if curve else 2}f}", f"{segment.mean_hu:.0f}", ", ".join(remarks)
            )
        console.print(table)
    for notice in all_notices(result):
        console.print(f"  [yellow]note[/] {notice.message}")
    seconds = sum(result.seconds.values())
    console.print(f"{result.engine} on {result.device}, {seconds:.1f} s, peak memory {result.peak_memory_mb:.0f} MB")
    console.print(f"Results: {result.folder}", soft_wrap=True)
