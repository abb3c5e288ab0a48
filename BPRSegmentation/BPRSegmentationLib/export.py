"""A volume node as a job: the image file and JOB.json that the child process reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import slicer

PRODUCTS = ("scores", "regions", "segmentation")


class RequestError(Exception):
    """The run cannot be started as asked. The message is one sentence for the person."""


@dataclass(frozen=True)
class Request:
    """What to do with a volume; the words are those of the child-process protocol (``bpr.job``).

    ``regions`` and ``organs`` limit the work to these region names and structure IDs; None means all.
    """

    produce: tuple[str, ...] = PRODUCTS
    regions: tuple[str, ...] | None = None
    organs: tuple[str, ...] | None = None
    device: str = "auto"
    engine: str = "auto"
    step_mm: float = 2.5


def what_is_missing(volume_node, produce: tuple[str, ...]) -> str | None:
    """One sentence that says why a run cannot start, or None when it can."""
    if volume_node is None:
        return "Choose an input volume."
    if volume_node.GetImageData() is None or volume_node.GetImageData().GetNumberOfPoints() == 0:
        return "The input volume has no voxels."
    if volume_node.GetImageData().GetNumberOfScalarComponents() != 1:
        return "The input volume is a color image; choose a CT."
    transform = volume_node.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        return "The input volume has a non-linear transform; harden it in the Transforms module first."
    if not produce:
        return "Choose at least one thing to produce."
    return None


def write_job(volume_node, request: Request, folder: Path) -> Path:
    """Write the volume and JOB.json into ``folder``; the result will be in ``folder / "result"``.

    The image is the node's own grid (IJK to RAS) without its parent transform: the results get the same transform in
    the scene. File names are fixed, since node names often hold patients' names.

    Returns:
        The path of JOB.json.

    Raises:
        RequestError: when the request cannot be carried out (see what_is_missing), or the folder cannot be written.
    """
    missing = what_is_missing(volume_node, request.produce)
    if missing:
        raise RequestError(missing)
    image = folder / "volume.nrrd"
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(image))
    storage.SetUseCompression(False)
    if not storage.WriteData(volume_node):
        raise RequestError(f"The volume cannot be written to {folder}; is the disk full?")
    job = {
        "input": str(image),
        "out": str(folder / "result"),
        "produce": list(request.produce),
        "regions": None if request.regions is None else list(request.regions),
        "organs": None if request.organs is None else list(request.organs),
        "bundles": None,
        "device": request.device,
        "engine": request.engine,
        "step_mm": request.step_mm,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job, indent=1), encoding="utf-8")
    return path
