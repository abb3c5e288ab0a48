"""Draws the pictures of Resources/Screenshots from a result folder, with Slicer's own slice view and no window.

python Testing/screenshots.py RESULT_FOLDER CT OUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import slicer
from vtkmodules.vtkCommonCore import vtkCollection
from vtkmodules.vtkIOImage import vtkPNGWriter
from vtkmodules.vtkRenderingCore import (
    vtkActor2D,
    vtkImageMapper,
    vtkRenderer,
    vtkRenderWindow,
    vtkRenderWindowInteractor,
    vtkWindowToImageFilter,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "BPRSegmentation"), str(ROOT / "Testing" / "scene")]

from mrml_helpers import nodes  # noqa: E402

from BPRSegmentationLib.result_folder import ResultError  # noqa: E402
from BPRSegmentationLib.scene_file import Stage, build_scene, new_stage  # noqa: E402
from BPRSegmentationLib.score_nodes import add_color_legend  # noqa: E402

SIZE = (900, 680)
MANAGERS = (
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)


class SliceView:
    """One of the scene's slice views, drawn into memory by the logic and displayable managers that Slicer uses."""

    def __init__(self, stage: Stage, name: str, size: tuple[int, int] = SIZE):
        """``name`` is "Red" (axial), "Yellow" (sagittal) or "Green" (coronal); the scene must have that view."""
        self._renderer, self._window = vtkRenderer(), vtkRenderWindow()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window.SetOffScreenRendering(True)
        self._window.SetShowWindow(False)
        self._window.SetMultiSamples(8)
        self._window.SetSize(*size)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.Initialize()
        self.node = stage.scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(stage.application_logic)
        self.logic.SetMRMLScene(stage.scene)
        self.logic.SetSliceNode(self.node)
        self.logic.ResizeSliceNode(*size)
        self._logics = vtkCollection()  # the color legend looks here for what the view shows
        self._logics.AddItem(self.logic)
        stage.application_logic.SetSliceLogics(self._logics)
        self._mapper = vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtkActor2D()
        actor.SetMapper(self._mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(actor)
        self._group = self._displayable_managers(stage)

    def _displayable_managers(self, stage: Stage):
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(stage.application_logic)
        for manager in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        group = slicer.vtkMRMLDisplayableManagerGroup()
        group.SetRenderer(self._renderer)
        group.Initialize(factory, self._renderer)
        group.SetMRMLDisplayableNode(self.node)
        return group

    def save(self, path: Path) -> None:
        """Draw the view and write it as PNG."""
        self.logic.FitSliceToBackground()
        self.logic.UpdatePipeline()
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())
        self._window.Render()
        picture = vtkWindowToImageFilter()
        picture.SetInput(self._window)
        picture.ReadFrontBufferOff()
        writer = vtkPNGWriter()
        writer.SetInputConnection(picture.GetOutputPort())
        writer.SetFileName(str(path))
        writer.Write()


def draw_pictures(folder: Path, ct: Path, out: Path) -> list[Path]:
    """Draw all pictures; returns their paths. Raises ResultError when the result or the CT cannot be read."""
    stage = new_stage()
    loaded = build_scene(stage, folder, ct)
    if loaded.overlay is None:
        raise ResultError("The result folder holds no scores; run with scores.")
    if loaded.segmentation:
        loaded.segmentation.SetDisplayVisibility(False)
    for region in loaded.regions:
        region.SetDisplayVisibility(False)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "coronal_scores.png"
    view = SliceView(stage, "Green")
    # A color legend is drawn by views that were there before it, as in Slicer when it opens a scene.
    for node in nodes(stage.scene, "vtkMRMLColorLegendDisplayNode"):
        stage.scene.RemoveNode(node)
    add_color_legend(stage.scene, loaded.overlay)
    view.save(path)
    return [path]


def main(arguments: list[str]) -> int:
    """Command line; returns the exit code (0 done, 2 wrong request)."""
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        for path in draw_pictures(*map(Path, arguments)):
            print(path)
    except ResultError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
