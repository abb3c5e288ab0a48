"""Python packages that the child process needs: checked, and installed with consent, when Run is pressed."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

import slicer

from .translation import _


class PackagesError(Exception):
    """Packages are missing and were not installed. The message says what to do, in one sentence."""


def missing_requirements(path: Path) -> list[str]:
    """Lines of a requirements file whose package is not installed at all (versions are pip's affair)."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#") and not _installed(line.split(">=")[0])]


def torch_state() -> str:
    """ "absent", "broken" (a half-finished installation) or "present"; torch is not imported in Slicer's process."""
    spec = importlib.util.find_spec("torch")
    if spec is None and not _installed("torch"):
        return "absent"
    return "present" if spec is not None and spec.origin and _installed("torch") else "broken"


def ensure_packages(resources: Path, requester: str, engine: str, repair: bool = False, batch: bool = False) -> None:
    """Install what this engine's child process lacks, after asking. Call on the main thread only.

    Args:
        resources: folder of the requirements files.
        engine: "auto" (content with torch where that is complete, else OpenVINO), "openvino" or "torch".
        repair: install again what seems to be there but does not work.
        batch: also what reports need.

    Raises:
        PackagesError: the person says no, pip fails, or the PyTorch extension is needed and missing.
    """
    if batch:
        install(missing_requirements(resources / "requirements_batch.txt"), requester)
    beside_torch = missing_requirements(resources / "requirements_torch.txt")
    if engine == "torch":
        _ensure_torch(repair)
        install(beside_torch, requester)
    elif engine == "openvino" or repair or torch_state() != "present" or beside_torch:
        missing = missing_requirements(resources / "requirements.txt")
        install(["--force-reinstall openvino>=2024.4"] if repair and not missing else missing, requester)


def _ensure_torch(repair: bool) -> None:
    state = torch_state()
    if state == "present" and not repair:
        return
    try:
        import PyTorchUtils
    except ImportError:
        text = _("PyTorch is {state}; install the extension PyTorch in the Extensions Manager, or choose OpenVINO.")
        raise PackagesError(text.format(state=_("missing") if state == "absent" else _("damaged"))) from None
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if state == "broken" or repair:
        logic.uninstallTorch()
    if not logic.installTorch(True):  # the first parameter asks for consent; its keyword's spelling has changed
        raise PackagesError(_("PyTorch was not installed."))


def install(requirements: list[str], requester: str) -> None:
    """Install these, after asking. Raises PackagesError."""
    if not requirements:
        return
    try:
        _pip(requirements, requester)
    except Exception as error:  # pip's, the network's or the person's no: all end here
        text = _("The packages {names} were not installed ({error}). Without network, see the offline installation in "
                 "docs/tutorial.md.")  # fmt: skip
        names = ", ".join(line.rpartition(" ")[2] for line in requirements)
        raise PackagesError(text.format(names=names, error=error)) from error


def _pip(requirements: list[str], requester: str) -> None:
    forced = [line for line in requirements if line.startswith("--")]
    try:
        from slicer.packaging import pip_ensure
    except ImportError:  # Slicer 5.10
        pip_ensure = None
    if pip_ensure and not forced:
        pip_ensure(requirements, requester=requester)
        return
    question = _("{module} needs to install {names} into Slicer's Python. Continue?")
    names = ", ".join(line.rpartition(" ")[2] for line in requirements)
    if not slicer.util.confirmOkCancelDisplay(question.format(module=requester, names=names)):
        raise RuntimeError(_("it was declined"))
    for line in requirements:
        slicer.util.pip_install(line)


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
