"""Hounsfield units: every CT is taken, shifted ones are mended, and what is no CT is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_samples import array_file, codes, trunk_array, voxels

from bpr.errors import InputError
from bpr.volume import read_volume
from bpr.volume.intensity import check_hu


def test_padding_below_air_is_lifted(tmp_path):
    array = trunk_array()
    array[:, :3] = -3024
    volume = read_volume(array_file(tmp_path / "a.nrrd", array))
    assert voxels(volume.image).min() == -1024
    assert np.array_equal(voxels(volume.image)[:, 3:], trunk_array()[:, 3:])
    assert volume.notices == []


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_shift_of_1024_is_taken_off(tmp_path, kind):
    volume = read_volume(array_file(tmp_path / "a.nrrd", (trunk_array() + 1024).astype(kind)))
    assert codes(volume) == ["hu_shifted"]
    assert "+1024" in volume.notices[0].message
    assert np.array_equal(voxels(volume.image), trunk_array())


def test_subtracting_1024_twice_is_undone(tmp_path):
    volume = read_volume(array_file(tmp_path / "a.nrrd", trunk_array() - 1024))
    assert codes(volume) == ["hu_shifted"]
    assert np.array_equal(voxels(volume.image), np.maximum(trunk_array(), -1024))


@pytest.mark.parametrize("step", [4, 16])
def test_coarse_steps_crops_and_windows_are_still_ct(step):
    coarse = trunk_array() // step * step
    assert check_hu(sitk.GetImageFromArray(coarse))[1] == []
    within = coarse[:4, 6:22, 8:28]  # no air at all
    assert within.min() > -500
    assert check_hu(sitk.GetImageFromArray(within))[1] == []
    clipped = np.clip(trunk_array(), -160, 240)
    assert [notice.code for notice in check_hu(sitk.GetImageFromArray(clipped))[1]] == ["intensity_clipped"]


def real(folder: Path, pattern: str, every: int) -> list[Path]:
    files = sorted(folder.glob(pattern))[::every]
    assert files, f"nothing in {folder}"
    return files


def thinned(path: Path) -> sitk.Image:
    """A third of the voxels along each axis: enough for intensities, and quick."""
    image = sitk.ReadImage(str(path))
    image = image[..., 0] if image.GetDimension() == 4 else image
    return image[::3, ::3, ::2]


def test_real_ct_is_taken_shifted_or_not(shared_data):
    for path in real(shared_data / "ct", "*.nii.gz", 2) + real(shared_data / "hn", "*_ct.nii.gz", 10):
        image = thinned(path)
        assert check_hu(image)[1] == [], path.name
        shifted, notices = check_hu(sitk.Cast(image + 1024, sitk.sitkUInt16))
        assert [notice.code for notice in notices] == ["hu_shifted"], path.name
        assert np.array_equal(voxels(shifted), voxels(image)), path.name


def test_real_mr_is_refused(shared_data):
    for path in real(shared_data / "mr", "*.*", 1) + real(shared_data / "mr_hippocampus", "*_mr.nii.gz", 6):
        with pytest.raises(InputError, match="Hounsfield|CT"):
            check_hu(thinned(path))
