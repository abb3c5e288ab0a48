"""Files that are written as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file or folder beside ``path`` to write to; at the end it replaces ``path``, after an error it is gone."""
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)  # a killed process left it
    try:
        yield partial
        if partial.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
