"""Muscle and fat at a vertebral level: what to ask the child for, and its result as nodes of the scene."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from .placement import place_beside, remove_node
from .result_folder import ResultError
from .results import check_size
from .score_nodes import add_table
from .segmentation_nodes import add_segmentation, fill_segmentation
from .translation import _

VOLUME_ROLE = "BodyPartRegression.compositionOf"  # node reference to the volume; apart from the main run's results
SUMMARY = "BodyPartRegression.composition"  # attribute of the table: what was measured, as in result.json
FILE = "body_composition.seg.nrrd"
TISSUE_COLUMN, AREA_COLUMN, DENSITY_COLUMN = "tissue", "area (cm2)", "mean HU"


class SpineLevel(Enum):
    """The middle of a vertebra; the values are words of ``bpr body-composition``."""

    T12 = "T12"
    L1 = "L1"
    L2 = "L2"
    L3 = "L3"
    L4 = "L4"
    L5 = "L5"

    def label(self) -> str:
        """Text in the combo box."""
        return self.value


class SpanEnd(Enum):
    """Where a span ends below; NONE measures at the level alone."""

    NONE = ""
    L1 = "L1"
    L2 = "L2"
    L3 = "L3"
    L4 = "L4"
    L5 = "L5"

    def label(self) -> str:
        """Text in the combo box."""
        return self.value or _("only at this level")


@dataclass(frozen=True)
class LevelRequest:
    """What to measure: a level, or from it down to another one; ``height_cm`` of the person for the muscle index."""

    level: str = "L3"
    down_to: str = ""
    height_cm: float | None = None
    bundles: tuple[str, ...] = ()
    device: str = "auto"
    engine: str = "auto"


def level_request(node) -> LevelRequest:
    """What the choices of a parameter node ask for."""
    from .choices import request_of

    common = request_of(node)
    return LevelRequest(
        node.compositionLevel.value,
        node.compositionTo.value,
        node.bodyHeight or None,
        common.bundles,
        common.device,
        common.engine,
    )


def composition_arguments(request: LevelRequest, folder: Path) -> Sequence[str]:
    """The command line of ``bpr`` for a job's folder, see export.begin_job."""
    arguments = ["body-composition", str(folder / "volume.nrrd"), "--out", str(folder / "result"), "--json"]
    if request.down_to:
        arguments += ["--from", request.level, "--to", request.down_to]
    else:
        arguments += ["--level", request.level]
    if request.height_cm is not None:
        arguments += ["--height", f"{request.height_cm:g}"]
    for name in request.bundles:
        arguments += ["--bundle", name]
    return [*arguments, "--device", request.device, "--engine", request.engine]


@dataclass
class LoadedComposition:
    """A measurement in the scene; nodes are None when the level could not be measured."""

    volume: object
    summary: dict
    segmentation: object = None
    table: object = None


def load_composition(scene, folder: str | Path, volume_node, segmentation_node=None) -> LoadedComposition:
    """Bring the result of ``bpr body-composition`` into the scene, in place of an earlier one on this volume.

    Args:
        segmentation_node: unused; a Run hands it over.

    Raises:
        ResultError: the folder is damaged or belongs to another volume; the scene is then as it was.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        summary, size = content["body_composition"], content["volume"].get("size")
        tissues = {name: (values["area_cm2"], values["mean_hu"]) for name, values in summary["tissues"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = _("The result folder {folder} is damaged ({error}). Run again.")
        raise ResultError(text.format(folder=folder.name, error=error)) from error
    check_size(size, volume_node)
    loaded = LoadedComposition(volume_node, summary)
    earlier = composition_nodes(volume_node)
    if tissues:
        title = _("{volume} muscle and fat").format(volume=volume_node.GetName())
        segmentation = add_segmentation(scene, volume_node)
        try:
            fill_segmentation(segmentation, folder / FILE, volume_node)
        except ResultError:
            remove_node(segmentation)
            raise
        segmentation.SetName(title)
        loaded.segmentation = segmentation
        loaded.table = _add_table(scene, title, summary, tissues)
    for node in earlier:
        remove_node(node)
    for node in (loaded.segmentation, loaded.table):
        if node is not None:
            node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
            place_beside(node, volume_node)
    if loaded.segmentation is not None:
        loaded.segmentation.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    return loaded


def _add_table(scene, title: str, summary: dict, tissues: dict):
    """Tissues with areas and densities, and the muscle index where a height was given; one row each."""
    names = [plain_tissue(name) for name in tissues]
    areas = [area for area, _hu in tissues.values()]
    densities = [math.nan if hu is None else hu for _area, hu in tissues.values()]
    if summary.get("muscle_index_cm2_m2"):
        names.append("skeletal muscle index (cm2/m2)")
        areas.append(summary["muscle_index_cm2_m2"])
        densities.append(math.nan)
    columns = {TISSUE_COLUMN: names, AREA_COLUMN: np.array(areas, float), DENSITY_COLUMN: np.array(densities, float)}
    node = add_table(scene, title, columns)
    node.SetAttribute(SUMMARY, json.dumps(summary))
    return node


def composition_nodes(volume_node) -> list:
    """The nodes of a measurement that the scene holds for a volume."""
    scene = volume_node.GetScene()
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    return [node for node in nodes if node.HasNodeReferenceID(VOLUME_ROLE, volume_node.GetID())]


def find_composition(volume_node) -> LoadedComposition | None:
    """The measurement that the scene holds for a volume, also in a scene that was saved and opened; None for none."""
    if volume_node is None or volume_node.GetScene() is None:
        return None
    loaded = LoadedComposition(volume_node, {})
    for node in composition_nodes(volume_node):
        if node.IsA("vtkMRMLTableNode"):
            loaded.table, loaded.summary = node, json.loads(node.GetAttribute(SUMMARY) or "{}")
        elif node.IsA("vtkMRMLSegmentationNode"):
            loaded.segmentation = node
    return loaded if loaded.table is not None else None


def plain_tissue(identifier: str) -> str:
    """A tissue as people write it: ``skeletal_muscle`` is "skeletal muscle"."""
    return identifier.replace("_", " ")


def composition_text(summary: dict) -> str:
    """A few lines: where the level lies, whether it was measured, the muscle index, what makes it doubtful."""
    text = _("{level} lies at {height} mm (± {doubt}).")
    lines = [text.format(level=summary["level"], height=round(summary["z_mm"]), doubt=round(summary["sd_mm"]))]
    slices = summary.get("slices") or []
    if slices:
        lines.append(_("{count} slices were measured.").format(count=len(slices)))
    if summary.get("muscle_range_cm2"):
        low, high = (round(area) for area in summary["muscle_range_cm2"])
        lines.append(_("Muscle within the level's uncertainty: {low} to {high} cm².").format(low=low, high=high))
    if summary.get("muscle_index_cm2_m2"):
        text = _("Skeletal muscle index: {index} cm²/m².")
        lines.append(text.format(index=round(summary["muscle_index_cm2_m2"], 1)))
    return "\n".join([*lines, *(notice["message"] for notice in summary.get("notices", []))])
