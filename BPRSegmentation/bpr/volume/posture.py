"""Posture: by how many quarter turns about the body's long axis a patient lies away from face up."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from bpr.volume.geometry import direction_matrix

POSTURES = ("face up", "on the left side", "face down", "on the right side")  # by quarter turns to face up


def face_up(image: sitk.Image, quarter_turns: int) -> sitk.Image:
    """The image turned about the superior axis by its header alone, so that a patient who lies turned comes face up.

    Voxels stay as they are. ``quarter_turns`` counts as ``np.rot90`` does on slices with rows anterior to posterior and
    columns right to left: what was at the right edge of such a picture comes to its top.
    """
    if quarter_turns % 4 == 0:
        return image
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter_turns % 4]
    # In LPS x grows along the columns and y along the rows; rot90 sends x to -y and y to x.
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], float)
    turned = sitk.Image(image)
    turned.SetDirection((turn @ direction_matrix(image)).ravel().tolist())
    turned.SetOrigin((turn @ np.array(image.GetOrigin())).tolist())
    return turned
