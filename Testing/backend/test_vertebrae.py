"""Counting vertebrae: pictures of the spine, a spine fitted to what the network sees, centering on discs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_body_composition import curve

from bpr.body_composition.counting import (
    LEAST_FIT,
    PLACES,
    ROWS,
    ROWS_OUT,
    centered,
    find_counted_level,
    fit_spine,
    rows_around,
)
from bpr.body_composition.level import LEVELS
from bpr.body_composition.pattern import best_pattern
from bpr.body_composition.spine import STEP_MM, WIDTH, SpinePictures, spine_pictures
from bpr.phantom import make_phantom

L3, VERTEBRA = 200.0, 33.0  # the made spine's: RAS mm


def density(middle: float, period: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Density along a spine whose vertebrae's middles lie every ``period`` mm, one of them at ``middle``."""
    z = np.arange(middle - 70.3, middle + 70, step)
    distance = np.abs((z - middle) / period - np.rint((z - middle) / period))
    noise = np.random.default_rng(0).normal(0, 8, len(z))
    return z, np.where(distance > 0.43, 85, np.where(distance > 0.3, 230, 150)) + noise


def made_pictures(low: float = 0.0, high: float = 400.0) -> SpinePictures:
    """Empty pictures with the density of a spine whose L3 lies at 200 mm."""
    z = np.arange(low, high + 1, STEP_MM)
    distance = np.abs((z - L3) / VERTEBRA - np.rint((z - L3) / VERTEBRA))
    hu = np.where(distance > 0.43, 85.0, np.where(distance > 0.3, 230.0, 150.0))
    return SpinePictures(np.zeros((3, len(z), WIDTH), np.float32), z, hu)


class Oracle:
    """A network that knows the places of the rows around a guess; ``sure`` is its logits' sharpness."""

    def __init__(self, pictures: SpinePictures, guess: float, sure: float = 8.0):
        _, z_mm, _ = rows_around(pictures, guess)
        places = np.clip(LEVELS["L3"] - (z_mm - L3) / VERTEBRA, PLACES[0], PLACES[-1])
        self.logits = -sure * (PLACES[None] - places[:, None]) ** 2

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        assert batch.shape == (1, 3, ROWS, WIDTH) and batch.dtype == np.float32
        return self.logits.T[None]


@pytest.mark.parametrize("step", [2.0, 5.0])
@pytest.mark.parametrize("off", [-11.0, 0.0, 9.0])
def test_the_level_moves_to_the_middle_of_a_vertebra(step, off):
    found = best_pattern(*density(200.0, 33.0, step), 200.0 + off, 6.0)
    assert found.fit > LEAST_FIT and found.z_mm == pytest.approx(200.0, abs=3.0)


def test_noise_and_few_slices_show_no_pattern():
    z, hu = density(200.0, 33.0, 2.5)
    assert best_pattern(z, np.random.default_rng(1).normal(150, 10, len(z)), 200.0, 6.0).fit < LEAST_FIT
    assert best_pattern(z[:5], hu[:5], z[2], 6.0) is None
    flat = SpinePictures(made_pictures().image, made_pictures().z_mm, np.full(161, 100.0))
    assert centered(flat, L3) is None and centered(made_pictures(), L3 + 8).z_mm == pytest.approx(L3, abs=2)


@pytest.mark.parametrize("off", [-34.0, -12.0, 0.0, 25.0])
def test_what_the_network_is_sure_of_outweighs_the_curve(off):
    pictures = made_pictures()
    _, z_mm, inside = rows_around(pictures, L3 + off)
    log_p = Oracle(pictures, L3 + off).logits[inside]
    spine = fit_spine(z_mm[inside], log_p - np.log(np.exp(log_p).sum(1, keepdims=True)), L3 + off)
    assert spine.l3_mm == pytest.approx(L3, abs=4) and spine.chance > 0.9
    assert spine.height(LEVELS["L5"]) == pytest.approx(L3 - 2 * VERTEBRA, abs=8)
    assert spine.height(LEVELS["T12"]) == pytest.approx(L3 + 3 * VERTEBRA, abs=8)


def test_a_network_that_sees_nothing_leaves_the_curve_its_guess_and_says_so():
    spine = fit_spine(np.arange(0, 400, 5.0), np.full((80, len(PLACES)), -np.log(len(PLACES))), L3 + 20)
    assert spine.l3_mm == pytest.approx(L3 + 20, abs=1) and spine.chance < 0.75


def test_levels_are_counted_and_centered(monkeypatch):
    guess = curve()
    for name, down in (("L3", 0), ("L2", -1), ("L5", 2)):
        level, spine = find_counted_level(made_pictures(), guess, name, Oracle(made_pictures(), L3))
        assert level.name == name and level.place == "inside" and level.sd_mm < 5
        assert level.z_mm == pytest.approx(L3 - down * VERTEBRA, abs=3) and spine.chance > 0.9
    short = made_pictures(195.0, 400.0)
    assert find_counted_level(short, guess, "L3", Oracle(short, L3))[0].place == "edge"
    beyond = made_pictures(600.0, 800.0)
    assert find_counted_level(beyond, guess, "L3", Oracle(beyond, L3)) == (find_counted_level(
        beyond, guess, "L3", Oracle(beyond, L3))[0], None)  # fmt: skip


