"""From nodes of the scene to commands of ``bpr``; the files that they name lie in a folder that is removed later."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import slicer

from .case_files import domain_of_node, write_case, write_segmentation


def add_command(
    volume_node, segmentation_node, project: Path, patient: str = "", domain: str = ""
) -> tuple[list[str], Path]:
    """Write the nodes; returns the arguments of ``bpr seed add`` and the folder with the files. Raises CaseError."""
    with _new_folder() as folder:
        volume, segmentation = write_case(volume_node, segmentation_node, folder)
        domain = domain or domain_of_node(volume_node)
    arguments = ["seed", "add", str(project), "--volume", str(volume), f"--domain={domain}", f"--patient={patient}"]
    return [*arguments, *(["--segmentation", str(segmentation)] if segmentation else []), "--json"], folder


def correct_command(case: str, segmentation_node, project: Path) -> tuple[list[str], Path]:
    """Write an edited segmentation; returns the arguments of ``bpr seed correct`` and the folder. Raises CaseError."""
    role = segmentation_node.GetReferenceImageGeometryReferenceRole()
    with _new_folder() as folder:
        path = write_segmentation(segmentation_node, segmentation_node.GetNodeReference(role), folder)
    return ["seed", "correct", str(project), case, "--segmentation", str(path), "--json"], folder


@contextmanager
def _new_folder() -> Iterator[Path]:
    """A temporary folder; it disappears at once when writing into it fails."""
    folder = Path(tempfile.mkdtemp(prefix="body-part-training-", dir=slicer.app.temporaryPath))
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
