"""Keyboard shortcuts that exist only while the module is shown."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer


class Shortcuts:
    """Keys and what they do; installed on entering the module, removed on leaving it."""

    def __init__(self, actions: dict[str, Callable[[], None]]):
        self._actions = actions
        self._installed: list = []

    def install(self) -> None:
        """Make the keys work in the main window; without one there is nothing to do."""
        window = slicer.util.mainWindow()
        if window is None or self._installed:
            return
        for keys, action in self._actions.items():
            shortcut = qt.QShortcut(qt.QKeySequence(keys), window)
            shortcut.connect("activated()", action)
            self._installed.append((shortcut, action))

    def remove(self) -> None:
        """Take the keys away."""
        for shortcut, action in self._installed:
            shortcut.disconnect("activated()", action)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._installed = []
