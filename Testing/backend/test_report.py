"""Pictures and report, from a made-up run on the phantom."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import SimpleITK as sitk

from bpr.errors import Notice
from bpr.phantom import make_phantom
from bpr.results.pictures import spread, write_pictures
from bpr.results.report import write_report
from bpr.results.summary import RegionFound, RunResult, SegmentFound
from bpr.results.views import landmark_words, small_volume
from bpr.scoring.curve import LandmarkPosition, ScoreCurve, Verdict
from bpr.segmentation.labels import label_table, structure_by_id
from bpr.volume import Volume, slice_axis, slice_heights

PNG = b"\x89PNG\r\n\x1a\n"
ALL = {"coronal", "sagittal", "curve", "regions", "segmentation"}
CORES = {
    "head": ("mandible_bottom", "skull_top"),
    "neck": ("c7_t1", "c1_dens_tip"),
    "thorax": ("lung_base", "c7_t1"),
    "upper abdomen": ("kidney_bottom", "right_dome"),
    "lower abdomen": ("l5_s1", "t12_l1"),
    "pelvis": ("ischium_bottom", "iliac_crest_top"),
}


def made_up_run(name: str = "phantom", **options) -> RunResult:
    """A run as the main job would return it, with the phantom's own labels and a noisy curve through its landmarks."""
    phantom = make_phantom(**options)
    rng = np.random.default_rng(1)
    z = slice_heights(phantom.image)
    low, high = phantom.landmarks["ischium_bottom"], phantom.landmarks["orbit_center"]
    unit = (high - low) / 100
    cleaned = (z - low) / unit
    marks = [
        LandmarkPosition(k, (v - low) / unit, v, 4.0, z.min() <= v <= z.max()) for k, v in phantom.landmarks.items()
    ]
    marks.sort(key=lambda mark: mark.score)
    inside = [mark.name for mark in marks if mark.in_scan] or [None]
    verdict = Verdict("good", "normal", 3.0, 3.05, (inside[0], inside[-1]))
    raw = cleaned + rng.normal(0, 2.5, len(z))
    curve = ScoreCurve(z, raw, cleaned, np.full(len(z), 1.2), unit, marks, verdict)
    return RunResult(
        volume=Volume(phantom.image, name, {"format": "NRRD", "file": f"{name}.nrrd"}),
        curve=curve,
        regions=found_regions(phantom, curve),
        segments=found_segments(phantom),
        segmentation=phantom.labels,
        device="CPU, 2 cores",
        engine="OpenVINO",
        bundles={"score": "score 0.1", "thorax": "thorax 0.1"},
        seconds={"reading": 0.8, "scoring": 1.9, "segmenting": 21.4},
        peak_memory_mb=2210,
    )


def found_regions(phantom, curve: ScoreCurve) -> list[RegionFound]:
    """Regions of the phantom with a margin of 25 mm, those that the scan holds."""
    size, axis = phantom.image.GetSize(), slice_axis(phantom.image)
    regions = []
    for name, (bottom, top) in CORES.items():
        low, high = phantom.landmarks[bottom] - 25, phantom.landmarks[top] + 25
        rows = np.flatnonzero((curve.z_mm >= low) & (curve.z_mm <= high))
        if len(rows):
            start, count = [0, 0, 0], list(size)
            start[axis], count[axis] = int(rows[0]), len(rows)
            scores = tuple(float(curve.score_at(z)) for z in (low, high))
            complete = len(rows) * phantom.image.GetSpacing()[axis] / (high - low)
            file = f"regions/{name.replace(' ', '_')}.nrrd"
            regions.append(RegionFound(name, scores, (low, high), min(1.0, complete), tuple(start), tuple(count), file))
    return regions


def found_segments(phantom) -> list[SegmentFound]:
    """The phantom's structures with their true volumes, and doubts that grow with the label value."""
    statistics = sitk.LabelStatisticsImageFilter()
    statistics.Execute(sitk.Cast(phantom.image, sitk.sitkFloat32), phantom.labels)
    voxel = float(np.prod(phantom.image.GetSpacing())) / 1000
    return [
        SegmentFound(
            s.value,
            s.id,
            s.name,
            statistics.GetCount(s.value) * voxel,
            statistics.GetMean(s.value),
            s.value / 45,
            False,
        )
        for s in label_table()
        if statistics.HasLabel(s.value)
    ]


def text_of(page: str) -> str:
    """What a reader sees of an HTML page."""
    pieces: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data):
            pieces.append(data)

    Reader().feed(re.sub(r"<style>.*?</style>", "", page, flags=re.S))
    return re.sub(r"\s+", " ", " ".join(pieces))


@pytest.fixture(scope="module")
def run() -> RunResult:
    return made_up_run(seed=3)


def test_all_pictures_are_drawn(run, tmp_path):
    pictures = write_pictures(run, tmp_path)
    assert set(pictures) == ALL
    for name, path in pictures.items():
        assert path == tmp_path / "pictures" / f"{name}.png"
        assert path.read_bytes().startswith(PNG) and 10_000 < path.stat().st_size < 800_000


def test_the_coronal_section_shows_head_up_and_the_liver_on_the_viewers_left(run):
    small = small_volume(run.volume.image, run.segmentation)
    section = small.section("coronal", small.richest("coronal"))
    rows, columns = np.nonzero(section.labels == structure_by_id("liver").value)
    assert columns.mean() < section.labels.shape[1] / 2
    hips = np.nonzero(section.labels == structure_by_id("hip_left").value)[0]
    assert rows.mean() > hips.mean()  # row 0 is the lowest and drawn at the bottom
    left, right, bottom, top = section.extent
    assert (right - left) / section.gray.shape[1] == pytest.approx((top - bottom) / section.gray.shape[0])


