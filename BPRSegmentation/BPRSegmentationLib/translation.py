"""Slicer's translation where Slicer is, and the words as they are where it is not: scene files are made without it."""

from __future__ import annotations

try:
    from slicer.i18n import tr as _
except ImportError:

    def _(text: str) -> str:
        return text


__all__ = ["_"]
