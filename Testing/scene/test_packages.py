"""Missing packages, and torch in its three states: what is installed, how it is asked for, and what is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed or its libraries are missing")
import slicer
import slicer.util

from BPRSegmentationLib import packages

RESOURCES = Path(__file__).resolve().parents[2] / "BPRSegmentation" / "Resources"


@pytest.fixture
def slicers(monkeypatch):
    """What pip and the person are asked for; nothing is installed. ``new`` is Slicer 5.12 with slicer.packaging."""
    asked = types.SimpleNamespace(pip=[], torch=[], consent=True, new=True, installed={"psutil"}, torch_works=True)
    monkeypatch.setattr(packages, "_installed", lambda name: name in asked.installed)
    monkeypatch.setattr(packages, "torch_state", lambda: "present" if "torch" in asked.installed else "absent")

    def pip_ensure(requirements, requester):
        if not asked.consent:
            raise RuntimeError("User declined package installation")
        asked.pip += requirements

    packaging = types.ModuleType("slicer.packaging")
    packaging.pip_ensure = pip_ensure
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    monkeypatch.setattr(slicer.util, "pip_install", asked.pip.append, raising=False)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: asked.consent, raising=False)

    class Logic:
        def installTorch(self, ask):
            asked.torch.append("install")
            asked.installed.add("torch")
            return asked.torch_works

        def uninstallTorch(self):
            asked.torch.append("uninstall")

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    return asked


def test_what_is_missing_is_asked_for_once(slicers) -> None:
    packages.ensure_packages(RESOURCES, "Module", "auto")
    assert slicers.pip == ["openvino>=2024.4"] and not slicers.torch
    slicers.installed.add("openvino")
    packages.ensure_packages(RESOURCES, "Module", "openvino")
    assert slicers.pip == ["openvino>=2024.4"]


def test_slicer_5_10_asks_by_itself(slicers, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)  # an ImportError
    packages.ensure_packages(RESOURCES, "Module", "openvino")
    assert slicers.pip == ["openvino>=2024.4"]
    slicers.consent = False
    with pytest.raises(packages.PackagesError, match="declined"):
        packages.ensure_packages(RESOURCES, "Module", "openvino")


def test_a_batch_asks_for_what_reports_need(slicers) -> None:
    slicers.installed.add("openvino")
    packages.ensure_packages(RESOURCES, "Module", "auto", batch=True)
    assert slicers.pip == ["matplotlib>=3.8", "rich>=13"]


SLICERS_OWN = ("numpy", "numpy.libs", "scipy", "scipy.libs", "SimpleITK", "simpleitk.libs", "pydicom", "packaging",
               "requests")  # fmt: skip
REQUIRED = ("openvino", "openvino_telemetry", "psutil")


def test_the_child_needs_nothing_that_slicers_python_lacks(tmp_path) -> None:
    """The main job in a Python that has what Slicer brings and what requirements.txt names, and nothing else."""
    pytest.importorskip("openvino")
    import SimpleITK as sitk

    from bpr.phantom import make_phantom

    site, slim = Path(sys.modules["SimpleITK"].__file__).parents[1], tmp_path / "slim"
    slim.mkdir()
    for name in (*SLICERS_OWN, *REQUIRED):
        for found in [site / name, *site.glob(f"{name}-*.dist-info")]:
            if found.exists():
                (slim / found.name).symlink_to(found)
    sitk.WriteImage(make_phantom(spacing_mm=(6.0, 6.0, 6.0)).image, str(tmp_path / "phantom.nrrd"))
    job = {"input": str(tmp_path / "phantom.nrrd"), "out": str(tmp_path / "out"), "produce": ["scores", "regions"],
           "step_mm": 6}  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    path = os.pathsep.join([str(RESOURCES.parent), str(slim)])
    done = subprocess.run([sys.executable, "-S", "-m", "bpr.job", str(tmp_path / "job.json")], capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": path})  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "out" / "regions.json").is_file(), done.stdout[-2000:] + done.stderr


def test_a_no_is_said_with_what_to_do(slicers) -> None:
    slicers.consent = False
    with pytest.raises(packages.PackagesError, match="openvino.*were not installed.*offline installation"):
        packages.ensure_packages(RESOURCES, "Module", "openvino")


def test_torch_comes_through_its_own_extension_and_never_through_pip(slicers) -> None:
    packages.ensure_packages(RESOURCES, "Module", "torch")
    assert slicers.torch == ["install"]
    assert slicers.pip == ["monai>=1.4", "safetensors>=0.4"]


def test_torch_without_its_extension_says_where_to_get_it(slicers, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(packages.PackagesError, match="PyTorch is missing; install the extension"):
        packages.ensure_packages(RESOURCES, "Module", "torch")


def test_a_half_finished_torch_is_repaired(slicers, monkeypatch) -> None:
    monkeypatch.setattr(packages, "torch_state", lambda: "broken")
    packages.ensure_packages(RESOURCES, "Module", "torch")
    assert slicers.torch == ["uninstall", "install"]


def test_auto_is_content_with_a_complete_torch(slicers) -> None:
    slicers.installed |= {"torch", "monai", "safetensors"}
    packages.ensure_packages(RESOURCES, "Module", "auto")
    assert not slicers.pip and not slicers.torch


def test_repair_installs_again_what_seems_to_be_there(slicers) -> None:
    slicers.installed.add("openvino")
    packages.ensure_packages(RESOURCES, "Module", "openvino", repair=True)
    assert slicers.pip == ["--force-reinstall openvino>=2024.4"]


def test_the_state_of_torch_is_seen_without_importing_it(tmp_path, monkeypatch) -> None:
    import importlib.util

    loaded = "torch" in sys.modules
    monkeypatch.setattr(packages, "_installed", lambda name: True)
    spec = importlib.util.spec_from_loader("torch", None)  # a folder without __init__: no origin
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: spec)
    assert packages.torch_state() == "broken"
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(packages, "_installed", lambda name: False)
    assert packages.torch_state() == "absent"
    assert ("torch" in sys.modules) == loaded
