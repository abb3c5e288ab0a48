"""Stands in for bpr.job: prints protocol lines and behaves as its first argument says.

python fake_child.py BEHAVIOR JOB.json [RESULT_FOLDER]
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SLEEP_FOREVER = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)


def say(**event) -> None:
    """One protocol line."""
    print(json.dumps(event), flush=True)


def main(behavior: str, job: str, result: str | None = None) -> int:
    """Behave; returns the exit code."""
    say(event="stage", name="reading", text="Reading the volume")
    if behavior == "error":
        details = Path(job).with_name("details.txt")
        details.write_text("Traceback: the whole story", encoding="utf-8")
        say(
            event="error",
            type="InputError",
            message="This is not a CT.",
            advice="Choose one.",
            details_file=str(details),
        )
        return 2
    if behavior == "out of memory":
        say(event="error", type="MemoryShortage", message="The GPU has too little free memory.", advice="Free it.")
        return 2
    if behavior == "no package":
        say(event="error", type="InputError", message="openvino must be installed.", advice="pip install openvino")
        return 2
    if behavior == "crash":
        print("Segmentation fault (really)", file=sys.stderr)
        return 139
    if behavior == "no result":
        return 0
    if behavior == "stubborn tree":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grandchild = subprocess.Popen([sys.executable, "-c", SLEEP_FOREVER], stdout=subprocess.PIPE)
        grandchild.stdout.readline()
        say(event="metric", name="grandchild", value=grandchild.pid)
        time.sleep(60)
    if behavior == "result only":
        shutil.copytree(result, json.loads(Path(job).read_text(encoding="utf-8"))["out"])
        say(event="result", folder=json.loads(Path(job).read_text(encoding="utf-8"))["out"], summary={})
        return 0
    print("text with \u00e4 and no JSON")
    print("{broken json")
    say(event="progress", fraction=0.4, done=2, total=5, unit="tiles", remaining_s=75)
    say(event="warning", code="short", message="The scan is short.")
    if behavior == "chatty":
        for number in range(20000):
            print(f"line {number} of a library that says too much")
            if number % 20 == 0:
                say(event="progress", fraction=number / 20000, done=number, total=20000, unit="tiles", remaining_s=1)
                time.sleep(0.002)
    if behavior == "wait":
        time.sleep(60)
    out = Path(json.loads(Path(job).read_text(encoding="utf-8"))["out"])
    shutil.copytree(result, out)
    say(event="result", folder=str(out), summary={})
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
