"""Files of a result folder, from a made-up result: what they state is what the arrays hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from bpr.results.files import write_crops, write_regions, write_segmentation
from bpr.results.segments import found_segments
from bpr.results.summary import RegionFound, RunResult
from bpr.segmentation.inference import Segmentation
from bpr.segmentation.labels import structure_by_id
from bpr.volume import Volume

LIVER, SPLEEN = structure_by_id("liver").value, structure_by_id("spleen").value


@pytest.fixture
def result() -> RunResult:
    """A scan of 12 slices with a liver, a spleen that touches the edge, and two regions."""
    labels = np.zeros((12, 10, 9), np.uint8)
    labels[2:5, 1:4, 3:8], labels[4:6, 8:10, 1] = LIVER, SPLEEN
    hu = np.arange(labels.size, dtype=np.int16).reshape(labels.shape) % 97
    image, segmentation = sitk.GetImageFromArray(hu), sitk.GetImageFromArray(labels)
    for one in (image, segmentation):
        one.SetSpacing((2.0, 2.0, 5.0))
    regions = [
        RegionFound("thorax", (0, 1), (20.0, 55.0), 1.0, (0, 0, 4), (9, 10, 8)),
        RegionFound("upper abdomen", (0, 1), (0.0, 30.0), 1.0, (0, 0, 0), (9, 10, 7)),
    ]
    segments = found_segments(image, Segmentation(segmentation, {LIVER: 0.1}))
    return RunResult(Volume(image, "made", {}, []), None, regions, segments, segmentation)


def test_segments_are_counted_where_they_lie(result: RunResult):
    liver, spleen = result.segments
    labels, hu = (sitk.GetArrayFromImage(one) for one in (result.segmentation, result.volume.image))
    assert (liver.id, spleen.id) == ("liver", "spleen")
    assert liver.volume_ml == pytest.approx(3 * 3 * 5 * 0.02) and spleen.volume_ml == pytest.approx(2 * 2 * 0.02)
    assert liver.mean_hu == pytest.approx(hu[labels == LIVER].mean())
    assert (liver.doubt, spleen.doubt) == (0.1, 1.0) and not liver.at_edge and spleen.at_edge


def test_the_segmentation_file_states_the_extent_of_each_segment(result: RunResult, tmp_path: Path):
    stored = sitk.ReadImage(str(write_segmentation(result, tmp_path)))
    assert (sitk.GetArrayFromImage(stored) == sitk.GetArrayFromImage(result.segmentation)).all()
    assert stored.GetMetaData("Segment0_ID") == "liver" and stored.GetMetaData("Segment0_Extent") == "3 7 1 3 2 4"
    assert stored.GetMetaData("Segment1_ID") == "spleen" and stored.GetMetaData("Segment1_Extent") == "1 1 8 9 4 5"


def test_every_region_has_the_crop_that_its_entry_names(result: RunResult, tmp_path: Path):
    named = write_regions(result, tmp_path)
    write_crops(RunResult(result.volume, None, named), tmp_path)
    hu = sitk.GetArrayFromImage(result.volume.image)
    rows = json.loads((tmp_path / "regions.json").read_text(encoding="utf-8"))["regions"]
    assert [row["name"] for row in rows] == ["thorax", "upper abdomen"]
    for row in rows:
        first, count = row["start_ijk"][2], row["size_ijk"][2]
        crop = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / row["file"])))
        assert (crop == hu[first : first + count]).all()
