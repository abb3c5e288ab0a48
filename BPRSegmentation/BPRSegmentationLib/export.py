"""A volume node as a job: the image file and JOB.json that the child process reads."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from vtkmodules.util.numpy_support import vtk_to_numpy

from .placement import PART, ijk_to_ras
from .translation import _

PRODUCTS = ("scores", "regions", "segmentation")
CHUNK = 8 * 2**20  # bytes; a few milliseconds of writing
NRRD_TYPES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32",
              "i8": "int64", "u8": "uint64", "f4": "float", "f8": "double"}  # fmt: skip


class RequestError(Exception):
    """The run cannot be started as asked. The message is one sentence for the person."""


@dataclass(frozen=True)
class Request:
    """What to do with a volume; names and values are those of the child-process protocol (``bpr.job.JobRequest``).

    ``regions`` and ``organs`` limit the work to these region names and structure IDs; None means all.
    """

    produce: tuple[str, ...] = PRODUCTS
    regions: tuple[str, ...] | None = None
    organs: tuple[str, ...] | None = None
    bundles: tuple[str, ...] = ()
    device: str = "auto"
    engine: str = "auto"
    step_mm: float = 2.5
    margin_mm: float = 0.0
    tile: int = 0


def what_is_missing(volume_node, request: Request) -> str | None:
    """One sentence that says why a run cannot start, or None when it can."""
    return _volume_problem(volume_node) or request_problem(request)


def _volume_problem(volume_node) -> str | None:
    if volume_node is None:
        return _("Choose an input volume.")
    image = volume_node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        return _("The input volume has no voxels.")
    if image.GetNumberOfScalarComponents() != 1:
        return _("The input volume is a color image; choose a CT.")
    if volume_node.GetAttribute(PART) == "overlay":
        return _("The input volume holds the scores of a CT; choose the CT itself.")
    transform = volume_node.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        return _("The input volume has a non-linear transform; harden it in the Transforms module first.")
    return None


def can_be_input(node) -> bool:
    """Whether a node is a volume that may be a CT: neither a label map nor something that a run has made."""
    if node is None or node.GetClassName() != "vtkMRMLScalarVolumeNode" or node.GetAttribute(PART):
        return False
    image = node.GetImageData()
    return image is not None and image.GetNumberOfPoints() > 1 and image.GetNumberOfScalarComponents() == 1


def likely_input(scene):
    """The volume that a person most likely means: the one shown in the slice views, else the first; or None."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    volumes = [scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode") for index in range(count)]
    volumes = [node for node in volumes if can_be_input(node)]
    view = scene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    shown = [node for node in volumes if view is not None and node.GetID() == view.GetBackgroundVolumeID()]
    return (shown or volumes or [None])[0]


def request_problem(request: Request) -> str | None:
    """One sentence that says what is left unchosen, or None."""
    if not request.produce:
        return _("Choose at least one thing to produce.")
    if request.regions is not None and not request.regions:
        return _("Choose at least one region.")
    if "segmentation" in request.produce and request.organs is not None and not request.organs:
        return _("Choose at least one organ.")
    return None


class VolumeFile:
    """A volume node's voxels on their way into an uncompressed NRRD file, a piece at a time: the window stays live.

    The image is the node's own grid (IJK to RAS) without its parent transform. The voxels stay alive when the node is
    deleted meanwhile.
    """

    def __init__(self, volume_node, path: Path, checksum: bool = False):
        """Open the file and write the header; ``checksum`` asks for ``sum``. Raises OSError."""
        self._image = volume_node.GetImageData()  # keeps the voxels alive
        array = np.ascontiguousarray(vtk_to_numpy(self._image.GetPointData().GetScalars()))
        self._bytes = memoryview(array).cast("B")
        header = _nrrd_header(array.dtype, self._image.GetDimensions(), ijk_to_ras(volume_node))
        self._written, self._sum = 0, hashlib.blake2b(header, digest_size=8) if checksum else None
        self.path = path
        self._file = open(path, "wb")  # noqa: SIM115 - closed when the last piece is written
        self._file.write(header)

    @property
    def fraction(self) -> float:
        """Share that is written, 0..1."""
        return self._written / max(1, len(self._bytes))

    @property
    def sum(self) -> str:
        """Checksum of header and voxels, if it was asked for; the same volume has the same one."""
        return self._sum.hexdigest() if self._sum else ""

    def write_some(self, seconds: float) -> bool:
        """Write for about so long; returns whether the file is complete. Raises OSError."""
        end = time.monotonic() + seconds
        while self._written < len(self._bytes):
            piece = self._bytes[self._written : self._written + CHUNK]
            self._file.write(piece)
            if self._sum:
                self._sum.update(piece)
            self._written += len(piece)
            if time.monotonic() > end:
                break
        if self._written == len(self._bytes):
            self._file.close()
            return True
        return False

    def close(self) -> None:
        """Give the file up."""
        self._file.close()


def _nrrd_header(dtype: np.dtype, size: tuple[int, int, int], to_ras: np.ndarray) -> bytes:
    """NRRD header in LPS, as medical readers expect it."""
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_ras
    vectors = [f"({','.join(repr(float(v)) for v in to_lps[:3, column])})" for column in range(4)]
    lines = [
        "NRRD0004",
        f"type: {NRRD_TYPES[dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, size))}",
        f"space directions: {' '.join(vectors[:3])}",
        "kinds: domain domain domain",
        f"endian: {sys.byteorder}",
        "encoding: raw",
        f"space origin: {vectors[3]}",
    ]
    return ("\n".join(lines) + "\n\n").encode("ascii")


def begin_job(volume_node, request: Request, folder: Path) -> VolumeFile:
    """Write JOB.json into ``folder`` and open the volume's file there; the result will be in ``folder / "result"``.

    File names are fixed, since node names often hold patients' names.

    Raises:
        RequestError: when the request cannot be carried out (see what_is_missing), or the folder cannot be written.
    """
    missing = what_is_missing(volume_node, request)
    if missing:
        raise RequestError(missing)
    image = folder / "volume.nrrd"
    job = {"input": str(image), "out": str(folder / "result")} | asdict(request)
    try:
        job_path(folder).write_text(json.dumps(job, indent=1), encoding="utf-8")
        return VolumeFile(volume_node, image)
    except OSError as error:
        raise RequestError(cannot_write(folder, error)) from error


def write_job(volume_node, request: Request, folder: Path) -> Path:
    """``begin_job``, and all voxels at once; returns the path of JOB.json. Raises RequestError."""
    file = begin_job(volume_node, request, folder)
    try:
        file.write_some(float("inf"))
    except OSError as error:
        raise RequestError(cannot_write(folder, error)) from error
    return job_path(folder)


def job_path(folder: Path) -> Path:
    """Where the job file of a job's folder lies."""
    return folder / "job.json"


def cannot_write(folder: Path, error: OSError) -> str:
    """One sentence for a disk that is full or closed to us."""
    reason = error.strerror or os.strerror(error.errno or 0)
    return _("The volume cannot be written to {folder} ({reason}); is the disk full?").format(
        folder=folder, reason=reason
    )
