"""Volumes, densities and doubts of the segments, counted on the input's own grid."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from bpr.results.summary import SegmentFound
from bpr.segmentation.inference import Segmentation
from bpr.segmentation.labels import label_table


def found_segments(image: sitk.Image, segmentation: Segmentation) -> list[SegmentFound]:
    """One entry per structure that has voxels, ordered by label value."""
    labels = sitk.GetArrayViewFromImage(segmentation.labels)
    hu = sitk.GetArrayViewFromImage(image)
    counts, sums = np.zeros(256), np.zeros(256)
    edge = np.zeros(256, bool)
    for k in range(len(labels)):  # slice by slice, to need no second volume
        inside = np.flatnonzero(labels[k])
        values = labels[k].ravel()[inside]
        counts += np.bincount(values, minlength=256)
        sums += np.bincount(values, hu[k].ravel()[inside], minlength=256)
    for axis in range(3):
        for end in (0, -1):
            edge[np.unique(labels.take(end, axis))] = True
    voxel_ml = float(np.prod(image.GetSpacing())) / 1000
    return [
        SegmentFound(s.value, s.id, s.name, float(counts[s.value] * voxel_ml), float(sums[s.value] / counts[s.value]),
                     round(segmentation.doubts.get(s.value, 1.0), 3), bool(edge[s.value]))
        for s in label_table()
        if counts[s.value] > 0
    ]  # fmt: skip
