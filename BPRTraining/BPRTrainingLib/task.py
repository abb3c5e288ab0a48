"""One command of ``bpr`` in a process of its own: what it says, and how it ended. Driven by ``poll()``; knows no Qt."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

Launcher = Callable[[Sequence[str]], object]  # starts ``bpr`` with these arguments, returns a ChildProcess


class Task:
    """Started by the constructor; call ``poll()`` until ``running`` is False.

    Attributes:
        kind: what it is for, such as "add" or "train".
        stage, fraction, remaining_s: where it is; fraction is 0..1.
        result: the result event, or None. error, advice: sentences of a failure. warnings, log: lines.
    """

    def __init__(self, kind: str, launch: Launcher, arguments: Sequence[str], temporary: Path | None = None):
        """``temporary``: a folder that is removed at the end. Raises OSError when the child cannot be started."""
        self.kind, self._temporary = kind, temporary
        self.stage, self.fraction, self.remaining_s = "", 0.0, None
        self.result: dict | None = None
        self.error, self.advice = "", ""
        self.warnings: list[str] = []
        self.log: list[str] = []
        self.running = True
        try:
            self._child = launch(arguments)
        except Exception:
            self._clean()
            raise

    def poll(self) -> list[dict]:
        """Take in what the child said since the last call; returns its events."""
        if not self.running:
            return []
        events = self._child.poll()
        for event in events:
            self._take(event)
        return events

    def cancel(self) -> None:
        """End the child's whole process tree; a training keeps its last checkpoint."""
        if self.running:
            self._child.cancel()
            self._end()

    def _take(self, event: dict) -> None:
        kind = event["event"]
        if kind == "stage":
            self.stage, self.fraction, self.remaining_s = event.get("text", ""), 0.0, None
            self.log.append(self.stage)
        elif kind == "progress":
            self.fraction = min(1.0, max(0.0, float(event.get("fraction", 0))))
            self.remaining_s = event.get("remaining_s")
        elif kind == "warning":
            self.warnings.append(event.get("message", ""))
            self.log.append(event.get("message", ""))
        elif kind == "error":
            self.error, self.advice = event.get("message", ""), event.get("advice", "")
            self.log.append(f"{event.get('type', 'Error')}: {self.error}")
            details = event.get("details_file")
            if details and Path(details).is_file():
                self.log.append(Path(details).read_text(encoding="utf-8", errors="replace"))
        elif kind == "result":
            self.result = event
        elif kind == "text":
            self.log.append(event["text"])
        elif kind == "exit":
            if event["code"] != 0 or self.result is None:
                self.error = self.error or f"The computation ended unexpectedly (exit code {event['code']})."
                self.advice = self.advice or "Copy the details and report them."
                self.result = None
            self._end()

    def _end(self) -> None:
        self.running = False
        self._clean()

    def _clean(self) -> None:
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
