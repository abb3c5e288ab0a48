"""The phantom is the truth of many tests, so its own truth is tested here."""

from __future__ import annotations

import time

import numpy as np
import pytest
import SimpleITK as sitk

from bpr.phantom import make_phantom
from bpr.segmentation.labels import Structure, label_table, structure_by_id

# landmark -> (structures whose end it is, whether the upper end)
ENDS = {
    "lung_apex": (("lung_left", "lung_right"), True),
    "lung_base": (("lung_left", "lung_right"), False),
    "heart_bottom": (("heart",), False),
    "aortic_arch_top": (("aorta",), True),
    "carina": (("trachea",), False),
    "right_dome": (("liver",), True),
    "liver_bottom": (("liver",), False),
    "spleen_top": (("spleen",), True),
    "kidney_top": (("kidney_left", "kidney_right"), True),
    "kidney_bottom": (("kidney_left", "kidney_right"), False),
    "l5_s1": (("sacrum",), True),
    "iliac_crest_top": (("hip_left", "hip_right"), True),
    "ischium_bottom": (("hip_left", "hip_right"), False),
    "c1_dens_tip": (("spine",), True),
}
SMALL = {"spacing_mm": (5.0, 5.0, 4.0)}


def labeled_heights(labels: sitk.Image, identifiers: tuple[str, ...]) -> np.ndarray:
    """RAS superior mm of the axial slices that hold one of the structures."""
    array = sitk.GetArrayFromImage(labels)
    rows = np.flatnonzero(np.isin(array, [structure_by_id(name).value for name in identifiers]).any((1, 2)))
    return labels.GetOrigin()[2] + rows * labels.GetSpacing()[2]


