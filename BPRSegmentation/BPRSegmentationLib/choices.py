"""Choices of the panel that become parameters: each with its word in the child-process protocol and its label."""

from __future__ import annotations

from enum import Enum

from .export import PRODUCTS, Request
from .translation import _


class Device(Enum):
    """Where the networks run; the values are words of the child-process protocol."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self) -> str:
        """Text in the combo box."""
        return {"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("CUDA"), "mps": _("Apple MPS")}[self.value]


class Engine(Enum):
    """What runs the networks; the values are words of the child-process protocol."""

    AUTO = "auto"
    OPENVINO = "openvino"
    TORCH = "torch"

    def label(self) -> str:
        """Text in the combo box."""
        return {"auto": _("Automatic"), "openvino": _("OpenVINO"), "torch": _("PyTorch")}[self.value]


class TileSize(Enum):
    """Longest edge, in voxels, of what a network sees at once; smaller ones need less memory and know less context."""

    AUTO = 0
    SMALL = 48
    SMALLEST = 32

    def label(self) -> str:
        """Text in the combo box."""
        return {0: _("As the model was trained"), 48: _("Small (48 voxels)"), 32: _("Smallest (32 voxels)")}[self.value]


def request_of(node) -> Request:
    """What the choices of a parameter node ask for, in the words of the child-process protocol."""
    from bpr.models import domain_models
    from bpr.regions import region_table
    from bpr.segmentation.labels import label_table

    ticked = (node.produceScores, node.produceRegions, node.produceSegmentation)
    left_out = set(node.leftOutRegions), set(node.leftOutOrgans)
    if domain_models(list(node.models)):
        left_out = set(), set()  # it knows none of them, and gives all that it knows
    device = node.device.value
    if node.device is Device.CUDA and node.gpu:
        device = f"cuda:{node.gpu}"
    return Request(
        produce=tuple(product for product, wanted in zip(PRODUCTS, ticked, strict=True) if wanted),
        regions=_without(left_out[0], [region.name for region in region_table()]),
        organs=_without(left_out[1], [structure.id for structure in label_table()]),
        bundles=tuple(node.models),
        device=device,
        engine=node.engine.value,
        step_mm=node.sliceStep,
        margin_mm=node.margin,
        tile=node.tileSize.value,
    )


def _without(left_out: set[str], names: list[str]) -> tuple[str, ...] | None:
    """All names but those left out; None when that is all of them."""
    return tuple(name for name in names if name not in left_out) if left_out.intersection(names) else None
