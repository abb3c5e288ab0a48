"""Axes, heights and the canonical grid: the same patient gives the same grid, however the scan is stored."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from volume_samples import ORIGIN, SPACING, trunk

from bpr.volume import canonical, canonical_array, same_geometry, slice_axis, slice_heights
from bpr.volume.geometry import orthogonalize

STORAGES = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def stored(image: sitk.Image, order: tuple[int, ...], steps: tuple[int, ...]) -> sitk.Image:
    """The same image in space with its axes permuted and flipped in the file."""
    image = sitk.PermuteAxes(image, order)
    return image[:: steps[0], :: steps[1], :: steps[2]]


def rotated(image: sitk.Image, *angles: float) -> sitk.Image:
    image = sitk.Image(image)
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix())
    return image


def blank(size: tuple[int, int, int] = (60, 50, 40), spacing: tuple[float, float, float] = (1, 1, 1)) -> sitk.Image:
    """An empty image on a plain grid, to be turned and filled."""
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetOrigin((-20.0, -10.0, 5.0))
    return image


def fill_with_waves(image: sitk.Image) -> sitk.Image:
    """A smooth function of physical coordinates on the image's grid, so that interpolation hardly matters."""
    filled = sitk.GetImageFromArray(waves(points_of(image)).astype(np.float32))
    filled.CopyInformation(image)
    return filled


