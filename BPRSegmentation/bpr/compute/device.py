"""Which processor and which engine a run uses, found without importing torch where that is not needed."""

from __future__ import annotations

import importlib.util
import platform
import shutil

from bpr.errors import InputError

ENGINES = ("auto", "torch", "openvino")


def installed(package: str) -> bool:
    """Whether a package can be imported (it is not imported here: torch takes seconds)."""
    return importlib.util.find_spec(package) is not None


def has_torch() -> bool:
    """torch, monai and safetensors together make the torch engine."""
    return all(installed(package) for package in ("torch", "monai", "safetensors"))


def choose(engine: str = "auto", device: str = "auto") -> tuple[str, str]:
    """Engine and device that will really be used: OpenVINO on the CPU when present, torch on a GPU.

    Raises:
        InputError: unknown names, an engine that is not installed, a device that is not there.
    """
    if engine not in ENGINES:
        raise InputError(f"There is no engine {engine!r}.", f"Choose one of: {', '.join(ENGINES)}.")
    wants_gpu = device.startswith("cuda") or device == "mps"
    if not (device in ("auto", "cpu", "mps", "cuda") or device.removeprefix("cuda:").isdigit()):
        raise InputError(f"There is no device {device!r}.", "Choose auto, cpu, cuda, cuda:N or mps.")
    if engine == "openvino" and wants_gpu:
        raise InputError(f"OpenVINO does not run on {device} here.", "Choose the torch engine, or the device cpu.")
    if engine in ("torch", "auto") and has_torch() and (wants_gpu or (device == "auto" and _gpu_likely())):
        found = _torch_device(device)
        if found != "cpu" or wants_gpu:
            return "torch", found
    if wants_gpu:
        raise InputError(f"The device {device} needs torch, which is not installed.", "Install torch and monai.")
    if engine == "torch" or not installed("openvino"):
        if not has_torch():
            missing = "torch, monai and safetensors" if engine == "torch" else "openvino (or torch, monai, safetensors)"
            raise InputError(
                f"The engine cannot run: {missing} must be installed.", f"pip install {missing.split()[0]}"
            )
        return "torch", "cpu"
    return "openvino", "cpu"


def _gpu_likely() -> bool:
    """Cheap hints for a GPU, to spare most machines the import of torch."""
    return shutil.which("nvidia-smi") is not None or (platform.system() == "Darwin" and platform.machine() == "arm64")


def _torch_device(device: str) -> str:
    """The torch device name after a look at what is there. Raises InputError for a GPU that is not."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "mps":
        there = torch.backends.mps.is_available()
    else:
        index = int(device.partition(":")[2] or 0)
        there, device = torch.cuda.is_available() and index < torch.cuda.device_count(), f"cuda:{index}"
    if not there:
        raise InputError(f"The device {device} was asked for, but torch does not see it.", "Use --device auto or cpu.")
    return device


def device_name(device: str) -> str:
    """A name that a person recognizes, such as the GPU's model."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(int(device.partition(":")[2] or 0))
    return "Apple GPU" if device == "mps" else f"CPU ({platform.machine()})"
