"""The main job with one engine alone: without torch and monai, without openvino; and never with a socket."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Packages are hidden from the path finder, as if they had never been installed; a socket ends the run.
HIDDEN = """
import importlib.machinery, socket, sys
hidden = set(sys.argv[1].split(","))
find = importlib.machinery.PathFinder.find_spec.__func__
def find_spec(cls, name, path=None, target=None):
    return None if name.split(".")[0] in hidden else find(cls, name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
def no_socket(*args, **kwargs):
    raise SystemExit("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = no_socket
from bpr.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("hidden", "engine"), [("torch,monai", "openvino"), ("openvino", "torch")], ids=("openvino alone", "torch alone")
)
def test_one_engine_is_enough(tmp_path: Path, sample_ct: Path, hidden: str, engine: str):
    if engine == "torch":
        pytest.importorskip("torch", reason="this environment leaves torch out")
    command = [sys.executable, "-c", HIDDEN, hidden, "run", str(sample_ct), "--out", str(tmp_path / "out"),
               "--only", "segmentation", "--regions", "upper abdomen", "--no-scene"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["engine"] == engine
    assert (tmp_path / "out" / "segmentation.seg.nrrd").is_file()


def test_a_hidden_engine_is_missed(tmp_path: Path, sample_ct: Path):
    """The hiding works: who asks for what is hidden gets one sentence."""
    command = [sys.executable, "-c", HIDDEN, "torch,monai", "run", str(sample_ct), "--out", str(tmp_path / "out"),
               "--engine", "torch"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and "torch" in done.stderr and "Traceback" not in done.stderr
