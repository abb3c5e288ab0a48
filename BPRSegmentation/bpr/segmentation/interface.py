"""What a segmentation network takes and gives, as its bundle says."""

from __future__ import annotations

from dataclasses import dataclass

from bpr.models import Bundle
from bpr.segmentation.labels import structure_by_id


@dataclass(frozen=True)
class Interface:
    """A network's outside.

    Attributes:
        classes: label-table values of its output channels after the background.
        tile: (z, y, x) voxels that it takes at once.
        inputs: names of its input channels, see bpr.segmentation.grid.INPUTS.
    """

    classes: list[int]
    tile: tuple[int, int, int]
    inputs: tuple[str, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> Interface:
        """The interface of a region's or the baseline's bundle."""
        classes = [structure_by_id(name).value for name in bundle.facts["structures"]]
        return cls(classes, tuple(bundle.facts["tile"]), bundle.inputs)
