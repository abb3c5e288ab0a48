"""Between corrected slices: the model where it is right, the drawing where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from bpr.seed.between import corrected, fill_between, model_share, signed_distance

SHAPE, SPACING = (41, 60, 60), (3.0, 2.0, 2.0)
LIVER, SPLEEN = 6, 7


def ball(center=(20, 30, 30), radius: float = 40.0) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return sum(((axis - c) * s) ** 2 for axis, c, s in zip(axes, center, SPACING, strict=True)) < radius**2


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def marked(apart: int) -> np.ndarray:
    chosen = np.zeros(SHAPE[0], bool)
    chosen[::apart] = True
    return chosen


def filled(model: np.ndarray, truth: np.ndarray, apart: int) -> np.ndarray:
    labels = np.where(model, LIVER, 0).astype(np.uint8)
    return fill_between(labels, np.where(truth, LIVER, 0).astype(np.uint8), {LIVER: marked(apart)}, SPACING) == LIVER


def test_without_a_model_it_is_interpolation_and_with_a_good_one_it_is_better():
    truth = ball()
    alone, both = filled(np.zeros(SHAPE, bool), truth, 10), filled(truth, truth, 10)
    assert 0.85 < dice(alone, truth) < 0.97 and dice(both, truth) > 0.99


def test_a_model_that_is_off_is_moved():
    """The model's ball lies 6 mm to the side: two corrected slices in ten mend the others."""
    truth, model = ball(), ball((20, 30, 33))
    assert dice(filled(model, truth, 5), truth) > dice(model, truth) + 0.05


def test_a_model_that_knows_nothing_is_not_believed():
    """Random slices: the drawn slices themselves say that the model's differences mean nothing."""
    rng = np.random.default_rng(0)
    model = np.zeros(SHAPE, bool)
    for plane in model:
        row, column = rng.integers(0, 40, 2)
        plane[row : row + 20, column : column + 20] = True
    planes = np.flatnonzero(marked(4))
    distances = [np.stack([signed_distance(mask[k], SPACING[1:]) for k in planes]) for mask in (model, ball())]
    assert model_share(*distances, planes) < 0.2
    assert dice(filled(model, ball(), 4), ball()) > 0.9


def test_what_nobody_marked_and_what_is_far_from_marks_stays():
    truth, model = ball(), ball((20, 30, 33))
    labels = np.where(model, LIVER, 0).astype(np.uint8)
    labels[:, :5, :5] = SPLEEN
    only = np.zeros(SHAPE[0], bool)
    only[30] = True
    found = fill_between(labels, np.where(truth, LIVER, 0).astype(np.uint8), {LIVER: only}, SPACING)
    assert (found == SPLEEN).sum() == (labels == SPLEEN).sum()
    assert np.array_equal(found[:20] == LIVER, model[:20]), "more than 25 mm away"
    assert (found[29] != labels[29]).any()


def test_an_organ_that_is_absent_in_the_marked_slices_vanishes_between_them():
    model = np.zeros(SHAPE, bool)
    model[18:23, 28:32, 28:32] = True
    assert not filled(model, np.zeros(SHAPE, bool), 10)[:40].any()


def test_nothing_at_all_and_full_planes_are_no_trouble():
    nothing = np.zeros(SHAPE, bool)
    box, distance = corrected(nothing, nothing, np.array([3]), SPACING)
    assert distance.shape[1:] == (0, 0) and nothing[box].size == 0
    assert signed_distance(np.ones((4, 4), bool), (1, 1)).min() == 30
    assert signed_distance(np.zeros((4, 4), bool), (1, 1)).max() == -30
    half = signed_distance(np.arange(8)[None] + np.zeros((4, 1)) >= 4, (1.0, 1.0))
    assert half[0].tolist() == pytest.approx([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
