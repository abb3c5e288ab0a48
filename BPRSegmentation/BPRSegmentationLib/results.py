"""A result folder into a scene: everything a run found, as nodes that follow their volume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .placement import PART, follow_volume, place_beside, remove_node, results_of
from .region_nodes import add_region
from .result_folder import ResultError, ResultFolder, read_result_folder
from .score_nodes import add_color_legend, add_color_node, add_landmark_table, add_overlay, add_plot, add_score_table
from .segmentation_nodes import add_segmentation, fill_segmentation, our_segment_ids
from .translation import _

SUMMARY = "BodyPartRegression.summary"  # attribute of one node of a result: result.json without paths


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
        return [node for part, node in self.parts() if part != "segmentation"]

    def parts(self) -> list[tuple[str, object]]:
        """All nodes, each with the name of its field."""
        single = ("overlay", "color", "score_table", "landmark_table", "plot_chart", "segmentation")
        found = [(part, getattr(self, part)) for part in single if getattr(self, part) is not None]
        several = [(part, node) for part in ("plot_series", "regions") for node in getattr(self, part)]
        return found + several


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
            place_beside(node, volume_node, folder_name=parts_folder(volume_node))
    if loaded.segmentation:
        follow_volume(loaded.segmentation, volume_node)
        place_beside(loaded.segmentation, volume_node)
    _remember(loaded)
    return loaded


def _remember(loaded: LoadedResult) -> None:
    """Mark the nodes, so that ``find_result`` knows them again in a saved scene."""
    for part, node in loaded.parts():
        node.SetAttribute(PART, part)
        node.RemoveAttribute(SUMMARY)
    keeper = loaded.score_table or loaded.segmentation
    if keeper is not None:
        told = {key: value for key, value in loaded.summary.items() if key not in ("volume", "files")}
        keeper.SetAttribute(SUMMARY, json.dumps(told))


def find_result(volume_node) -> LoadedResult | None:
    """The result that the scene holds for a volume, whoever loaded it and whatever was deleted since; None for none."""
    if volume_node is None or volume_node.GetScene() is None:
        return None
    loaded = LoadedResult(volume=volume_node, summary={})
    for node in results_of(volume_node):
        part = node.GetAttribute(PART)
        if part in ("plot_series", "regions"):
            getattr(loaded, part).append(node)
        elif part in loaded.__dict__:
            setattr(loaded, part, node)  # of several segmentations the last one made
        if node.GetAttribute(SUMMARY):
            loaded.summary = json.loads(node.GetAttribute(SUMMARY))
    if not loaded.parts():
        return None
    if loaded.segmentation:
        inside = loaded.segmentation.GetSegmentation().GetSegmentIDs()
        loaded.segment_ids = [identifier for identifier in inside if identifier in our_segment_ids()]
    return loaded


def parts_folder(volume_node) -> str:
    """Name of the subject hierarchy folder for everything but the segmentation."""
    return _("{volume} body parts").format(volume=volume_node.GetName())


def check_volume(found: ResultFolder, volume_node) -> None:
    """Raise ResultError when the result was made for an image of another size."""
    check_size(found.summary.get("volume", {}).get("size"), volume_node)


def check_size(size: list[int] | None, volume_node) -> None:
    """Raise ResultError when a volume has not this many voxels along its axes; None is not judged."""
    image = volume_node.GetImageData()
    if image is None:
        raise ResultError(_("The volume has no voxels any more."))
    if size and list(size) != list(image.GetDimensions()):
        text = _("The result was made for an image of {size} voxels, the volume has {other}.")
        other = image.GetDimensions()
        raise ResultError(text.format(size=" x ".join(map(str, size)), other=" x ".join(map(str, other))))


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