def same_content(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether two axis-parallel images hold the same values at the same physical points."""
    a, b = sitk.DICOMOrient(a, "LPS"), sitk.DICOMOrient(b, "LPS")
    places = np.allclose(a.GetOrigin(), b.GetOrigin(), atol=1e-6) and np.allclose(a.GetDirection(), b.GetDirection())
    return places and np.array_equal(sitk.GetArrayViewFromImage(a), sitk.GetArrayViewFromImage(b))


def trunk_structures() -> list[Structure]:
    """What the phantom labels: all structures but those of head and neck."""
    return [structure for structure in label_table() if structure.group != "head and neck"]


@pytest.mark.parametrize("seed", [0, 2, 9])
def test_landmarks_lie_where_the_label_map_says(seed):
    phantom = make_phantom(seed=seed, noise_hu=0)
    step = phantom.labels.GetSpacing()[2]
    for landmark, (structures, upper) in ENDS.items():
        heights = labeled_heights(phantom.labels, structures)
        assert abs((heights.max() if upper else heights.min()) - phantom.landmarks[landmark]) <= step, landmark


def test_every_structure_is_there_with_a_plausible_density():
    phantom = make_phantom(seed=4)
    hu, labels = (sitk.GetArrayFromImage(image) for image in (phantom.image, phantom.labels))
    expected = {
        "lung_left": (-900, -700),
        "lung_right": (-900, -700),
        "trachea": (-1000, -600),
        "liver": (40, 130),
        "urinary_bladder": (-5, 30),
    }
    expected |= {"spine": (150, 500), "femur_left": (150, 700), "aorta": (40, 300), "iliopsoas_right": (40, 70)}
    for structure in trunk_structures():
        voxels = hu[labels == structure.value]
        assert len(voxels) * 0.027 > 10, structure.id  # milliliters
        low, high = expected.get(structure.id, (-200, 700))
        assert low < np.mean(voxels) < high, structure.id


def test_left_is_left():
    phantom = make_phantom(**SMALL)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(phantom.labels)
    for structure in trunk_structures():
        if structure.id.endswith(("_left", "_right")):
            assert (shape.GetCentroid(structure.value)[0] > 0) == structure.id.endswith("_left"), structure.id
    assert shape.GetCentroid(structure_by_id("liver").value)[0] < -20


def test_the_same_seed_gives_the_same_voxels_and_another_seed_another_body():
    first, again, other = (make_phantom(seed=seed, **SMALL) for seed in (5, 5, 6))
    assert same_content(first.image, again.image) and same_content(first.labels, again.labels)
    assert abs(first.plan.across - other.plan.across) > 0.001
    assert max(abs(first.landmarks[name] - other.landmarks[name]) for name in first.landmarks) > 5


def test_height_scales_the_body():
    short, tall = (make_phantom(height_mm=height, **SMALL).landmarks for height in (1500, 1800))
    ratio = (tall["skull_top"] - tall["ischium_bottom"]) / (short["skull_top"] - short["ischium_bottom"])
    assert ratio == pytest.approx(1.2, abs=1e-6)


def test_a_crop_keeps_physical_coordinates():
    whole = make_phantom(noise_hu=0, **SMALL)
    part = make_phantom(noise_hu=0, coverage=("l5_s1", "carina"), **SMALL)
    origin = whole.labels.TransformPhysicalPointToIndex(part.labels.GetOrigin())
    cut = sitk.RegionOfInterest(whole.labels, part.labels.GetSize(), origin)
    assert same_content(cut, part.labels)
    assert "t12_l1" in part.landmarks_in_scan and "skull_top" not in part.landmarks_in_scan
    assert part.landmarks == whole.landmarks


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "PIL", "ASL"])
def test_a_flip_keeps_the_physical_content(orientation):
    plain, turned = (make_phantom(orientation=code, **SMALL) for code in ("LPS", orientation))
    assert sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(turned.image.GetDirection()) == orientation
    assert same_content(plain.image, turned.image) and same_content(plain.labels, turned.labels)


def test_a_tilted_grid_shows_the_same_body():
    plain, tilted = (make_phantom(noise_hu=0, tilt_deg=turn, **SMALL) for turn in ((0, 0, 0), (12, -5, 8)))
    back = sitk.Resample(tilted.labels, plain.labels, sitk.Transform(), sitk.sitkNearestNeighbor)
    a, b = (sitk.GetArrayFromImage(image) == structure_by_id("liver").value for image in (plain.labels, back))
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9
    assert tilted.image.GetDirection() != plain.image.GetDirection()


def test_position_moves_image_and_landmarks_together():
    plain, moved = make_phantom(**SMALL), make_phantom(position_mm=(10.0, -20.0, 333.0), **SMALL)
    assert np.allclose(np.subtract(moved.image.GetOrigin(), plain.image.GetOrigin()), (10, -20, 333))
    assert moved.landmarks["carina"] - plain.landmarks["carina"] == pytest.approx(333)


def test_arms_and_table_are_painted_where_they_belong():
    up, down, none = (make_phantom(arms=arms, table=False, noise_hu=0, **SMALL) for arms in ("up", "down", "none"))

    def tissue(phantom, low, high):
        bottom, top = (
            phantom.image.TransformPhysicalPointToIndex((0.0, 0.0, phantom.landmarks[name]))[2] for name in (low, high)
        )
        return int((sitk.GetArrayFromImage(phantom.image)[bottom:top] > -300).sum())

    assert tissue(up, "c1_dens_tip", "skull_top") > 1.1 * tissue(none, "c1_dens_tip", "skull_top")
    assert tissue(down, "liver_bottom", "right_dome") > tissue(none, "liver_bottom", "right_dome")
    assert tissue(make_phantom(arms="none", noise_hu=0, **SMALL), "c7_t1", "skull_top") > tissue(
        none, "c7_t1", "skull_top"
    )


def test_contrast_brightens_vessels_not_fat():
    native, bright = (make_phantom(contrast=c, noise_hu=0, **SMALL) for c in (0, 1))
    aorta = sitk.GetArrayFromImage(native.labels) == structure_by_id("aorta").value
    a, b = (sitk.GetArrayFromImage(phantom.image) for phantom in (native, bright))
    assert b[aorta].mean() - a[aorta].mean() > 120
    fat = (a < -90) & (a > -115)
    assert abs(float(b[fat].mean()) - float(a[fat].mean())) < 5


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="arms"):
        make_phantom(arms="sideways")
    with pytest.raises(ValueError, match="no landmark"):
        make_phantom(coverage=("tail", None))
    with pytest.raises(ValueError, match="no slice"):
        make_phantom(coverage=(100.0, 50.0))


def test_it_is_fast():
    start = time.process_time()
    phantom = make_phantom()
    assert phantom.image.GetSize()[:2] == (128, 100) and 290 <= phantom.image.GetSize()[2] <= 330
    assert time.process_time() - start < 8
