"""Keeping what C++ libraries print away from the person, who gets notices and errors instead."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Catch everything written to file descriptor 2 meanwhile; the text is in the list after the block.

    ITK, MetaIO and GDCM write there directly, past ``sys.stderr``. Where the process has no stderr (a window program
    on Windows) nothing is redirected.
    """
    caught: list[str] = []
    try:
        saved = os.dup(2)
    except OSError:
        yield caught
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield caught
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            caught.append(file.read().decode("utf-8", "replace"))