def test_rows_keep_their_heights_at_the_ends_of_a_scan():
    pictures = made_pictures()
    pictures.image[:] = np.arange(len(pictures.z_mm))[None, :, None]
    window, z_mm, inside = rows_around(pictures, 10.0)
    assert window.shape == (3, ROWS, WIDTH) and len(z_mm) == len(inside) == ROWS_OUT
    pairs = window[0, :, 0].reshape(-1, 2).mean(1)[inside]
    np.testing.assert_allclose(pairs[1:-1] * STEP_MM, z_mm[inside][1:-1], atol=STEP_MM / 2)
    assert (window[:, : ROWS // 2 - 8] == 0).all()


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(spacing_mm=(3.0, 3.0, 4.0), seed=0)


def test_pictures_show_the_spine_whatever_the_posture(phantom):
    pictures = spine_pictures(phantom.image)
    assert pictures.image.shape == (3, len(pictures.z_mm), WIDTH) and np.diff(pictures.z_mm) == pytest.approx(STEP_MM)
    lumbar = np.abs(pictures.z_mm - phantom.landmarks["l3_center"]) < 60
    column = pictures.image[0, lumbar].mean(0)
    assert column[WIDTH // 2 - 6 : WIDTH // 2 + 6].mean() > 3 * column[WIDTH // 2 + 14 : WIDTH // 2 + 24].mean()
    turned = sitk.Image(phantom.image)
    array = np.rot90(sitk.GetArrayFromImage(turned), 1, (1, 2)).copy()  # the patient lies on the side
    side = sitk.GetImageFromArray(array)
    side.SetSpacing(turned.GetSpacing())
    side.SetOrigin(turned.GetOrigin())
    again = spine_pictures(side, 3)
    assert np.corrcoef(pictures.image[:, lumbar].ravel(), again.image[:, lumbar].ravel())[0, 1] > 0.9


def test_places_between_and_beyond_landmarks():
    pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
    from bpr.body_composition.spine_training import places_of_rows

    z = np.arange(0.0, 401.0, 5.0)
    places, doubt = places_of_rows(z, {"t12_l1": 280.0, "l3_center": 200.0})
    assert np.interp([280, 240, 200, 168], z, places) == pytest.approx([0, 1.25, 2.5, 3.5], abs=0.05)
    assert (np.diff(places) < 0).all() and doubt[z == 200] == doubt.min() and doubt[0] > 3 * doubt.min()
    alone, unsure = places_of_rows(z, {"l5_s1": 150.0})
    assert np.interp([150, 184], z, alone) == pytest.approx([5, 4], abs=0.2) and unsure[-1] > doubt[-1]


def test_samples_keep_places_where_the_pictures_are():
    """Whatever the warp, the row that shows a bright disc has the disc's place."""
    pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
    from bpr.body_composition.spine_training import LabeledSpine, SpineSampler, places_of_rows
    from bpr.training.dataset import Case

    pictures = made_pictures()
    pictures.image[2, np.abs(pictures.z_mm - 280.0) < 4] = 5.0
    marks = {"t12_l1": 280.0, "l5_s1": 120.0}
    case = Case("made", "one", "open", Path("made"))
    spine = LabeledSpine(case, pictures, marks, *places_of_rows(pictures.z_mm, marks))
    sampler, seen = SpineSampler([spine]), 0
    for seed in range(30):
        image, target, weight = sampler.draw(np.random.default_rng(seed))
        rows = image[2].mean(1).reshape(ROWS_OUT, 2).mean(1)
        if rows.max() > 1.0 and weight[rows.argmax()] > 0:
            seen += 1
            assert target[rows.argmax()] @ PLACES == pytest.approx(0, abs=0.35)
    assert seen > 10


def test_l3_of_a_person_whose_curve_misses_it_by_most_of_a_vertebra(shared_data):
    """A scan that taught neither network: the curve is 20 mm or more off, the count is not."""
    from bpr.body_composition.job import VERTEBRAE, composition_bundles
    from bpr.body_composition.level import find_level
    from bpr.compute.engines import open_engine
    from bpr.models import choose_bundles
    from bpr.scoring.inference import score_volume
    from bpr.volume import read_volume

    engine, bundles = open_engine(), choose_bundles([])
    volume = read_volume(shared_data / "ct" / "rad1211_10_AP.nii.gz")
    score = score_volume(volume, bundles["score"], engine.predictor(bundles["score"]))
    count = engine.predictor(composition_bundles([])[VERTEBRAE])
    level, spine = find_counted_level(spine_pictures(volume.image), score, "L3", count)
    true = 249.0 + volume.image.GetOrigin()[2]
    assert abs(find_level(score, "L3").z_mm - true) > 12 and level.z_mm == pytest.approx(true, abs=10)
    assert spine.chance > 0.9
