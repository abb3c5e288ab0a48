"""What was found, as rows for the person who checks it: doubtful organs first, then the others, then the regions."""

from __future__ import annotations

from dataclasses import dataclass

import slicer

from .results import LoadedResult
from .translation import _
from .words import DOUBTFUL, plain

ORGAN, REGION = "organ", "region"


@dataclass(frozen=True)
class Row:
    """One line of the table. ``identifier`` is the segment's ID or the region's name; ``checked`` is None for regions.

    ``color`` is RGB 0..1; ``doubt`` is the mean probability that the network gave to something else, or None.
    """

    kind: str
    identifier: str
    name: str
    amount: str
    doubt: float | None
    remark: str
    color: tuple[float, float, float]
    checked: bool | None = None

    @property
    def doubtful(self) -> bool:
        """Whether a person should look at it before the others."""
        return self.doubt is not None and self.doubt > DOUBTFUL


def rows_of(result: LoadedResult) -> list[Row]:
    """The rows for what is in the scene now; an organ or region that was deleted has none."""
    facts = {segment["id"]: segment for segment in result.summary.get("segments", [])}
    organs = [_organ_row(result.segmentation, identifier, facts) for identifier in result.segment_ids]
    return sorted(organs, key=lambda row: -(row.doubt or 0)) + [_region_row(node, result) for node in result.regions]


def _organ_row(segmentation_node, identifier: str, facts: dict) -> Row:
    segment, fact = segmentation_node.GetSegmentation().GetSegment(identifier), facts.get(identifier, {})
    doubt, volume = fact.get("doubt"), fact.get("volume_ml")
    remarks = []
    if doubt is not None and doubt > DOUBTFUL:
        remarks.append(_("check first"))
    if fact.get("at_edge"):
        remarks.append(_("cut by the edge of the scan"))
    return Row(
        kind=ORGAN,
        identifier=identifier,
        name=segment.GetName(),
        amount="" if volume is None else _("{volume} mL").format(volume=_readable(volume)),
        doubt=doubt,
        remark=", ".join(remarks),
        color=segment.GetColor(),
        checked=is_checked(segmentation_node, identifier),
    )


def _region_row(node, result: LoadedResult) -> Row:
    share = next((r["complete"] for r in result.summary.get("regions", []) if r["name"] == node.GetName()), None)
    return Row(
        kind=REGION,
        identifier=node.GetName(),
        name=_("{region} (region)").format(region=plain(node.GetName())),
        amount="" if share is None else _("{percent} % in scan").format(percent=round(100 * share)),
        doubt=None,
        remark="" if share is None or share > 0.95 else _("not complete in this scan"),
        color=node.GetDisplayNode().GetSelectedColor() if node.GetDisplayNode() else (0.5, 0.5, 0.5),
    )


def _readable(volume_ml: float) -> str:
    return f"{volume_ml:.1f}" if volume_ml < 10 else f"{volume_ml:.0f}"


def is_checked(segmentation_node, identifier: str) -> bool:
    """Whether the segment's status, which is saved with the segmentation, is "completed"."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    return logic.GetSegmentStatus(segmentation_node.GetSegmentation().GetSegment(identifier)) == logic.Completed


def set_checked(segmentation_node, identifier: str, checked: bool) -> None:
    """Set the segment's status to "completed" or back to "in progress", as the Segment Editor shows it too."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segment = segmentation_node.GetSegmentation().GetSegment(identifier)
    logic.SetSegmentStatus(segment, logic.Completed if checked else logic.InProgress)


def place_of(row: Row, result: LoadedResult) -> tuple[float, float, float] | None:
    """A point in the world's RAS (mm) that lies in the organ or in the middle of the region; None when it is gone."""
    if row.kind == REGION:
        node = next((node for node in result.regions if node.GetName() == row.identifier), None)
        return None if node is None else tuple(node.GetCenterWorld())
    node = result.segmentation
    if node is None or node.GetSegmentation().GetSegment(row.identifier) is None:
        return None
    center = node.GetSegmentCenterRAS(row.identifier)
    return None if center is None else tuple(center)
