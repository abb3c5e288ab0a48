"""Files of a project: written complete or not at all, in one process at a time; a full disk is said in one sentence."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bpr.errors import InputError, OutputError
from bpr.files import whole

if TYPE_CHECKING:
    import SimpleITK as sitk

DISK_WORDS = ("PytorchStreamWriter", "inline_container", "No space left", "File too large", "iostream error")
FREE_BYTES = 50 * 2**20  # left free on the disk beside what is about to be written


def write_json(path: Path, content: object) -> None:
    """Replace a JSON file as a whole."""
    with whole(path) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def read_image(path: Path) -> sitk.Image:
    """An image of the project. Raises InputError when the disk does not give it."""
    import SimpleITK as sitk  # not at file scope: the command line reads this file at every start

    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read.", "Check its permissions and the disk.") from error


def write_image(image: sitk.Image, path: Path) -> None:
    """Write a compressed image. Raises OutputError when the disk says no."""
    import SimpleITK as sitk  # not at file scope: the command line reads this file at every start

    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    except RuntimeError as error:  # ITK has no error of its own for a full disk
        raise OutputError(f"{path.name} cannot be written: the disk may be full.",
                          "Free some space; the project is as it was.") from error  # fmt: skip


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn the system's words about a full or protected disk into one sentence.

    Raises:
        OutputError: with the folder's name.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(f"The disk of {folder} is full.", "Free some space; the project is as it was.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(f"{folder} cannot be written: {error.strerror}.",
                              "Check its permissions, or use another folder.") from error  # fmt: skip
        if error.errno == errno.EIO:
            raise OutputError(f"The disk of {folder} reports an error.",
                              "Check the disk or the network; the project is as it was.") from error  # fmt: skip
        raise
    except Exception as error:  # torch and safetensors have their own ways to say it
        if any(words in str(error) for words in DISK_WORDS):
            raise OutputError(f"The disk of {folder} is full or reports an error.",
                              "Free some space; the project is as it was.") from error  # fmt: skip
        raise


def check_free(folder: Path, needed: int) -> None:
    """Raises OutputError when the folder's disk has less than ``needed`` bytes and a reserve."""
    free = psutil.disk_usage(str(folder)).free
    if free < needed + FREE_BYTES:
        raise OutputError(
            f"The disk of {folder} is full: {free >> 20} MB are free, {(needed + FREE_BYTES) >> 20} MB are needed.",
            "Free some space; the project is as it was.",
        )


@contextlib.contextmanager
def lock(path: Path, message: str, advice: str) -> Iterator[None]:
    """Hold a lock file with this process's number; one that a dead process left behind is taken over.

    Raises:
        InputError: with ``message`` and ``advice``, when another living process holds it.
    """
    if _held(path):
        raise InputError(message, advice)
    path.write_text(str(os.getpid()), encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _held(path: Path) -> bool:
    """Whether another process that wrote the lock still lives; numbers of processes are used again after a restart."""
    try:
        holder = int(path.read_text(encoding="utf-8"))
        started = psutil.Process(holder).create_time()
    except (OSError, ValueError, psutil.Error):
        return False
    return holder != os.getpid() and started <= path.stat().st_mtime + 1
