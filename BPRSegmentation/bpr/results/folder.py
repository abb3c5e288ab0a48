"""A result folder appears complete or not at all: it is filled beside its place and then renamed into it."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from bpr.errors import OutputError

MARK = "result.json"  # a folder without it is not ours and is never replaced
PLACE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


@contextlib.contextmanager
def result_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; on success it replaces ``target``, on any exception it disappears.

    Raises:
        OutputError: the place cannot be written, is full, or holds files that are not an earlier result.
    """
    target = Path(os.path.abspath(target))
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        _check_replaceable(target)
        _remove_stale(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        _remove(partial)
        raise _cannot_write(target, error) from None
    try:
        yield partial
        _swap(partial, target)
    except OSError as error:
        if error.errno in PLACE_FAULTS:
            raise _cannot_write(target, error) from error
        raise
    finally:
        _remove(partial)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raises OutputError when the disk has less room than the results are going to need."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"The disk of {folder.parent} has {free / 2**20:.0f} MB left; the results need about "
            f"{needed_bytes / 2**20:.0f} MB.",
            "Free some space or choose another folder.",
        )


def _check_replaceable(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()) and not (target / MARK).exists():
        raise OutputError(f"The folder {target} holds other files.", "Choose an empty or a new folder for the results.")
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file.", "Choose a folder for the results.")


def _remove_stale(target: Path) -> None:
    """Remove what killed runs left beside the target; restore the old result if a swap was cut in the middle."""
    if not target.parent.is_dir():
        return
    name = glob.escape(target.name)
    for leftover in target.parent.glob(f".{name}.partial-*"):
        owner = leftover.name.rpartition("-")[2]
        # A process of our own number is long gone: containers give the same few numbers again and again.
        if not (owner.isdigit() and int(owner) != os.getpid() and psutil.pid_exists(int(owner))):
            _remove(leftover)
    for old in target.parent.glob(f".{name}.old-*"):
        if target.exists():
            _remove(old)
        else:
            os.replace(old, target)


def _remove(folder: Path) -> None:
    """Delete a folder; a second try helps where a single operation failed (network drives do that)."""
    for _ in range(2):
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)


def _swap(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(partial, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    _remove(old)


def _cannot_write(target: Path, error: OSError) -> OutputError:
    return OutputError(f"The results cannot be written to {target}: {error.strerror or error}.",
                       "Choose another folder, or free space and check its permissions.")  # fmt: skip