def waves(points: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(points, -1, 0)
    return 200 * np.sin(x / 15) + 150 * np.cos(y / 12 + 1) + 3 * z


def points_of(image: sitk.Image) -> np.ndarray:
    index = np.indices(image.GetSize()[::-1])[::-1].reshape(3, -1)
    direction = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return ((direction @ index).T + image.GetOrigin()).reshape(*image.GetSize()[::-1], 3)


@pytest.mark.parametrize(("order", "steps"), STORAGES)
def test_canonical_does_not_depend_on_storage(order, steps):
    reference = canonical(trunk(), (3, 3, 3))
    result = canonical(stored(trunk(), order, steps), (3, 3, 3))
    assert same_geometry(result, reference)
    assert np.abs(sitk.GetArrayFromImage(result) - sitk.GetArrayFromImage(reference)).max() < 0.01


def test_canonical_axes_are_the_patients():
    result = canonical(stored(trunk(), (2, 0, 1), (-1, 1, -1)), (2, 2, 4))
    assert result.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    array = sitk.GetArrayFromImage(result)  # z towards the head, y towards the back, x towards the left
    lung = np.argwhere(array < -700)
    inner = lung[(lung[:, 1] > 8) & (lung[:, 1] < 16) & (lung[:, 2] > 9) & (lung[:, 2] < 19)]
    assert inner[:, 0].min() >= 4, "the lung is in the upper slices only"
    spine = np.argwhere(array > 300)
    assert spine[:, 1].mean() > array.shape[1] / 2, "the spine is behind"
    marker = np.argwhere((array[:3] > 120) & (array[:3] < 250))
    assert marker[:, 2].mean() > array.shape[2] / 2, "the marker is on the left"


def test_canonical_on_its_own_grid_changes_nothing():
    result = canonical(trunk(), SPACING)
    assert same_geometry(result, trunk())
    assert np.abs(sitk.GetArrayFromImage(result) - sitk.GetArrayFromImage(trunk())).max() < 1e-2


@pytest.mark.parametrize("target", [(3, 3, 3), (0.7, 0.9, 1.1), (2, 5, 1.5)])
@pytest.mark.parametrize("angles", [(0, 0, 0), (0.2, -0.1, 0.3)])
def test_canonical_puts_values_where_they_belong(target, angles):
    image = fill_with_waves(rotated(blank(), *angles))
    result = canonical(image, target)
    assert result.GetPixelID() == sitk.sitkFloat32
    array, truth = sitk.GetArrayFromImage(result), waves(points_of(result))
    points = points_of(result).reshape(-1, 3)[::13].tolist()
    index = np.array([image.TransformPhysicalPointToContinuousIndex(point) for point in points])
    inside = ((index > 6) & (index < np.array(image.GetSize()) - 7)).all(1)
    error = np.abs(array - truth).ravel()[::13][inside]
    assert inside.sum() > 50 and error.max() < 16, "the waves are 700 high; smoothing takes a little of them"


def test_canonical_covers_the_image_and_fills_outside():
    tilted = canonical(rotated(trunk() * 0 + 40, 0.3, 0, 0), (2, 2, 2), fill=-777)
    array = sitk.GetArrayFromImage(tilted)
    assert set(np.unique(array.round())) == {-777, 40}
    volume = float((array > 0).sum()) * 8
    assert volume == pytest.approx(np.prod(trunk().GetSize()) * np.prod(SPACING), rel=0.06)
    straight = canonical(trunk(), (3.1, 3.3, 2.9))
    low = np.array(straight.GetOrigin()) - np.array(straight.GetSpacing()) / 2
    high = low + np.array(straight.GetSize()) * straight.GetSpacing()
    first = np.array(ORIGIN) - np.array(SPACING) / 2
    assert (low <= first + 0.01).all() and (high >= first + np.array(trunk().GetSize()) * SPACING - 0.01).all()


@pytest.mark.parametrize("angles", [(0, 0, 0), (0, 0, 0.2)])
def test_canonical_does_not_alias(angles):
    """Noise finer than the target's voxels is averaged out (interpolation alone leaves a third of it)."""
    noise = np.random.default_rng(5).normal(0, 100, (48, 64, 64)).astype(np.float32)
    array = sitk.GetArrayFromImage(canonical(rotated(sitk.GetImageFromArray(noise), *angles), (4, 4, 4), fill=0))
    assert 2 < array[2:-2, 4:-4, 4:-4].std() < 12


def test_slight_tilt_gives_nearly_the_straight_result():
    reference = sitk.GetArrayFromImage(canonical(trunk(), (3, 3, 3)))
    slight = sitk.GetArrayFromImage(canonical(rotated(trunk(), 1e-4, 1e-4, 1e-4), (3, 3, 3)))
    assert slight.shape == reference.shape
    assert np.abs(slight - reference).max() < 1


@pytest.mark.parametrize(("order", "steps"), STORAGES[::5])
def test_slice_axis_and_heights(order, steps):
    image = stored(trunk(), order, steps)
    axis = slice_axis(image)
    assert image.GetSize()[axis] == 12
    heights = slice_heights(image)
    expected = ORIGIN[2] + SPACING[2] * np.arange(12)
    assert np.allclose(np.sort(heights), expected)
    index = [0, 0, 0]
    index[axis] = 3
    assert heights[3] == pytest.approx(image.TransformIndexToPhysicalPoint(index)[2])


def test_heights_of_an_oblique_scan_are_those_of_the_slice_centers():
    image = rotated(trunk(), 0.3, 0.1, 0.2)
    center = [(n - 1) / 2 for n in image.GetSize()]
    for k in (0, 5, 11):
        point = image.TransformContinuousIndexToPhysicalPoint([center[0], center[1], k])
        assert slice_heights(image)[k] == pytest.approx(point[2])


def test_same_geometry_sees_every_difference():
    def changed(change) -> sitk.Image:
        image = trunk()
        change(image)
        return image

    assert same_geometry(trunk(), changed(lambda i: i.SetOrigin(np.add(ORIGIN, 5e-5).tolist())))
    assert not same_geometry(trunk(), changed(lambda i: i.SetOrigin(np.add(ORIGIN, 2e-4).tolist())))
    assert not same_geometry(trunk(), changed(lambda i: i.SetSpacing((2.5, 2.0, 4.0001))))
    assert not same_geometry(trunk(), rotated(trunk(), 1e-4, 0, 0))
    assert not same_geometry(trunk(), trunk()[:, :, 1:])
    assert not same_geometry(trunk(), trunk()[::-1])


def test_orthogonalize_keeps_places_of_a_sheared_image():
    sheared = blank((40, 40, 20), (1, 1, 2))
    axes = np.array([[1, 0, 0.2], [0, 1, -0.3], [0, 0, 1]])
    sheared.SetDirection((axes / np.linalg.norm(axes, axis=0)).ravel().tolist())
    filled = fill_with_waves(sheared)
    result = orthogonalize(filled, fill=-1)
    assert np.allclose(np.reshape(result.GetDirection(), (3, 3)), np.eye(3))
    assert result.GetSize()[2] == 20 and result.GetSpacing()[2] == pytest.approx(2 / np.linalg.norm([0.2, -0.3, 1]))
    array, truth = sitk.GetArrayFromImage(result), waves(points_of(result))
    inside = array != -1
    assert inside.mean() > 0.6
    assert np.quantile(np.abs(array - truth)[inside], 0.95) < 3
    assert orthogonalize(trunk()).GetSize() == trunk().GetSize()


@pytest.mark.parametrize("angle", (0.0, 0.3))
def test_limits_cut_and_truncate_what_the_canonical_image_holds(angle: float):
    image = rotated(trunk(), angle, 0, 0)
    whole = canonical(image, (3.1, 3.3, 2.9))
    array, origin = canonical_array(image, (3.1, 3.3, 2.9), limits=(-500, 40))
    assert array.dtype == np.int16 and origin == pytest.approx(whole.GetOrigin())
    assert (array == np.clip(sitk.GetArrayFromImage(whole), -500, 40).astype(np.int16)).all()
    assert array.min() == -500 and array.max() == 40
