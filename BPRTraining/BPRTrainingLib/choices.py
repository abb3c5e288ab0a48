"""Choices of the panel that become parameters: each with its word in the child-process protocol and its label."""

from __future__ import annotations

from enum import Enum

from slicer.i18n import tr as _


class Device(Enum):
    """Where the training runs; the values are words of the child-process protocol."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self) -> str:
        """Text in the combo box."""
        return {"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("CUDA"), "mps": _("Apple MPS")}[self.value]
