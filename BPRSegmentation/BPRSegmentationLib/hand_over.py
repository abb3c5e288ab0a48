"""Results handed over to other modules of the application: Segment Editor, Segment Statistics, training cases."""

from __future__ import annotations

import importlib.util

import slicer

from .packages import PackagesError, install
from .translation import _


def edit(segmentation_node, volume_node) -> None:
    """Open the Segment Editor on a segmentation, with the CT as its source volume."""
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(segmentation_node)
    editor.setSourceVolumeNode(volume_node)


def show_statistics(segmentation_node, volume_node):
    """Volumes and densities as they are now, after editing too, in a table that is shown; returns the table node."""
    import SegmentStatistics

    logic = SegmentStatistics.SegmentStatisticsLogic()
    parameters = logic.getParameterNode()
    parameters.SetParameter("Segmentation", segmentation_node.GetID())
    parameters.SetParameter("ScalarVolume", volume_node.GetID())
    name = _("{segmentation} statistics").format(segmentation=segmentation_node.GetName())
    table = next(
        (
            node
            for node in slicer.util.getNodesByClass("vtkMRMLTableNode")
            if node.GetName() == name and node.GetAttribute("BodyPartRegression.statistics")
        ),
        None,
    )
    if table is None:
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
        table.SetAttribute("BodyPartRegression.statistics", "1")
    logic.computeStatistics()
    logic.exportToTable(table)
    logic.showTable(table)
    return table


def seed_receiver():
    """The panel's method of the module BPRTraining that takes a case; None when that module is absent or older."""
    module = getattr(slicer.modules, "bprtraining", None)
    if module is None:
        return None
    return getattr(module.widgetRepresentation().self(), "addSeedCase", None)


def why_no_seed() -> str:
    """Why "Add as SEED case" cannot be used, in one sentence; empty when it can."""
    if getattr(slicer.modules, "bprtraining", None) is None:
        return _("The module BPRTraining, which keeps training cases, is not loaded.")
    return ""


def add_seed_case(segmentation_node, volume_node) -> str:
    """Open BPRTraining and hand volume and segmentation over; returns a sentence when that is not possible."""
    receive = seed_receiver()
    if receive is None:
        return _("This version of BPRTraining does not take cases from here.")
    slicer.util.selectModule("BPRTraining")
    receive(volume_node, segmentation_node)
    return ""


def dicom_files_of(volume_node) -> list[str]:
    """Files of the DICOM series that a volume was loaded from, as the DICOM database knows them; else an empty list."""
    identifiers = (volume_node.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not identifiers or database is None:
        return []
    files = [database.fileForInstance(identifier) for identifier in identifiers]
    return [file for file in files if file]


def ensure_highdicom() -> None:
    """Install what writes DICOM SEG, after asking. Raises PackagesError."""
    if importlib.util.find_spec("highdicom") is None:
        install(["highdicom>=0.23"], _("DICOM export"))


__all__ = [
    "PackagesError",
    "add_seed_case",
    "dicom_files_of",
    "edit",
    "ensure_highdicom",
    "seed_receiver",
    "show_statistics",
    "why_no_seed",
]
