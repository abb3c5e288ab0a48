"""What a person sees of a child process while it works, made from its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from .translation import _


class State(Enum):
    """Where a run is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Progress:
    """``fraction`` is 0..1; ``error`` and ``advice`` are sentences, ``log`` is lines."""

    state: State = State.RUNNING
    stage: str = ""
    fraction: float = 0.0
    remaining_s: float | None = None
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    error_type: str = ""
    advice: str = ""
    log: list[str] = field(default_factory=list)

    def take(self, event: dict) -> None:
        """Take in one event of the child-process protocol (``bpr.job``); kinds that are not known are passed over."""
        kind = event["event"]
        if kind == "stage":
            self.stage, self.remaining_s = stage_text(event), None
            self.log.append(self.stage)
        elif kind == "progress":
            self.fraction = min(1.0, max(0.0, float(event.get("fraction", 0))))
            self.remaining_s = event.get("remaining_s")
        elif kind == "warning":
            self.warnings.append(event.get("message", ""))
            self.log.append(_("Warning: {text}").format(text=event.get("message", "")))
        elif kind == "error":
            self.error, self.advice = event.get("message", ""), event.get("advice", "")
            self.error_type = event.get("type", "Error")
            if event.get("details_file") and event["details_file"] in self.advice:  # it goes with the run's folder
                self.advice = _("Copy the details and report them.")
            self.log.append(f"{self.error_type}: {self.error} {self.advice}".strip())
            self._log_details(event.get("details_file"))
        elif kind == "text":
            self.log.append(event["text"])

    def fail_unexpectedly(self, code: int) -> None:
        """Words for a child that ended without a result and perhaps without a word."""
        if not self.error:
            self.error = _("The computation ended unexpectedly (exit code {code}).").format(code=code)
            if code in (-9, 137):  # how Linux ends a process that took too much memory
                self.error_type = "MemoryShortage"
                self.error = _("The computation was ended by the system, most often for want of memory.")
        self.advice = self.advice or _("Copy the details and report them.")

    def _log_details(self, path: str | None) -> None:
        """Copy the child's details into the log: the file may lie in the temporary folder, which is removed."""
        if path and Path(path).is_file():
            self.log.append(Path(path).read_text(encoding="utf-8", errors="replace"))


def stage_text(event: dict) -> str:
    """A stage's name in the person's language; an unknown stage in the child's own words."""
    known = {
        "reading": _("Reading the volume"),
        "scoring": _("Scoring the slices"),
        "regions": _("Finding the regions"),
        "segmenting": _("Segmenting"),
        "writing": _("Writing the results"),
    }
    return known.get(event.get("name", ""), event.get("text") or event.get("name", ""))
