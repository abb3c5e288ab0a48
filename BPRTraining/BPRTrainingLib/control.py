"""The one place that knows what is going on: a training, beside it one errand (adding, ...), and quiet questions."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import qt
from slicer.i18n import tr as _

from .task import Task

POLL_MS = 100


class Control:
    """Starts tasks through ``launch``, polls them by a timer and tells the sections.

    ``onEvent(task, event)`` is called for each event, ``onEnd(task)`` once when a task has ended, ``onChange()`` when
    one has begun or ended.
    """

    def __init__(self, launch: Callable, onEvent: Callable, onEnd: Callable, onChange: Callable):
        self._launch, self._onEvent, self._onEnd, self._onChange = launch, onEvent, onEnd, onChange
        self._tasks: dict[str, Task] = {}  # by slot
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.onTimer)

    @property
    def training(self) -> Task | None:
        """The training that is going on, if there is one."""
        return self._tasks.get("train")

    @property
    def errand(self) -> Task | None:
        """The errand that is going on, if there is one."""
        return self._tasks.get("errand")

    def start(self, kind: str, arguments: Sequence[str], temporary: Path | None = None) -> Task:
        """Start ``bpr`` with these arguments; "train" and "device" go beside all other kinds, which are errands.

        A question about the device is dropped when a newer one comes.

        Raises:
            OSError: when the child cannot be started. RuntimeError: when something of that sort is going on already.
        """
        slot = kind if kind in ("train", "device") else "errand"
        if slot == "device" and slot in self._tasks:
            self._tasks.pop(slot).cancel()
        if slot in self._tasks:
            raise RuntimeError(_("Wait for the end of what is going on."))
        task = self._tasks[slot] = Task(kind, self._launch, arguments, temporary)
        self._timer.start()
        self._onChange()
        return task

    def onTimer(self) -> None:
        """Take in what the children said; an error here must not come back ten times a second."""
        for slot, task in list(self._tasks.items()):
            try:
                for event in task.poll():
                    self._onEvent(task, event)
            except Exception:
                logging.error(traceback.format_exc())
                task.cancel()
                task.error = _("Something went wrong in the module; please report the details.")
                task.log.append(traceback.format_exc())
            if not task.running:
                del self._tasks[slot]
                self._onEnd(task)
                self._onChange()
        if not self._tasks:
            self._timer.stop()

    def close(self) -> None:
        """End everything; a training can be resumed."""
        self._timer.stop()
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
