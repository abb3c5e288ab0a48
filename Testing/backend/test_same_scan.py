"""One scan stored in several ways is one scan: the same scores, the same organs, on the grid that was given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from bad_inputs import write_dicom
from volume_samples import saved

from bpr.job import JobRequest, run_job
from bpr.results.summary import RunResult
from bpr.volume import same_geometry

PRODUCTS = ("scores", "segmentation")
REGIONS = ["upper abdomen"]  # one network is enough to compare
BIG_ML = 100.0  # organs above this must agree one by one; the small ones count in the sum


@dataclass(frozen=True)
class Stored:
    """One way to store the scan.

    Attributes:
        write: from an empty folder and the scan to the path of what is stored.
        image: from the scan to the image that is stored, as ITK should read it.
        back: from a point of the stored scan's space to the scan's space.
    """

    write: Callable[[Path, sitk.Image], Path]
    image: Callable[[sitk.Image], sitk.Image]
    back: sitk.Transform


def moved(ct: sitk.Image) -> sitk.Image:
    """Another origin, not by whole voxels."""
    ct = sitk.Image(ct)
    ct.SetOrigin([a + b for a, b in zip(ct.GetOrigin(), MOVE, strict=True)])
    return ct


def about_z(degrees: float) -> sitk.Euler3DTransform:
    """Rotation about the superior axis through the origin."""
    return sitk.Euler3DTransform((0, 0, 0), 0, 0, np.deg2rad(degrees))


def turned(ct: sitk.Image, degrees: float) -> sitk.Image:
    """The patient turned about the long axis, by the header alone: as lying on the side or face down looks."""
    turn, ct = about_z(degrees), sitk.Image(ct)
    ct.SetOrigin(turn.TransformPoint(ct.GetOrigin()))
    ct.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(ct.GetDirection(), (3, 3))).ravel().tolist())
    return ct


def oblique(ct: sitk.Image) -> sitk.Image:
    """Resampled to a finer grid whose axes are 10 degrees oblique; the body stays where it is."""
    middle = ct.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in ct.GetSize()])
    turn, spacing = sitk.Euler3DTransform(middle, 0, 0, np.deg2rad(10)), (2.0, 2.0, ct.GetSpacing()[2])
    size = [int(np.ceil(n * a / b)) for n, a, b in zip(ct.GetSize(), ct.GetSpacing(), spacing, strict=True)]
    corner = turn.TransformPoint(ct.GetOrigin())
    return sitk.Resample(ct, size, sitk.Transform(), sitk.sitkBSpline, corner, spacing, turn.GetMatrix(), -1024,
                         ct.GetPixelID())  # fmt: skip


def as_file(file: str, change: Callable[[sitk.Image], sitk.Image]) -> Callable[[Path, sitk.Image], Path]:
    return lambda folder, ct: saved(change(ct), folder / file)


def variant(file: str, change: Callable[[sitk.Image], sitk.Image], back: sitk.Transform | None = None):
    return Stored(as_file(file, change), change, back or sitk.Transform())


MOVE = (37.3, -1201.9, 815.45)
STORED = {
    "NRRD, axes exchanged": variant("a.nrrd", lambda ct: sitk.PermuteAxes(ct, (2, 0, 1))),
    "MHA, all axes flipped": variant("a.mha", lambda ct: ct[::-1, ::-1, ::-1]),
    "MHD, moved": variant("a.mhd", moved, sitk.TranslationTransform(3, [-shift for shift in MOVE])),
    "NIfTI, sagittal and flipped": variant("a.nii.gz", lambda ct: sitk.PermuteAxes(ct, (1, 2, 0))[:, ::-1, :]),
    "DICOM": Stored(lambda folder, ct: write_dicom(folder / "series", ct), lambda ct: ct, sitk.Transform()),
    "NIfTI, on the left side": variant("l.nii.gz", lambda ct: turned(ct, 90), about_z(-90)),
    "NIfTI, face down": variant("f.nii.gz", lambda ct: turned(ct, 180), about_z(180)),
}  # fmt: skip


@pytest.fixture(scope="module")
def scan(sample_ct: Path) -> sitk.Image:
    """The sample without every second column and row, so that each run takes seconds."""
    return sitk.ReadImage(str(sample_ct))[::2, ::2, :]


def run(path: Path, folder: Path, regions: list[str] | None = None) -> RunResult:
    return run_job(JobRequest(str(path), str(folder), PRODUCTS, regions))


@pytest.fixture(scope="module")
def original(scan: sitk.Image, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The run that all others are compared with."""
    folder = tmp_path_factory.mktemp("original")
    return run(saved(scan, folder / "ct.nii.gz"), folder / "out", REGIONS)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 * overlap / sum of two masks."""
    return 2.0 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0)


@pytest.mark.parametrize("name", STORED)
def test_the_same_scan_gives_the_same_result(tmp_path, scan, original, name):
    stored = STORED[name]
    result = run(stored.write(tmp_path, scan), tmp_path / "out", REGIONS)
    labels = sitk.ReadImage(str(tmp_path / "out" / "segmentation.seg.nrrd"))
    assert same_geometry(labels, stored.image(scan), 1e-4)

    heights = [stored.back.TransformPoint((0.0, 0.0, float(z)))[2] for z in result.curve.z_mm]
    order = np.argsort(original.curve.z_mm)
    expected = np.interp(heights, original.curve.z_mm[order], original.curve.cleaned[order])
    assert len(heights) == scan.GetSize()[2]
    assert np.abs(result.curve.cleaned - expected).max() < 1.0
    back = sitk.Resample(labels, original.segmentation, stored.back.GetInverse(), sitk.sitkNearestNeighbor)
    compare(back, original, least_together=0.98, least_each=0.98)


def test_an_oblique_scan_gives_nearly_the_same_result(tmp_path, sample_ct, sample_result):
    """Other voxels of the same body: what differs is the interpolation. Measured: 0.98 together, aorta 0.95."""
    result = run(saved(oblique(sitk.ReadImage(str(sample_ct))), tmp_path / "o.nii.gz"), tmp_path / "out")
    expected = np.interp(result.curve.z_mm, sample_result.curve.z_mm, sample_result.curve.cleaned)
    assert np.abs(result.curve.cleaned - expected).max() < 1.0
    back = sitk.Resample(result.segmentation, sample_result.segmentation, sitk.Transform(), sitk.sitkNearestNeighbor)
    compare(back, sample_result, least_together=0.97, least_each=0.93)


def compare(labels: sitk.Image, original: RunResult, least_together: float, least_each: float) -> None:
    """Dice of all segments together, and of each that is larger than BIG_ML."""
    found, true = sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(original.segmentation)
    agree = 2.0 * float(((found == true) & (true > 0)).sum()) / float((found > 0).sum() + (true > 0).sum())
    assert agree > least_together
    big = [segment for segment in original.segments if segment.volume_ml > BIG_ML]
    assert len(big) >= 4
    for segment in big:
        assert dice(found == segment.value, true == segment.value) > least_each, segment
