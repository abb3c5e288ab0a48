"""Draws the pictures of Resources/Screenshots from a result folder: Slicer's own views, and the panel in each state.

python Testing/screenshots.py RESULT_FOLDER CT OUT_FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "BPRSegmentation"), str(ROOT / "Testing"), str(ROOT / "Testing" / "scene")]

from mrml_helpers import nodes  # noqa: E402

from BPRSegmentationLib.result_folder import ResultError  # noqa: E402
from BPRSegmentationLib.scene_file import build_scene, new_stage  # noqa: E402
from BPRSegmentationLib.score_nodes import add_color_legend  # noqa: E402
from BPRSegmentationLib.score_place import add_line, move_line, scored_volume, view_height  # noqa: E402
from BPRSegmentationLib.views import jump_to, show_in_3d, show_overlay  # noqa: E402
from rendering import PlotView, SliceView, SpaceView  # noqa: E402

HALF = (700, 520)


def draw_views(folder: Path, ct: Path, out: Path) -> list[Path]:
    """Slices colored by score, slices with segments, plot and 3D; returns the pictures' paths."""
    stage = new_stage()
    loaded = build_scene(stage, folder, ct)
    scored = scored_volume(loaded)
    if scored is None:
        raise ResultError("The result folder holds no scores; run with scores.")
    jump_to(stage.scene, scored.center_of(scored.z_mm[len(scored.z_mm) // 2]))
    drawn = [out / "coronal_scores.png"]
    _show(loaded, segments=False, boxes=False)
    green = SliceView(stage, "Green")
    # A color legend is drawn by views that were there before it, as in Slicer when it opens a scene.
    for node in nodes(stage.scene, "vtkMRMLColorLegendDisplayNode"):
        stage.scene.RemoveNode(node)
    add_color_legend(stage.scene, loaded.overlay)
    green.save(drawn[0])
    line = add_line(loaded)
    height = view_height(scored, stage.scene.GetSingletonNode("Red", "vtkMRMLSliceNode"))
    move_line(line, height if height is not None else float(scored.z_mm[len(scored.z_mm) // 2]))
    drawn.append(out / "score_plot.png")
    PlotView(loaded.plot_chart, HALF).save(drawn[-1])
    if loaded.segmentation and loaded.segment_ids:
        show_overlay(stage.scene, None)
        _show(loaded, segments=True, boxes=False)
        for name, view in (("axial", "Red"), ("coronal", "Green")):
            drawn.append(out / f"{name}_segments.png")
            SliceView(stage, view, HALF).save(drawn[-1])
        show_in_3d(loaded.segmentation, True)
        drawn.append(out / "segmentation_3d.png")
        SpaceView(stage, HALF).save(drawn[-1])
    return drawn


def _show(loaded, segments: bool, boxes: bool) -> None:
    if loaded.segmentation:
        loaded.segmentation.SetDisplayVisibility(segments)
    for region in loaded.regions:
        region.SetDisplayVisibility(boxes)


def draw_pictures(folder: Path, ct: Path, out: Path) -> list[Path]:
    """All pictures; returns their paths. Raises ResultError when the result or the CT cannot be read."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = draw_views(folder, ct, out)
    try:
        from panel_pictures import compose_window, draw_panels
    except ImportError as error:
        print(f"The panel was not drawn: {error}", file=sys.stderr)
        return drawn
    drawn += draw_panels(folder, ct, out)
    return [*drawn, *compose_window(out)]


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