@pytest.mark.parametrize("options", [{"orientation": "PIL"}, {"orientation": "RAI"}, {"tilt_deg": (15.0, 0.0, 10.0)}])
def test_sections_do_not_depend_on_how_the_volume_is_stored(options):
    grid = {"spacing_mm": (4.0, 4.0, 4.0), "noise_hu": 0}
    plain, other = (small_volume(p.image, p.labels) for p in (make_phantom(**grid), make_phantom(**grid, **options)))

    def lungs(small):
        section = small.section("coronal", small.body_center()[1])
        rows, columns = np.nonzero((section.labels == 1) | (section.labels == 2))
        step = small.spacing[0]
        return np.array([section.extent[0] + columns.mean() * step, section.extent[2] + rows.mean() * step])

    assert np.abs(lungs(plain) - lungs(other)).max() < 8  # mm


def test_pictures_of_a_sagittal_volume_of_few_slices_and_of_nothing_found(tmp_path):
    sagittal = made_up_run(orientation="PIL", spacing_mm=(5, 5, 5))
    assert set(write_pictures(sagittal, tmp_path / "a")) == ALL
    few = made_up_run(coverage=(20.0, 26.0))
    assert set(write_pictures(few, tmp_path / "b")) == ALL
    bare = replace(few, curve=None, regions=[], segments=[], segmentation=None)
    assert set(write_pictures(bare, tmp_path / "c")) == {"coronal", "sagittal"}
    empty = replace(few, segments=[], segmentation=few.segmentation * 0)
    assert "segmentation" not in write_pictures(empty, tmp_path / "d")


def test_landmarks_are_written_as_people_write_them():
    names = ("t12_l1", "l3_center", "c1_dens_tip", "ischium_bottom", "carina")
    assert [landmark_words(n) for n in names] == ["T12/L1", "L3 center", "C1 dens tip", "ischium bottom", "carina"]


def test_names_are_moved_apart_but_stay_in_order_and_inside():
    places = spread(np.array([0.0, 0.1, 0.2, 5.0, 9.9, 10.0]), 1.0, 0.0, 10.0)
    assert np.all(np.diff(places) >= 1.0 - 1e-9) and places[0] >= 0 and places[-1] <= 10
    assert places[3] == pytest.approx(5.0)  # who has room does not move
    assert np.all(np.diff(spread(np.zeros(30), 1.0, 0.0, 10.0)) > 0)  # more names than room


def test_the_pictures_of_a_large_volume_are_quick(tmp_path):
    run = made_up_run(spacing_mm=(6.0, 6.0, 3.0), coverage=("ischium_bottom", "c7_t1"))
    size = (512, 512, 300)
    stretch = [
        n * s / m for n, s, m in zip(run.volume.image.GetSize(), run.volume.image.GetSpacing(), size, strict=True)
    ]
    image, labels = (
        sitk.Resample(i, size, sitk.Transform(), sitk.sitkNearestNeighbor, i.GetOrigin(), stretch, i.GetDirection())
        for i in (run.volume.image, run.segmentation)
    )
    big = replace(run, volume=replace(run.volume, image=image), segmentation=labels)
    start = time.process_time()
    assert set(write_pictures(big, tmp_path)) == ALL
    assert time.process_time() - start < 12  # 4 s on a free machine


def test_the_report_stands_alone(run, tmp_path):
    page = write_report(run, tmp_path, write_pictures(run, tmp_path)).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"<script|https?://|<link|@import|url\(", page)
    words = text_of(page)
    for segment in run.segments:
        assert segment.name in words
    for region in run.regions:
        assert region.name in words
    assert "ischium bottom to skull top" in words
    assert "Research use only." in words and "not a medical device" in words
    assert "OpenVINO" in words and "2,210 MB" in words and "segmenting 21.4 s" in words


def test_the_most_doubtful_segment_stands_first(run, tmp_path):
    run = replace(run, segments=[replace(s, at_edge=s.id == "liver") for s in run.segments])
    words = text_of(write_report(run, tmp_path, {}).read_text(encoding="utf-8"))
    places = [words.index(name) for name in ("right femur", "left kidney", "aorta")]  # values 22, 12, 4
    assert places == sorted(places)
    assert words.count("cut by the edge of the scan") == 1
    assert "high: check it first" in words


def test_text_from_outside_is_escaped(run, tmp_path):
    nasty = '<script>alert("x")</script>&'
    run = replace(run, volume=replace(run.volume, name=nasty), notices=[Notice("x", nasty)], device=nasty)
    page = write_report(run, tmp_path, {}).read_text(encoding="utf-8")
    assert "<script" not in page and page.count("&lt;script&gt;") == 4
    assert nasty in text_of(page)


def test_doubts_and_empty_results_are_explained(run, tmp_path):
    notice = Notice("spacing_doubtful", "The anatomy suggests slices every 5.0 mm, but the file states 3.0 mm.")
    verdict = replace(run.curve.verdict, quality="doubtful", notices=[notice], coverage=(None, None))
    run = replace(run, curve=replace(run.curve, verdict=verdict), regions=[], segments=[])
    words = text_of(write_report(run, tmp_path, {}).read_text(encoding="utf-8"))
    assert "doubtful: check them before use" in words and words.count(notice.message) == 1
    assert "No known landmark lies inside" in words
    assert "found none of its structures" in words and "No body region was cut out" in words
    bare = replace(run, curve=None, segmentation=None)
    words = text_of(write_report(bare, tmp_path, {}).read_text(encoding="utf-8"))
    assert "not scored" in words and "No segmentation was made" in words
