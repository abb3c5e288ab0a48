"""Labels on the input's grid: what is skipped inside of structures must not change what interpolation would say."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from bpr.segmentation.merge import ProbabilityField
from bpr.segmentation.upsampling import LEVELS, Cells, labels_on

VALUES, SHAPE = [3, 7, 12], (9, 11, 10)  # label values, grid points along z, y, x


def a_field() -> ProbabilityField:
    """Three blurred structures that touch, overlap and leave room for background."""
    noise = np.random.default_rng(0).standard_normal((4, *SHAPE))
    logits = np.stack([ndimage.gaussian_filter(one, 1.2) * 60 for one in noise])
    probability = np.exp(logits) / np.exp(logits).sum(0)
    field = ProbabilityField.empty(VALUES, SHAPE)
    field.add(probability, VALUES, 0, np.ones(SHAPE[0], np.float32))
    return field


def a_grid() -> sitk.Image:
    grid = sitk.Image([*SHAPE[::-1]], sitk.sitkUInt8)
    grid.SetSpacing((4.0, 4.0, 4.0))
    grid.SetOrigin((-3.0, 5.0, 11.0))
    return grid


def an_image(kind: str) -> sitk.Image:
    """About the grid's box and a little more on each side, with voxels of 1.3 to 2.9 mm."""
    image = sitk.Image(36, 26, 17, sitk.sitkInt16)
    image.SetSpacing((1.3, 1.9, 2.9))
    image.SetOrigin((-6.1, 1.3, 6.7))
    if kind == "exchanged":
        image = sitk.Flip(sitk.PermuteAxes(image, [2, 0, 1]), [True, False, True])
    elif kind == "oblique":
        turn = sitk.Euler3DTransform((15, 25, 27), 0.2, 0.1, 0.3)
        image.SetDirection(turn.GetMatrix())
        image.SetOrigin(turn.TransformPoint(image.GetOrigin()))
    return image


def expected(image: sitk.Image, grid: sitk.Image, field: ProbabilityField) -> tuple[np.ndarray, np.ndarray]:
    """Labels by interpolating everything everywhere, and by how much (of LEVELS) the best class leads."""
    index = np.indices(image.GetSize()[::-1])[::-1].reshape(3, -1).T.tolist()
    points = [image.TransformContinuousIndexToPhysicalPoint(i) for i in index]
    places = np.array([grid.TransformPhysicalPointToContinuousIndex(p) for p in points]).T[::-1]
    classes = [field.background(), *(field.probability(k) for k in range(len(VALUES)))]
    told = np.stack([ndimage.map_coordinates(one * LEVELS, places, order=1, mode="nearest") for one in classes])
    inside = ((places >= -0.5) & (places <= np.array(SHAPE)[:, None] - 0.5)).all(0)
    labels = np.where(inside, np.array([0, *VALUES])[told.argmax(0)], 0)
    ordered = np.sort(told, 0)
    shape = image.GetSize()[::-1]
    return labels.reshape(shape), np.where(inside, ordered[-1] - ordered[-2], LEVELS).reshape(shape)


@pytest.mark.parametrize("kind", ("straight", "exchanged", "oblique"))
def test_labels_are_those_of_interpolating_everything(kind: str):
    field, grid, image = a_field(), a_grid(), an_image(kind)
    found = sitk.GetArrayFromImage(labels_on(image, grid, field, VALUES))
    truth, lead = expected(image, grid, field)
    assert set(np.unique(truth)) == {0, *VALUES}
    clear = lead > 2  # probabilities are rounded to whole LEVELS
    assert clear.mean() > 0.9
    assert (found == truth)[clear].all()


def test_only_cells_whose_corners_disagree_are_interpolated():
    values = np.zeros((1, 4, 2), np.float32)
    values[0, :, 0], values[0, :, 1] = (9, 9, 1, 1), (1, 1, 9, 9)
    cells = Cells.of(values)
    assert cells.winner.tolist() == [0, 255, 1, 255]
    assert cells.classes_at([np.zeros((1, 1)), np.array([[0.4, 1.4, 1.6, 2.9, 3.6]])]).tolist() == [[0, 0, 1, 1, 0]]


def test_cancelling_stops_between_slices():
    seen = []

    def advance() -> None:
        seen.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        labels_on(an_image("straight"), a_grid(), a_field(), VALUES, advance)
    assert len(seen) == 1
