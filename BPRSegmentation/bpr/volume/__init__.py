"""Reading a CT and its geometry, in millimetres and SimpleITK's LPS convention."""

from bpr.volume.geometry import same_geometry, slice_axis, slice_heights
from bpr.volume.grid import canonical, canonical_array
from bpr.volume.posture import POSTURES, face_up
from bpr.volume.reading import Volume, read_volume

__all__ = ["POSTURES", "Volume", "canonical", "canonical_array", "face_up", "read_volume", "same_geometry",
           "slice_axis", "slice_heights"]  # fmt: skip
