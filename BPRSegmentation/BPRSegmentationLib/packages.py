"""Python packages that the child process needs: checked, and installed with consent, when Run is pressed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import slicer


def missing_requirements(path: Path) -> list[str]:
    """Lines of a requirements file whose package is not installed at all (versions are pip's affair)."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#") and not _installed(line.split(">=")[0])]


def ensure_packages(path: Path, requester: str) -> None:
    """Install what is missing, after asking. Call on the main thread only.

    Raises:
        RuntimeError: when the person says no; subprocess.CalledProcessError when pip fails.
    """
    missing = missing_requirements(path)
    if not missing:
        return
    try:
        from slicer.packaging import pip_ensure
    except ImportError:  # Slicer 5.10 and older
        question = f"{requester} needs to install {', '.join(missing)} into Slicer's Python. Continue?"
        if not slicer.util.confirmOkCancelDisplay(question):
            raise RuntimeError("The packages were not installed.") from None
        slicer.util.pip_install(missing)
    else:
        pip_ensure(missing, requester=requester)


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
