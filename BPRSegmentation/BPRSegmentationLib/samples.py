"""The data sets that the Sample Data module offers: the project's CT and its phantom, both without network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import slicer

from bpr.resources import resources_dir

from .translation import _

CATEGORY = "BodyPartRegression"
SAMPLE, PHANTOM = "CTChestAbdomenSmall", "BPRPhantom"


def sample_ct_path() -> Path:
    """The CT that travels with the project."""
    return resources_dir() / "SampleData" / "c3n00249.nii.gz"


def load_sample_ct(source=None):
    """The project's CT as a volume node. ``source`` is what the Sample Data module passes; it is not needed."""
    return _load(sample_ct_path(), _("Sample CT"))


def load_phantom(source=None, spacing_mm: float = 3.0):
    """The CT made by arithmetic, whose landmarks and organs are known, as a volume node."""
    import SimpleITK as sitk

    from bpr.phantom import make_phantom

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "phantom.nrrd")
        sitk.WriteImage(make_phantom(spacing_mm=(spacing_mm,) * 3).image, path)
        node = _load(path, _("Phantom CT"))
        if node.GetStorageNode() is not None:  # its file is gone in a moment: the scene saves the node anew
            slicer.mrmlScene.RemoveNode(node.GetStorageNode())
        return node


def _load(path, name: str):
    node = slicer.util.loadVolume(str(path), properties={"name": name, "show": True})
    display = node.GetDisplayNode()
    if display is not None:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(400.0, 40.0)
    return node


def register(icons: Path) -> None:
    """Tell the Sample Data module; called once, after the start of the application."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # newer than 5.10
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("Body Part Regression"))
    for name, load in ((SAMPLE, load_sample_ct), (PHANTOM, load_phantom)):
        logic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            uris=[""],
            fileNames=[None],
            nodeNames=[None],
            thumbnailFileName=str(icons / f"{name}.png"),
            customDownloader=load,
        )
