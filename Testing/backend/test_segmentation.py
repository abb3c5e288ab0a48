"""Windows, merging, clean-up and resampling: each against a truth that is known by construction."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from bpr.segmentation.cleanup import kept_parts
from bpr.segmentation.labels import label_table, structure_by_id, terminology_entry
from bpr.segmentation.merge import ProbabilityField, border_weight, clean_field
from bpr.segmentation.upsampling import labels_on
from bpr.segmentation.windows import count_tiles, predict_grid, tile_starts
from bpr.volume import same_geometry

LIVER, SPLEEN = structure_by_id("liver").value, structure_by_id("spleen").value


def ball(shape, center, radius) -> np.ndarray:
    index = np.indices(shape)
    distance = sum((axis - c) ** 2 for axis, c in zip(index, center, strict=True))
    return (distance < radius**2).astype(np.float32)


def test_tiles_cover_everything_and_overlap():
    starts = tile_starts(100, 48)
    assert starts[0] == 0 and starts[-1] == 52 and max(np.diff(starts)) <= 48 * 0.7 + 1
    assert tile_starts(30, 48) == [0]


def test_tiled_prediction_equals_the_whole():
    image = np.random.default_rng(0).normal(size=(2, 20, 37, 9)).astype(np.float32)
    seen = []

    def predict(tile: np.ndarray) -> np.ndarray:  # a network without context: tiling must not show
        return np.stack([tile[0, 0], 2 * tile[0, 1], -tile[0, 0]])[None]

    probability = predict_grid(image, predict, 3, (16, 16, 16), lambda: seen.append(1))
    logits = np.stack([image[0], 2 * image[1], -image[0]])
    expected = np.exp(logits) / np.exp(logits).sum(0)
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    assert len(seen) == count_tiles((20, 37, 9), (16, 16, 16))


def test_overlapping_regions_trust_the_one_further_from_its_border():
    field = ProbabilityField.empty([LIVER], (20, 4, 4))
    sure, doubtful = np.full((2, 12, 4, 4), 0.9), np.full((2, 12, 4, 4), 0.1)
    field.add(sure, [LIVER], 0, border_weight(12, 4.0))
    field.add(doubtful, [LIVER], 8, border_weight(12, 4.0))
    p = field.probability(0)[:, 0, 0]
    assert p[0] == pytest.approx(0.9, abs=0.01) and p[19] == pytest.approx(0.1, abs=0.01)
    assert p[8] > p[11] and 0.1 < p[9] < 0.9


def test_cleanup_rules():
    mask = (ball((30, 30, 30), (8, 8, 8), 6) + ball((30, 30, 30), (22, 22, 22), 3)) > 0
    assert kept_parts(mask, "largest", 0.1).sum() == ball((30, 30, 30), (8, 8, 8), 6).sum()
    assert kept_parts(mask, "keep_parts_over_5_ml", 0.1).sum() == mask.sum()
    assert kept_parts(mask, "", 0.1).sum() == mask.sum()
    with pytest.raises(ValueError, match="unknown"):
        kept_parts(mask, "larges", 0.1)


@pytest.mark.parametrize("direction", ("axial", "sagittal", "flipped", "oblique"))
def test_labels_come_back_on_the_image_grid(direction: str):
    """A ball on the 4 mm grid, resampled to a finer image of any orientation, covers the same physical ball."""
    grid = sitk.Image(30, 30, 30, sitk.sitkUInt8)
    grid.SetSpacing((4.0, 4.0, 4.0))
    field = ProbabilityField.empty([LIVER, SPLEEN], (30, 30, 30))
    probability = np.stack([1 - ball((30, 30, 30), (14, 15, 16), 6), ball((30, 30, 30), (14, 15, 16), 6)])
    field.add(probability, [LIVER], 0, np.ones(30, np.float32))
    image = sitk.Image(60, 60, 60, sitk.sitkInt16)
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetOrigin((0.7, 0.9, 0.4))  # off the grid's voxels, where half a probability would be a tie
    if direction == "sagittal":
        image = sitk.PermuteAxes(image, [1, 2, 0])
    elif direction == "flipped":
        image = sitk.Flip(image, [True, False, True])
    elif direction == "oblique":
        turn = sitk.Euler3DTransform((60, 60, 60), 0.2, 0.1, 0.3)
        image.SetDirection(turn.GetMatrix())
        image.SetOrigin(turn.TransformPoint((0, 0, 0)))
    labels = labels_on(image, grid, field, [LIVER])
    assert same_geometry(labels, image)
    index = np.argwhere(sitk.GetArrayFromImage(labels) == LIVER)[:, ::-1]
    volume = len(index) * 8.0
    assert volume == pytest.approx(ball((30, 30, 30), (14, 15, 16), 6).sum() * 64, rel=0.08)
    middle = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in index.mean(0)])
    assert np.allclose(middle, (64, 60, 56), atol=1.0)


def test_structures_that_were_not_asked_for_still_compete():
    grid = sitk.Image(10, 10, 10, sitk.sitkUInt8)
    grid.SetSpacing((4.0, 4.0, 4.0))
    field = ProbabilityField.empty([LIVER, SPLEEN], (10, 10, 10))
    p = np.zeros((3, 10, 10, 10), np.float32)
    p[1], p[2] = 0.4, 0.6
    field.add(p, [LIVER, SPLEEN], 0, np.ones(10, np.float32))
    labels = sitk.GetArrayFromImage(labels_on(grid, grid, field, [LIVER]))
    assert labels.max() == 0  # the spleen wins everywhere, and the liver must not take its place


def test_doubt_grows_with_uncertainty():
    doubts = []
    for sure in (0.95, 0.6):
        field = ProbabilityField.empty([LIVER], (12, 12, 12))
        mask = ball((12, 12, 12), (6, 6, 6), 4) * sure
        field.add(np.stack([1 - mask, mask]), [LIVER], 0, np.ones(12, np.float32))
        _, doubt = clean_field(field, 0.064)
        doubts.append(doubt[LIVER])
    assert doubts[0] == pytest.approx(0.05, abs=0.01) and doubts[1] == pytest.approx(0.4, abs=0.01)


def test_the_label_table_is_consistent():
    table = label_table()
    assert [s.value for s in table] == list(range(1, 29))  # 22 of the trunk, 6 more of head and neck
    for structure in table:
        assert kept_parts(np.zeros((2, 2, 2), bool), structure.cleanup, 1.0) is not None
        if structure.partner:
            assert structure_by_id(structure.partner).partner == structure.id
        assert f"SCT^{structure.snomed_code}^{structure.snomed_meaning}" in terminology_entry(structure)


def test_organs_of_the_sample(sample_result):
    """Volumes that any adult has, on the one real scan that every clone holds."""
    ml = {segment.id: segment.volume_ml for segment in sample_result.segments}
    assert 800 < ml["liver"] < 2200
    assert 1000 < ml["lung_left"] < 4000 and 1000 < ml["lung_right"] < 4500
    assert same_geometry(sample_result.segmentation, sample_result.volume.image)


def test_dice_on_validation_cases(shared_data):
    """The shipped networks together, on two scans of people who taught nothing: floors below what the cards say."""
    from bpr.compute.engines import open_engine
    from bpr.evaluation.report import validation_cases
    from bpr.evaluation.segmentation import dice_table, evaluate_segmentation
    from bpr.models import choose_bundles

    engine, bundles = open_engine(), choose_bundles([])
    cases = [case for case in validation_cases(shared_data) if case.id in ("rad1720_31_EQP", "udacity_jd")]
    regions = [bundle for bundle in bundles.values() if bundle.role == "region"]
    score = (bundles["score"], engine.predictor(bundles["score"]))
    table = dice_table(evaluate_segmentation(regions, score, engine.predictor, cases))
    floors = {"lung_left": 0.9, "lung_right": 0.9, "liver": 0.85, "heart": 0.85, "spleen": 0.8, "kidney_left": 0.78,
              "kidney_right": 0.75, "spine": 0.84, "aorta": 0.7, "mean": 0.7}  # fmt: skip
    assert {name: table[name].mean for name, floor in floors.items() if table[name].mean < floor} == {}
