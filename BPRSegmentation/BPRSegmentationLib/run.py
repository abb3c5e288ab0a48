"""One run on one volume: job, child process, result into the scene. Driven by ``poll()``; knows no Qt."""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from .export import Request, RequestError, VolumeFile, begin_job, cannot_write, job_path
from .placement import ijk_to_ras
from .process import ChildProcess
from .progress import Progress, State
from .result_folder import ResultError
from .results import LoadedResult, load_result
from .translation import _

Launcher = Callable[[Path], ChildProcess]  # starts the child for a JOB.json
WRITE_S = 0.04  # time that one poll() may spend on handing the volume over


class Run:
    """Started by the constructor; call ``poll()`` until ``running`` is no longer true.

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
        load: Callable[..., object] = load_result,
    ):
        """Begin to hand the volume over; the child starts as soon as it is written, at once for small volumes.

        Args:
            launch: starts the child process for the path of JOB.json.
            segmentation_node: the segmentation to update; None makes a new one when the run has made a segmentation.
            temporary: folder for temporary files; None takes the system's.
            load: brings the result folder into the scene, with the arguments and errors of ``load_result``.

        Raises:
            RequestError: when the request cannot be carried out. OSError: when the child cannot be started.
        """
        self.request = request
        self.progress = Progress(stage=_("Starting"))
        self.result: LoadedResult | object | None = None
        self.volume = volume_node
        self._scene, self._segmentation, self._launch, self._load = scene, segmentation_node, launch, load
        self._started = time.monotonic()
        self._child: ChildProcess | None = None
        self._file: VolumeFile | None = None
        self._finished_folder: Path | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="body-part-regression-", dir=temporary))
        try:
            self._geometry = ijk_to_ras(volume_node) if volume_node else None
            self._file = begin_job(volume_node, request, self._folder)
            self._hand_over()
        except Exception:
            self._remove_files()
            raise

    @property
    def running(self) -> bool:
        """Whether poll() must be called again."""
        return self.progress.state is State.RUNNING

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def poll(self) -> list[dict]:
        """Take in what the child said since the last call; at the end load the result. Returns the child's events."""
        if not self.running:
            return []
        if self.volume.GetScene() is not self._scene:
            self.cancel(_("The input volume was removed from the scene, so the run was stopped."))
            return []
        if self._child is None:
            self._continue_hand_over()
            return []
        events = self._child.poll()
        for event in events:
            self._take(event)
        return events

    def cancel(self, reason: str = "") -> None:
        """End the child's whole process tree and forget the run; the scene stays as it is."""
        if self.running:
            if self._child:
                self._child.cancel()
            self.progress.error = reason
            self._end(State.CANCELLED)

    def _hand_over(self) -> None:
        if self._file.write_some(WRITE_S):
            self._child = self._launch(job_path(self._folder))
        else:
            self.progress.stage = _("Handing the volume over")

    def _continue_hand_over(self) -> None:
        try:
            self._hand_over()
        except (OSError, RequestError) as error:
            self.progress.error = cannot_write(self._folder, error) if self._file.fraction < 1 else str(error)
            self._end(State.FAILED)

    def _take(self, event: dict) -> None:
        if event["event"] == "result":
            self._finished_folder = Path(event["folder"])
        elif event["event"] == "exit":
            self._finish(event["code"])
        else:
            self.progress.take(event)

    def _finish(self, code: int) -> None:
        progress = self.progress
        if code != 0 or self._finished_folder is None:
            progress.fail_unexpectedly(code)
            self._end(State.FAILED)
            return
        try:
            if (ijk_to_ras(self.volume) != self._geometry).any():
                raise ResultError(_("The input volume was moved or resampled during the run. Run again."))
            if self._segmentation is not None and self._segmentation.GetScene() is not self._scene:
                self._segmentation = None  # deleted meanwhile: make a new one
            self.result = self._load(self._scene, self._finished_folder, self.volume, self._segmentation)
        except ResultError as error:
            progress.error = str(error)
            self._end(State.FAILED)
        except Exception:  # whatever MRML says no to must not leave a run that never ends
            progress.error = _("The result could not be brought into the scene.")
            progress.advice = _("Copy the details and report them.")
            progress.log.append(traceback.format_exc())
            self._end(State.FAILED)
        else:
            progress.fraction, progress.stage = 1.0, _("Done")
            self._end(State.DONE)

    def _end(self, state: State) -> None:
        self.progress.state = state
        self._remove_files()

    def _remove_files(self) -> None:
        if self._file:
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def job_command(python: str, job: Path) -> Sequence[str]:
    """The command line of the child process."""
    return [python, "-m", "bpr.job", str(job)]
