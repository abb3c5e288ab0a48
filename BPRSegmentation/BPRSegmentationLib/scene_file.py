"""A scene file from a result folder, made with Slicer's own MRML (the ``slicer-core`` wheel), without Slicer.

    python -m BPRSegmentationLib.scene_file RESULT_FOLDER CT OUT.mrb
    python -m BPRSegmentationLib.scene_file -

CT is one image file (NRRD, NIfTI or MetaImage) on the grid the result was made for; it is embedded. With "-" the paths
come as lines of JSON from standard input, CT first, so that it is loaded before the results are there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import slicer
from vtkmodules.vtkCommonCore import vtkOutputWindow

from .result_folder import ResultError
from .results import LoadedResult, load_result
from .views import add_views, show_overlay, show_volume

SOFT_TISSUE = (400.0, 40.0)  # window and level, HU
FAST_COMPRESSION = "gzip_fastest"
LOGICS = {  # name of the module -> its logic
    "Volumes": "vtkSlicerVolumesLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
}


@dataclass(frozen=True)
class Stage:
    """A scene and the logics that teach it node classes; both must live as long as the scene is used."""

    scene: object
    application_logic: object
    logics: list


def new_stage() -> Stage:
    """An empty scene that knows volumes, tables, markups, segmentations, the subject hierarchy and Slicer's colors."""
    scene = slicer.vtkMRMLScene()
    application_logic = slicer.vtkSlicerApplicationLogic()
    application_logic.SetMRMLScene(scene)
    application_logic.GetColorLogic().SetMRMLScene(scene)
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    logics = []
    for name, logic_class in LOGICS.items():
        logic = getattr(slicer, logic_class)()
        logic.SetMRMLApplicationLogic(application_logic)
        logic.SetMRMLScene(scene)
        application_logic.SetModuleLogic(name, logic)
        logics.append(logic)
    return Stage(scene, application_logic, logics)


def load_volume(scene, path: Path, name: str):
    """Read an image file as a volume node with a soft-tissue window. Raises ResultError when it cannot be read."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise ResultError(f"{path.name} cannot be read as an image.")
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(*SOFT_TISSUE)
    return node


def build_scene(stage: Stage, folder: Path, ct: Path) -> LoadedResult:
    """Volume, result and views in the scene. Raises ResultError when a file is missing or damaged."""
    return show_result(stage, folder, load_volume(stage.scene, ct, name="CT"))


def show_result(stage: Stage, folder: Path, volume) -> LoadedResult:
    """Result and views of a volume node. Raises ResultError when a file is missing or damaged."""
    scene = stage.scene
    loaded = load_result(scene, folder, volume)
    add_views(scene, volume, loaded.plot_chart)
    show_volume(scene, volume)
    show_overlay(scene, loaded.overlay)
    return loaded


def write_scene_file(stage: Stage, loaded: LoadedResult, out: Path) -> None:
    """Write ``out`` (.mrb). Raises ResultError when it cannot be written."""
    for node in (loaded.volume, loaded.segmentation):
        if node is not None:
            node.AddDefaultStorageNode()
            node.GetStorageNode().SetCompressionParameter(FAST_COMPRESSION)
    if not stage.scene.WriteToMRB(str(Path(out).resolve())):
        raise ResultError(f"The scene {Path(out).name} cannot be written.")


def write_when_told(lines: Iterator[str]) -> None:
    """Write a scene file as soon as the paths come: the volume's, the result folder's, the scene file's.

    Raises:
        ResultError: as in ``build_scene`` and ``write_scene_file``; StopIteration: the lines end before.
    """
    paths = (Path(json.loads(line)) for line in lines)
    stage = new_stage()
    volume = load_volume(stage.scene, next(paths), name="CT")
    folder = next(paths)
    write_scene_file(stage, show_result(stage, folder, volume), next(paths))


def main(arguments: list[str]) -> int:
    """Command line; returns the exit code (0 done, 2 wrong request)."""
    if len(arguments) != 3 and arguments != ["-"]:
        print(__doc__, file=sys.stderr)
        return 2
    vtkOutputWindow.GetInstance().SetDisplayModeToNever()  # VTK reports each file it packs; failures are checked here
    try:
        if arguments == ["-"]:
            write_when_told(sys.stdin)
        else:
            folder, ct, out = map(Path, arguments)
            stage = new_stage()
            write_scene_file(stage, build_scene(stage, folder, ct), out)
    except StopIteration:
        return 2  # who asked for the scene has gone
    except ResultError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
