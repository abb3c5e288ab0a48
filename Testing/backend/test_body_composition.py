"""Body composition: the right slices, HU rules, doubts that are said, files on the input's own grid."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from bpr.body_composition.doubts import slice_notices
from bpr.body_composition.files import segmentation
from bpr.body_composition.job import Composition, CompositionRequest, SliceFound, measure_composition
from bpr.body_composition.level import LEVELS, Level, find_level, slab
from bpr.body_composition.measure import measure, slice_tissues
from bpr.body_composition.slices import (
    INPUT_SHAPE,
    AxialSlice,
    axial_slice,
    body_of,
    from_grid,
    network_grid,
    onto_grid,
)
from bpr.body_composition.tissues import COMPARTMENTS, TISSUES, tissue_labels
from bpr.cli import main
from bpr.errors import InputError
from bpr.scoring.curve import LandmarkPosition, ScoreCurve, Verdict
from bpr.volume import slice_heights

MUSCLE, SKIN, VISCERA, BONE = (COMPARTMENTS.index(n) for n in ("muscle", "subcutaneous", "visceral", "bone"))


def curve(low: float = 0.0, high: float = 400.0, sd: float = 5.0, quality: str = "good") -> ScoreCurve:
    """A scan from ``low`` to ``high`` mm in which L3's middle lies at 200 mm and a vertebra is 30 mm tall."""
    z = np.arange(low, high + 1, 5.0)
    marks = [LandmarkPosition(name, 0.0, height, sd, low <= height <= high)
             for name, height in (("t12_l1", 275.0), ("l3_center", 200.0), ("l5_s1", 125.0))]  # fmt: skip
    verdict = Verdict(quality, "normal", 5.0, 5.0, ("l5_s1", "t12_l1"))
    return ScoreCurve(z, z / 8, z / 8, np.full(len(z), 1.0), 8.0, marks, verdict)


