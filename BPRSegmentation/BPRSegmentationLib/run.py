"""One run on one volume: job, child process, result into the scene. Driven by ``poll()``; knows no Qt."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from .export import Request, write_job
from .placement import ijk_to_ras
from .process import ChildProcess
from .result_folder import ResultError
from .results import LoadedResult, load_result

Launcher = Callable[[Path], ChildProcess]  # starts the child for a JOB.json


class State(Enum):
    """Where a run is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Progress:
    """What a person sees of a run. ``fraction`` is 0..1; ``error`` and ``advice`` are sentences, ``log`` is lines."""

    state: State = State.RUNNING
    stage: str = ""
    fraction: float = 0.0
    remaining_s: float | None = None
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    advice: str = ""
    log: list[str] = field(default_factory=list)


class Run:
    """Started by the constructor; call ``poll()`` until ``progress.state`` is no longer RUNNING.

    A run never leaves anything behind: whatever its end, the temporary folder is removed and the process tree is gone.
    """

    def __init__(
        self,
        scene,
        volume_node,
        request: Request,
        launch: Launcher,
        segmentation_node=None,
        temporary: str | None = None,
    ):
        """Write the job and start the child.

        Args:
            launch: starts the child process for the path of JOB.json.
            segmentation_node: the segmentation to update; None makes a new one when the run has made a segmentation.
            temporary: folder for temporary files; None takes the system's.

        Raises:
            RequestError: when the request cannot be carried out. OSError: when the child cannot be started.
        """
        self.progress = Progress(stage="Starting")
        self.result: LoadedResult | None = None
        self._scene, self._volume, self._segmentation = scene, volume_node, segmentation_node
        self._folder = Path(tempfile.mkdtemp(prefix="body-part-regression-", dir=temporary))
        self._finished_folder: Path | None = None
        try:
            self._geometry = ijk_to_ras(volume_node) if volume_node else None
            self._child = launch(write_job(volume_node, request, self._folder))
        except Exception:
            self._remove_files()
            raise

    @property
    def running(self) -> bool:
        """Whether poll() must be called again."""
        return self.progress.state is State.RUNNING

    @property
    def pid(self) -> int:
        """Process number of the child."""
        return self._child.pid

    def poll(self) -> list[dict]:
        """Take in what the child said since the last call; at the end load the result. Returns the child's events."""
        if not self.running:
            return []
        if self._volume.GetScene() is not self._scene:
            self.cancel("The input volume was removed from the scene, so the run was stopped.")
            return []
        events = self._child.poll()
        for event in events:
            self._take(event)
        return events

    def cancel(self, reason: str = "") -> None:
        """End the child's whole process tree and forget the run; the scene stays as it is."""
        if self.running:
            self._child.cancel()
            self.progress.error = reason
            self._end(State.CANCELLED)

    def _take(self, event: dict) -> None:
        progress, kind = self.progress, event["event"]
        if kind == "stage":
            progress.stage, progress.remaining_s = event.get("text") or event.get("name", ""), None
            progress.log.append(progress.stage)
        elif kind == "progress":
            progress.fraction = min(1.0, max(0.0, float(event.get("fraction", 0))))
            progress.remaining_s = event.get("remaining_s")
        elif kind == "warning":
            progress.warnings.append(event.get("message", ""))
            progress.log.append(f"Warning: {event.get('message', '')}")
        elif kind == "error":
            progress.error, progress.advice = event.get("message", ""), event.get("advice", "")
            progress.log.append(f"{event.get('type', 'Error')}: {progress.error}")
            self._log_details(event.get("details_file"))
        elif kind == "result":
            self._finished_folder = Path(event["folder"])
        elif kind == "text":
            progress.log.append(event["text"])
        elif kind == "exit":
            self._finish(event["code"])

    def _log_details(self, path: str | None) -> None:
        """Copy the child's details into the log: the file may lie in the temporary folder, which is removed."""
        if path and Path(path).is_file():
            self.progress.log.append(Path(path).read_text(encoding="utf-8", errors="replace"))

    def _finish(self, code: int) -> None:
        progress = self.progress
        if code != 0 or self._finished_folder is None:
            progress.error = progress.error or f"The computation ended unexpectedly (exit code {code})."
            progress.advice = progress.advice or "Copy the details and report them."
            self._end(State.FAILED)
            return
        try:
            if (ijk_to_ras(self._volume) != self._geometry).any():
                raise ResultError("The input volume was moved or resampled during the run. Run again.")
            if self._segmentation is not None and self._segmentation.GetScene() is not self._scene:
                self._segmentation = None  # deleted meanwhile: make a new one
            self.result = load_result(self._scene, self._finished_folder, self._volume, self._segmentation)
        except ResultError as error:
            progress.error = str(error)
            self._end(State.FAILED)
        except Exception:  # whatever MRML says no to must not leave a run that never ends
            progress.error = "The result could not be brought into the scene."
            progress.advice = "Copy the details and report them."
            progress.log.append(traceback.format_exc())
            self._end(State.FAILED)
        else:
            progress.fraction, progress.stage = 1.0, "Done"
            self._end(State.DONE)

    def _end(self, state: State) -> None:
        self.progress.state = state
        self._remove_files()

    def _remove_files(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def job_command(python: str, job: Path) -> Sequence[str]:
    """The command line of the child process."""
    return [python, "-m", "bpr.job", str(job)]
