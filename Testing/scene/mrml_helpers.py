"""Reading scene bundles back with plain MRML, and arrays of nodes, for the scene tests and the screenshots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from vtkmodules.util.numpy_support import vtk_to_numpy

from BPRSegmentationLib.scene_file import Stage, new_stage


@dataclass(frozen=True)
class OpenedScene:
    """A scene that was read from a bundle, and what must live as long as it is used."""

    stage: Stage
    io_logics: tuple

    @property
    def scene(self):
        """The vtkMRMLScene."""
        return self.stage.scene

    def first(self, class_name: str):
        """First node of a class."""
        return self.scene.GetFirstNodeByClass(class_name)


def open_scene_file(path: Path, cache: Path) -> OpenedScene:
    """Open a .mrb in a scene of its own; ``cache`` is an empty folder for its files."""
    return read_scene_file(new_stage(), path, cache)


def read_scene_file(stage: Stage, path: Path, cache: Path) -> OpenedScene:
    """Read a .mrb into a scene, in place of what is there. The application does the same when it opens a scene."""
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(stage.scene)
    remote.GetCacheManager().SetRemoteCacheDirectory(str(cache))
    manager = slicer.vtkDataIOManagerLogic()
    manager.SetMRMLScene(stage.scene)
    manager.SetMRMLApplicationLogic(stage.application_logic)
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    if not stage.scene.ReadFromMRB(str(path)):
        raise OSError(f"{path} cannot be read as a scene bundle.")
    return OpenedScene(stage, (remote, manager))


def volume_array(node) -> np.ndarray:
    """Voxels of a scalar volume node, numpy order k, j, i."""
    image = node.GetImageData()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def nodes(scene, class_name: str) -> list:
    """All nodes of a class, subclasses included."""
    return [scene.GetNthNodeByClass(index, class_name) for index in range(scene.GetNumberOfNodesByClass(class_name))]
