"""A result folder into a scene: everything a run found, as nodes that follow their volume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .placement import follow_volume, place_beside, remove_node, results_of
from .region_nodes import add_region
from .result_folder import ResultError, ResultFolder, read_result_folder
from .score_nodes import add_color_legend, add_color_node, add_landmark_table, add_overlay, add_plot, add_score_table
from .segmentation_nodes import add_segmentation, fill_segmentation


@dataclass
class LoadedResult:
    """The nodes of one result; None or empty for what the run did not make."""

    volume: object
    summary: dict
    overlay: object = None
    color: object = None
    score_table: object = None
    landmark_table: object = None
    plot_series: list = field(default_factory=list)
    plot_chart: object = None
    regions: list = field(default_factory=list)
    segmentation: object = None
    segment_ids: list[str] = field(default_factory=list)

    def helper_nodes(self) -> list:
        """Everything but the segmentation, which belongs beside the volume and survives the next run."""
        single = [self.overlay, self.color, self.score_table, self.landmark_table, self.plot_chart]
        return [node for node in single if node is not None] + self.plot_series + self.regions


def load_result(scene, folder: str | Path, volume_node, segmentation_node=None) -> LoadedResult:
    """Show the result of a run on ``volume_node``.

    All nodes get the volume's parent transform and its place in the subject hierarchy. The nodes of an earlier run on
    the same volume are replaced; its segmentation is kept unless it is given as ``segmentation_node``.

    Args:
        scene: the vtkMRMLScene that holds ``volume_node``.
        folder: result folder of ``bpr run``.
        segmentation_node: node to update; a new one is made when it is None and the run made a segmentation.

    Raises:
        ResultError: when the folder is damaged or belongs to another volume; the scene is then as it was.
    """
    found = read_result_folder(folder)
    check_volume(found, volume_node)
    earlier = [node for node in results_of(volume_node) if not node.IsA("vtkMRMLSegmentationNode")]
    loaded = LoadedResult(volume=volume_node, summary=found.summary)
    with _new_nodes_removed_on_error(scene):
        if found.scores:
            _load_scores(scene, found, loaded)
        loaded.regions = [add_region(scene, region) for region in found.regions]
        if found.segmentation:
            loaded.segmentation = segmentation_node or add_segmentation(scene, volume_node)
            loaded.segment_ids = fill_segmentation(loaded.segmentation, found.segmentation, volume_node)
    for node in earlier:
        remove_node(node)
    for node in loaded.helper_nodes():
        follow_volume(node, volume_node)
        if not (node.IsA("vtkMRMLColorNode") or node.IsA("vtkMRMLPlotSeriesNode")):  # Slicer's tree shows neither
            place_beside(node, volume_node, folder_name=f"{volume_node.GetName()} body parts")
    if loaded.segmentation:
        follow_volume(loaded.segmentation, volume_node)
        place_beside(loaded.segmentation, volume_node)
    return loaded


def check_volume(found: ResultFolder, volume_node) -> None:
    """Raise ResultError when the result was made for an image of another size."""
    size = found.summary.get("volume", {}).get("size")
    image = volume_node.GetImageData()
    if image is None:
        raise ResultError(f"The volume {volume_node.GetName()} has no voxels.")
    if size and list(size) != list(image.GetDimensions()):
        raise ResultError(
            f"The result was made for an image of {' x '.join(map(str, size))} voxels, "
            f"the volume has {' x '.join(map(str, image.GetDimensions()))}."
        )


def _load_scores(scene, found: ResultFolder, loaded: LoadedResult) -> None:
    name = loaded.volume.GetName()
    loaded.color = add_color_node(scene)
    loaded.overlay = add_overlay(scene, loaded.volume, found.scores, loaded.color)
    add_color_legend(scene, loaded.overlay)
    loaded.score_table = add_score_table(scene, name, found.scores)
    if found.scores.landmarks:
        loaded.landmark_table = add_landmark_table(scene, name, found.scores.landmarks)
    loaded.plot_series, loaded.plot_chart = add_plot(scene, name, loaded.score_table, loaded.landmark_table)


@contextmanager
def _new_nodes_removed_on_error(scene) -> Iterator[None]:
    before = {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
    try:
        yield
    except Exception:
        nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
        for node in nodes:
            if node.GetID() not in before:
                scene.RemoveNode(node)
        raise
