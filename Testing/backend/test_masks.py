"""Templates of labeled people: placed by the ruler, never with a person's own mask in them."""

from __future__ import annotations

import numpy as np
import pytest

from bpr.masks import Atlas, LabeledPerson, Placement, binary, body_middles

SHAPE = (16, 24, 20)
STEP_MM = 4.0


def placement(first_mm: float = 0.0, step_mm: float = 4.0, middle=(11.5, 9.5)) -> Placement:
    return Placement(first_mm + step_mm * np.arange(SHAPE[0]), np.tile(middle, (SHAPE[0], 1)), STEP_MM, SHAPE)


def person(name: str, box: tuple[slice, slice, slice], place: Placement | None = None, known=slice(None)):
    masks, drawn = np.zeros((1, *SHAPE), bool), np.zeros((1, SHAPE[0]), bool)
    masks[(0, *box)] = True
    drawn[0, known] = True
    return LabeledPerson(name, masks, drawn, place or placement())


BOX = (slice(4, 9), slice(8, 15), slice(6, 13))


def test_a_mask_comes_back_where_it_was():
    atlas = Atlas.of([person("a", BOX)], placement())
    found = atlas.placed(placement())[0]
    assert np.allclose(found, person("a", BOX).masks[0]) and np.array_equal(binary(found[None])[0], found)


def test_a_mask_follows_the_ruler_and_the_middle():
    """The scan lies 8 mm higher on the ruler (two slices), and its body three rows and one column further."""
    atlas = Atlas.of([person("a", BOX)], placement())
    found = atlas.placed(placement(first_mm=8.0, middle=(14.5, 10.5)))[0]
    wanted = np.zeros(SHAPE)
    wanted[2:7, 11:18, 7:14] = 1
    assert np.allclose(found, wanted, atol=1e-3)


def test_a_taller_person_gets_a_taller_mask():
    atlas = Atlas.of([person("a", BOX)], placement())
    found = atlas.placed(placement(step_mm=2.0))[0]  # half a ruler step in each slice
    assert found.max((1, 2)).round().sum() == pytest.approx(9, abs=1)


def test_who_teaches_is_left_out():
    other = (slice(10, 14), slice(2, 6), slice(2, 6))
    atlas = Atlas.of([person("a", BOX), person("b", other)], placement())
    assert np.allclose(atlas.without("a").placed(placement())[0], person("b", other).masks[0], atol=1e-3)
    assert np.allclose(atlas.placed(placement()).max(), 0.5)
    assert not atlas.without("a").without("b").placed(placement()).any()
    with pytest.raises(KeyError):
        atlas.without("c")
    with pytest.raises(ValueError, match="at least one"):
        Atlas.of([], placement())


def test_slices_that_were_not_drawn_do_not_count_as_absence():
    """b was drawn in the upper slices only: below, the template is a's alone."""
    half = person("b", (slice(8, 9), slice(8, 15), slice(6, 13)), known=slice(8, None))
    found = Atlas.of([person("a", BOX), half], placement()).placed(placement())[0]
    assert np.allclose(found[4:8, 10, 8], 1) and np.allclose(found[8, 10, 8], 1) and not found[9:].any()


def test_a_binary_mask_is_as_large_as_people_are():
    """Four thin organs side by side: no voxel has a majority, the mask still has the size of one of them."""
    people = [person(str(k), (slice(2, 12), slice(5 + k, 6 + k), slice(6, 8))) for k in range(4)]
    share = Atlas.of(people, placement()).placed(placement())
    assert share.max() == pytest.approx(0.25) and (share >= 0.5).sum() == 0
    assert 20 <= binary(share).sum() <= 80
    assert not binary(np.zeros_like(share)).any()


def test_every_slice_has_its_own_middle():
    hu = np.full(SHAPE, -1000.0)
    for z in range(SHAPE[0]):
        hu[z, 4 + z // 2 : 10 + z // 2, 5:11] = 0
    middles = body_middles(hu, STEP_MM)
    assert np.allclose(middles[:, 1], 7.5) and middles[-1, 0] - middles[0, 0] > 4
    assert np.allclose(body_middles(np.full(SHAPE, -1000.0), STEP_MM), (11.5, 9.5))