def trunk(size: tuple[int, int] = (180, 240), pixel: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """HU and compartments of a made trunk: fat, a muscular wall, viscera with fat, a vertebra."""
    y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    radius = np.hypot(y * pixel / 110, x * pixel / 160)
    hu = np.full(size, -1000, np.float32)
    number = np.zeros(size, np.uint8)
    for limit, value, compartment in ((1.0, -100, SKIN), (0.8, 55, MUSCLE), (0.65, -95, VISCERA)):
        hu[radius < limit], number[radius < limit] = value, compartment
    bone = np.hypot(y * pixel - 50, x * pixel) < 22
    hu[bone], number[bone] = 300, BONE
    return hu, number


def as_slice(hu: np.ndarray, pixel: float = 2.0) -> AxialSlice:
    image = sitk.GetImageFromArray(hu[None])
    image.SetSpacing((pixel, pixel, 5.0))
    return AxialSlice(0, 0.0, hu, (pixel, pixel), 5.0, image)


def codes(hu: np.ndarray, number: np.ndarray, doubt: float = 0.1, muscle: float = 150.0) -> set[str]:
    return {notice.code for notice in slice_notices(as_slice(hu), number, doubt, muscle)}


def test_levels_follow_each_other_a_vertebra_apart():
    found = [find_level(curve(), name) for name in LEVELS]
    assert [round(level.z_mm) for level in found] == [290, 260, 230, 200, 170, 140]
    assert find_level(curve(), "L3").sd_mm == 5.0 < find_level(curve(), "L2").sd_mm
    with pytest.raises(InputError, match="no level 'C7'"):
        find_level(curve(), "C7")


@pytest.mark.parametrize("low, high, place", [(0, 400, "inside"), (197, 400, "edge"), (210, 400, "outside"),
                                              (0, 150, "outside")])  # fmt: skip
def test_a_level_beyond_the_scan_is_said(low, high, place):
    assert find_level(curve(low, high), "L3").place == place


def test_a_slab_holds_its_slices_and_at_least_the_nearest():
    heights = np.array([30.0, 20.0, 10.0, 0.0])  # stored from the head down
    assert slab(heights, 8, 22) == [2, 1]
    assert slab(heights, 13, 14) == [2]
    assert slab(np.arange(0, 50, 1.0), 10, 20, step_mm=5) == [10, 15, 20]


def test_tissues_are_compartment_and_hu():
    hu = np.array([[-30, -29, 150, 151, -190, -191, 40]], np.float32)
    assert tissue_labels(np.full(hu.shape, MUSCLE), hu).tolist() == [[4, 1, 1, 0, 4, 0, 1]]
    assert tissue_labels(np.full(hu.shape, SKIN), hu).tolist() == [[2, 0, 0, 0, 2, 0, 0]]
    found = {t.id: t for t in measure(tissue_labels(np.full(hu.shape, MUSCLE), hu), hu, 2.0)}
    assert found["skeletal_muscle"].area_cm2 == 6.0 and found["skeletal_muscle"].mean_hu == pytest.approx(161 / 3)
    assert np.isnan(found["visceral_fat"].mean_hu)


@pytest.mark.parametrize("code", ["LPS", "RAI", "SPL", "ASR"])
def test_a_slice_is_the_same_in_every_orientation_and_labels_return_to_the_input(code):
    array = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 3.0, 5.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    turned = sitk.DICOMOrient(image, code)
    heights = slice_heights(turned)
    index = int(np.abs(heights - 40.0).argmin())  # the third slice of the image as it was made
    one = axial_slice(turned, index, heights[index])
    assert np.array_equal(one.hu, array[2]) and one.spacing == (3.0, 2.0)
    labels = np.zeros((6, 8), np.uint8)
    labels[1, 5] = 3
    level = Level("L3", 40.0, 5.0, "inside")
    made = segmentation(Composition(level, None, "measured", [SliceFound(one, labels, [], 0.0)]), turned)
    assert made.GetDirection() == turned.GetDirection()
    place = np.argwhere(sitk.GetArrayFromImage(made) == 3)[0][::-1]
    assert made.TransformIndexToPhysicalPoint(place.tolist()) == pytest.approx((20.0, -17.0, 40.0))


@pytest.mark.parametrize("pixel", [0.8, 2.0, 3.3])
def test_the_networks_grid_and_back(pixel):
    size = (round(300 / pixel), round(420 / pixel))
    hu, number = trunk(size, pixel)
    grid = network_grid(body_of(hu, pixel), (pixel, pixel))
    back = from_grid(onto_grid(number, grid, 0, 0), grid, size, 0)
    assert (np.rint(back) == number).mean() > 0.97
    assert onto_grid(hu, grid, 1, -1024).shape == INPUT_SHAPE


def test_a_body_wider_than_the_grid_still_fits():
    hu, _ = trunk((300, 340), 2.0)
    wide = sitk.GetArrayFromImage(sitk.Resample(sitk.GetImageFromArray(hu), (680, 340), sitk.Transform(),
                                                sitk.sitkLinear, (0, 0), (0.5, 1.0)))  # fmt: skip
    body = body_of(wide, 2.0)
    grid = network_grid(body, (2.0, 2.0))
    rows, columns = grid.places()
    inside = np.argwhere(body)
    assert rows[0] < inside[:, 0].min() and rows[-1] > inside[:, 0].max()
    assert columns[0] < inside[:, 1].min() and columns[-1] > inside[:, 1].max()


def test_a_good_slice_gives_no_doubt():
    assert codes(*trunk()) <= {"contrast_agent", "contrast_unknown"}


def test_metal_is_said():
    hu, number = trunk()
    hu[90:94, 60:64] = 3000
    assert "metal" in codes(hu, number)


def test_arms_beside_the_body_are_said_and_left_out_but_a_table_is_none():
    hu, number = trunk()
    y, x = np.meshgrid(np.arange(hu.shape[0]), np.arange(hu.shape[1]), indexing="ij")
    arm = np.hypot(y - 90, x - 18) < 17
    hu[arm], hu[np.hypot(y - 90, x - 18) < 4] = 50, 700
    assert "arms_beside" in codes(hu, number) and not (body_of(hu, 2.0) & arm).any()
    hu, number = trunk()
    hu[160:163, 10:230] = 0
    assert not {"arms_beside", "arms_touch"} & codes(hu, number)


def test_a_cropped_field_of_view_is_said():
    hu, number = trunk()
    assert "fov_cropped" in codes(hu[:, 50:], number[:, 50:])


def test_an_unsure_or_impossible_muscle_is_said():
    hu, number = trunk()
    assert "muscle_doubtful" in codes(hu, number, doubt=0.5)
    assert "muscle_doubtful" in codes(hu, number, muscle=10.0)


def test_contrast_in_the_vessels_is_said():
    hu, number = trunk()
    assert "contrast_agent" not in codes(hu, number)
    y, x = np.meshgrid(np.arange(hu.shape[0]), np.arange(hu.shape[1]), indexing="ij")
    hu[np.hypot(y - 90, x - 118) < 6] = 250
    assert "contrast_agent" in codes(hu, number)


@pytest.mark.parametrize("change, code", [({"low": 210.0}, "level_outside"), ({"quality": "refused"}, "scan_doubtful")])
def test_what_cannot_be_found_is_not_measured(change, code):
    found = measure_composition(None, curve(**change), None, None, CompositionRequest())
    assert found.state == "not measured" and found.slices == [] and [n.code for n in found.notices] == [code]


@pytest.mark.parametrize("options, words", [
    ({"level": "T4"}, "no level"), ({"upper": "T12"}, "two levels"), ({"upper": "L5", "lower": "T12"}, "above"),
    ({"height_cm": 1.75}, "height"), ({"slab_mm": -1.0}, "slab"),
])  # fmt: skip
def test_wrong_requests(options, words):
    with pytest.raises(InputError, match=words):
        CompositionRequest(**options).check()


def test_l3_outside_the_sample_leaves_no_areas(tmp_path, sample_ct, capsys):
    out = tmp_path / "out"
    assert main(["body-composition", str(sample_ct), "--out", str(out), "--json"]) == 0
    content = json.loads((out / "result.json").read_text())["body_composition"]
    assert content["state"] == "not measured" and content["tissues"] == {}
    assert [notice["code"] for notice in content["notices"]] == ["level_outside"]
    assert not (out / "body_composition.seg.nrrd").exists()
    assert any('"level_outside"' in line for line in capsys.readouterr().out.splitlines())


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    from bpr.phantom import make_phantom

    path = tmp_path_factory.mktemp("phantom") / "phantom.nrrd"
    sitk.WriteImage(make_phantom(spacing_mm=(3.0, 3.0, 4.0), seed=0).image, str(path))
    return path


def test_all_files_of_a_measurement_agree(tmp_path, phantom):
    out = tmp_path / "out"
    assert main(["body-composition", str(phantom), "--out", str(out), "--height", "175", "--json"]) == 0
    content = json.loads((out / "result.json").read_text())["body_composition"]
    assert content["state"] in ("measured", "doubtful")
    labels = sitk.ReadImage(str(out / "body_composition.seg.nrrd"))
    array = sitk.GetArrayFromImage(labels)
    pixel = labels.GetSpacing()[0] * labels.GetSpacing()[1] / 100
    with open(out / "body_composition.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for tissue in TISSUES:
        areas = [float(r["area_cm2"]) for r in rows if r["tissue"] == tissue.id and r["slice"] != "mean"]
        counted = [(array[k] == tissue.value).sum() * pixel for k in range(len(array))]
        assert areas == pytest.approx(counted, abs=0.01)
        assert content["tissues"][tissue.id]["area_cm2"] == pytest.approx(np.mean(areas), abs=0.01)
    muscle = content["tissues"]["skeletal_muscle"]["area_cm2"]
    assert content["muscle_index_cm2_m2"] == pytest.approx(muscle / 1.75**2, abs=0.02)
    assert (out / "body_composition.png").stat().st_size > 10000
    input_image = sitk.ReadImage(str(phantom))
    index = input_image.TransformPhysicalPointToContinuousIndex(labels.GetOrigin())
    assert index == pytest.approx(np.rint(index), abs=1e-4)


def test_a_span_is_measured_between_its_levels(tmp_path, phantom):
    out = tmp_path / "out"
    assert main(["body-composition", str(phantom), "--out", str(out), "--from", "L2", "--to", "L4", "--json"]) == 0
    content = json.loads((out / "result.json").read_text())["body_composition"]
    assert content["level"] == "L2 to L4" and len(content["slices"]) >= 5
    for tissue, volume in content["volume_cm3"].items():
        assert volume > 0 or content["tissues"][tissue]["area_cm2"] == 0
    assert content["muscle_index_cm2_m2"] is None


def test_real_slices_are_labeled_nearly_as_people_did(shared_data):
    """Slices of people whose scans taught the shipped bundle nothing."""
    pytest.importorskip("torch", reason="reading the labeled slices needs the training extra")
    from bpr.body_composition.evaluation import estimates, score_slices
    from bpr.body_composition.job import ROLE, composition_bundles
    from bpr.body_composition.training import load_slices
    from bpr.compute.engines import open_engine

    slices = [s for s in load_slices(shared_data) if s.case in ("rad1211_10_AP", "rad1720_31_EQP")]
    predict = open_engine().predictor(composition_bundles([])[ROLE])
    scores = score_slices(slices, lambda hu, spacing: slice_tissues(hu, spacing, predict)[0])
    assert estimates(scores, "skeletal_muscle")["Dice"].mean > 0.88
    assert estimates(scores, "subcutaneous_fat")["Dice"].mean > 0.85


def test_the_loss_knows_what_an_unlabeled_pixel_may_be():
    torch = pytest.importorskip("torch", reason="training needs torch")
    from bpr.body_composition.training import ALL_KNOWN, ANYTHING, LIKE_FAT, LIKE_MUSCLE, composition_loss

    def loss(code: int, compartment: int, known: tuple[bool, ...] = ALL_KNOWN) -> float:
        logits = torch.zeros(1, len(COMPARTMENTS), 8, 8)
        logits[:, compartment] = 10.0
        return float(composition_loss(logits, torch.full((1, 8, 8), code), [known]))

    assert loss(LIKE_MUSCLE, MUSCLE) > loss(LIKE_MUSCLE, VISCERA) + 5
    assert loss(LIKE_FAT, VISCERA) > loss(LIKE_FAT, BONE) + 5
    assert loss(1, MUSCLE) < loss(1, VISCERA) - 5 and loss(4, MUSCLE) < loss(4, SKIN) - 5
    free = [loss(ANYTHING, k) for k in range(len(COMPARTMENTS))]
    assert max(free) - min(free) < 1.5  # no entropy; soft Dice of an absent tissue only
