"""Runs the modules' self-tests inside an installed Slicer, which ends with exit code 0 only if all of them passed.

    BPR_INSTALL=1 Slicer --no-main-window --python-script Testing/run_in_slicer.py      once: what the child needs
    Slicer --testing --additional-module-paths BPRSegmentation BPRTraining --python-script Testing/run_in_slicer.py

``make`` does not know where Slicer is; these are the commands that the workflow runs in a container.
"""

import os
import traceback
from pathlib import Path

import slicer

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("BPRSegmentation", "BPRTraining")


def install() -> None:
    """Everything that the requirements file names, without asking."""
    lines = (ROOT / "BPRSegmentation" / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            slicer.util.pip_install(line)


def run_tests() -> list[str]:
    """Run the self-test of each module; returns the names of those that failed or are not loaded."""
    failed = []
    for name in MODULES:
        test = getattr(slicer, "selfTests", {}).get(name)
        try:
            if test is None:
                raise AssertionError(f"{name} is not loaded")
            slicer.util.selectModule(name)  # its panel must open too
            test()
        except BaseException:  # a failure must not keep the others from running
            traceback.print_exc()
            failed.append(name)
    return failed


if __name__ == "__main__":
    code = 0
    try:
        if os.environ.get("BPR_INSTALL"):
            install()
        else:
            failures = run_tests()
            print(f"failed: {', '.join(failures)}" if failures else "all self-tests passed")
            code = 1 if failures else 0
    except BaseException:
        traceback.print_exc()
        code = 1
    slicer.util.exit(code)
