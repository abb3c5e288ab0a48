"""A child process that speaks JSON lines, without Qt: started here, read by threads, asked by ``poll()``.

Slicer's own ``launchConsoleProcess`` cannot be cancelled and mixes the two output streams; here lines never block the
caller, what is not JSON is kept as text, and ``cancel()`` ends the whole process tree (``PythonSlicer`` is a launcher
whose child is the real Python).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

WINDOWS = os.name == "nt"
GRACE_S = 0.5  # time between asking the tree to end and ending it


class ChildProcess:
    """One run of a program that prints JSON lines.

    ``poll()`` returns the events since the last call: the program's own (dictionaries with "event"), then
    ``{"event": "text", "text": line}`` for other lines and everything on stderr, and at the very end, once,
    ``{"event": "exit", "code": n}``.
    """

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], folder: Path | None = None):
        """Start the program. Raises OSError when it cannot be started."""
        own_group = {"creationflags": subprocess.CREATE_NO_WINDOW} if WINDOWS else {"start_new_session": True}
        self._process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            **own_group,
        )
        self._events: queue.SimpleQueue[dict] = queue.SimpleQueue()
        readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, True), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, False), daemon=True),
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._wait, args=(readers,), daemon=True).start()

    @property
    def pid(self) -> int:
        """Process number of the program, which on POSIX is also that of its process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return self._process.poll() is None

    def poll(self) -> list[dict]:
        """Events since the last call, in order; never blocks."""
        events = []
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    def cancel(self) -> None:
        """End the program and everything it started; returns when they are gone (at most about a second)."""
        if WINDOWS:
            if self.running:
                subprocess.run(
                    ["taskkill", "/PID", str(self.pid), "/T", "/F"],
                    capture_output=True,
                    creationflags=subprocess.CREATE_NO_WINDOW,
                    check=False,
                )
        else:
            self._signal_group(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            # Also when the program itself has ended: it may have left children behind that ignore SIGTERM.
            self._signal_group(signal.SIGKILL)
        self._process.wait()

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError):  # the whole group is gone already
            os.killpg(self.pid, number)

    def _read(self, stream, structured: bool) -> None:
        with stream:
            for raw in stream:
                line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
                if line:
                    self._events.put(_event(line) if structured else {"event": "text", "text": line})

    def _wait(self, readers: list[threading.Thread]) -> None:
        code = self._process.wait()
        for reader in readers:
            reader.join()
        self._events.put({"event": "exit", "code": code})


def _event(line: str) -> dict:
    if line.startswith("{"):
        try:
            event = json.loads(line)
        except ValueError:
            return {"event": "text", "text": line}
        if isinstance(event.get("event"), str):
            return event
    return {"event": "text", "text": line}


def child_environment(
    package_folder: Path, base: dict[str, str] | None = None, temporary: Path | None = None
) -> dict[str, str]:
    """Environment for a child that imports packages from ``package_folder`` and prints UTF-8 whatever the locale.

    Its temporary files go into ``temporary``, where given, so that they go when the run's folder does.
    """
    environment = dict(os.environ if base is None else base)
    paths = [str(package_folder)] + [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if temporary:
        environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    return environment
