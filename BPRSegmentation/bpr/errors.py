"""The errors a person can meet. Each says what is wrong and what to do about it, in one sentence each."""

from __future__ import annotations

from dataclasses import dataclass


class BPRError(Exception):
    """Base class. ``message`` says what is wrong (naming the file), ``advice`` what to do."""

    exit_code = 1

    def __init__(self, message: str, advice: str = ""):
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()


class InputError(BPRError):
    """The input or the request is wrong."""

    exit_code = 2


class BundleError(InputError):
    """A model bundle is missing, altered or of another kind."""


class MemoryShortage(InputError):
    """The work does not fit into memory, even with the smallest tiles."""


class OutputError(InputError):
    """The results cannot be written where they were asked for."""


class Cancelled(BPRError):
    """The person stopped the run."""

    exit_code = 130


@dataclass(frozen=True)
class Notice:
    """A remark about a scan or a run that a person should read: a stable code and one sentence."""

    code: str
    message: str
