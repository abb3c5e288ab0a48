"""The scanner: places the person on a grid, adds table, blur and noise, and stores it in the wished orientation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from bpr.phantom.abdomen import paint_abdomen
from bpr.phantom.canvas import Canvas
from bpr.phantom.envelope import paint_envelope
from bpr.phantom.head import paint_head
from bpr.phantom.pelvis import paint_pelvis
from bpr.phantom.plan import HIGHEST, LOWEST, BodyPlan, make_plan
from bpr.phantom.skeleton import paint_skeleton
from bpr.phantom.thorax import paint_thorax

CENTER_Y = -22.0  # middle of the field of view, mm in front of the spine
TABLE_Y = 110.0
POINT_SPREAD_MM = 0.9


@dataclass
class Phantom:
    """A scan of a made-up person.

    Attributes:
        image: int16 HU.
        labels: uint8 on the same grid, values of ``Resources/Anatomy/labels.csv``.
        landmarks: name -> RAS superior mm, also of those outside the scan.
        z_range_mm: RAS superior mm of the lowest and highest slice before any tilt of the grid.
    """

    image: sitk.Image
    labels: sitk.Image
    landmarks: dict[str, float]
    z_range_mm: tuple[float, float]
    plan: BodyPlan = field(repr=False)

    @property
    def landmarks_in_scan(self) -> dict[str, float]:
        """The landmarks that the scan covers."""
        low, high = self.z_range_mm
        return {name: z for name, z in self.landmarks.items() if low <= z <= high}


def make_phantom(
    height_mm: float | None = None,
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0),
    coverage: tuple[str | float | None, str | float | None] = (None, None),
    arms: str = "up",
    noise_hu: float = 12.0,
    table: bool = True,
    contrast: float = 0.5,
    orientation: str = "LPS",
    tilt_deg: tuple[float, float, float] = (0.0, 0.0, 0.0),
    position_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    field_of_view_mm: tuple[float, float] = (384.0, 300.0),
    seed: int = 0,
) -> Phantom:
    """Make a phantom CT; the same arguments give the same voxels.

    Args:
        height_mm: body height; None draws it (seed 0: 1720, the mean body).
        spacing_mm: x, y, z spacing of the axial grid before ``orientation`` permutes it.
        coverage: lower and upper end of the scan: a landmark's name, mm above T12/L1, or None for mid thigh and above
            the vertex.
        arms: "up", "down" or "none".
        noise_hu: standard deviation of the noise; texture shrinks with it, 0 gives smooth tissue.
        contrast: 0 native .. 1 fully enhanced vessels and organs.
        orientation: axis codes in which the voxels are stored, as ``sitk.DICOMOrient`` takes them ("LPS" is axial and
            head up in index order, "LPI" feet up, "PIL" sagittal); the physical content stays.
        tilt_deg: rotation of the grid about x, y and z (the person stays): an oblique acquisition.
        position_mm: LPS position of the body's origin (middle of the spine at T12/L1).
        field_of_view_mm: size in x and y.

    Raises:
        ValueError: for an unknown ``arms`` or landmark, or an empty coverage.
    """
    if arms not in ("up", "down", "none"):
        raise ValueError(f"arms must be up, down or none, not {arms!r}.")
    plan = make_plan(height_mm, arms, contrast, seed)
    x, y, z = _axes(plan, spacing_mm, coverage, field_of_view_mm)
    canvas = Canvas(x / plan.across, y / plan.across, plan.to_reference(z))
    paint_body(canvas, plan)
    if table:
        _table(canvas)
    hu = _expose(canvas.hu, spacing_mm, noise_hu, np.random.default_rng([seed, 22]))
    images = []
    for array in (hu, canvas.labels):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(step) for step in spacing_mm])
        image.SetOrigin([float(axis[0] + shift) for axis, shift in zip((x, y, z), position_mm, strict=True)])
        images.append(image)
    image, labels = _store(*images, orientation, tilt_deg)
    landmarks = {name: height + position_mm[2] for name, height in plan.landmarks().items()}
    return Phantom(image, labels, landmarks, (float(z[0] + position_mm[2]), float(z[-1] + position_mm[2])), plan)


def paint_body(canvas: Canvas, plan: BodyPlan) -> None:
    """Paint the person, outside in: what comes later lies over what came before."""
    paint_envelope(canvas, plan)
    paint_thorax(canvas, plan)
    paint_abdomen(canvas, plan)
    paint_head(canvas, plan)
    paint_pelvis(canvas, plan)
    paint_skeleton(canvas, plan)


def _axes(plan: BodyPlan, spacing: tuple, coverage: tuple, view: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxel centers along x, y, z in mm from T12/L1. The z grid is anchored at T12/L1: crops keep their slices."""
    ends = []
    for end, default in zip(coverage, (LOWEST, HIGHEST), strict=True):
        if isinstance(end, str):
            if end not in plan.bones and end not in plan.organs:
                raise ValueError(f"There is no landmark {end!r}; there are {', '.join([*plan.bones, *plan.organs])}.")
            end = plan.to_person(plan.at(end))
        ends.append(float(plan.to_person(default) if end is None else end))
    first, last = int(np.ceil(ends[0] / spacing[2] - 1e-6)), int(np.floor(ends[1] / spacing[2] + 1e-6))
    if last < first:
        raise ValueError(f"The coverage {coverage} holds no slice.")
    nx, ny = (max(1, round(size / step)) for size, step in zip(view, spacing[:2], strict=True))
    x = (np.arange(nx) - (nx - 1) / 2) * spacing[0]
    y = (np.arange(ny) - (ny - 1) / 2) * spacing[1] + CENTER_Y
    return x, y, np.arange(first, last + 1) * spacing[2]


def _table(canvas: Canvas) -> None:
    """A curved table top: carbon skin, foam inside; only where air is."""
    y, x = canvas.y[:, None], canvas.x[None, :]
    top = TABLE_Y - 0.00045 * x**2
    inside = np.abs(x) < 185
    for low, high, hu in ((0, 22, -930), (0, 3, 40), (19, 22, 40)):
        layer = inside & (y >= top + low) & (y < top + high)
        plane = canvas.hu[:, layer]
        canvas.hu[:, layer] = np.where(plane <= -900, hu, plane)


def _expose(hu: np.ndarray, spacing: tuple, noise_hu: float, rng: np.random.Generator) -> np.ndarray:
    """Blur by the scanner's point spread, add texture and noise; int16."""
    for axis, step in zip((2, 1, 0), spacing, strict=True):
        gaussian_filter1d(
            hu, max(POINT_SPREAD_MM, 0.42 * step) / step, axis=axis, output=hu, mode="nearest", truncate=2.5
        )
    if noise_hu > 0:
        white = rng.standard_normal(hu.shape, dtype=np.float32)
        coarse = gaussian_filter(white, [2.5 / step for step in reversed(spacing)], truncate=2.5)
        coarse *= min(noise_hu, 8.0) / max(float(coarse.std()), 1e-6)
        gaussian_filter1d(white, 0.5, axis=2, output=white, truncate=2.5)
        white *= noise_hu / float(white.std())
        hu += white + coarse * (hu > -700)
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


def _store(image: sitk.Image, labels: sitk.Image, orientation: str, tilt_deg: tuple) -> tuple[sitk.Image, sitk.Image]:
    """Resample to a tilted grid about the volume's center when asked, then permute and flip the axes."""
    if any(tilt_deg):
        size = np.array(image.GetSize())
        center = np.array(image.TransformContinuousIndexToPhysicalPoint(((size - 1) / 2).tolist()))
        turn = sitk.Euler3DTransform((0, 0, 0), *np.deg2rad(tilt_deg).tolist())
        direction = np.array(turn.GetMatrix()).reshape(3, 3)
        origin = center - direction @ ((size - 1) / 2 * np.array(image.GetSpacing()))
        grid = (
            image.GetSize(),
            sitk.Transform(),
            sitk.sitkLinear,
            origin.tolist(),
            image.GetSpacing(),
            direction.ravel().tolist(),
        )
        image = sitk.Resample(image, *grid, -1000)
        labels = sitk.Resample(labels, *grid[:2], sitk.sitkNearestNeighbor, *grid[3:], 0)
    if orientation != "LPS" and not any(tilt_deg):
        return sitk.DICOMOrient(image, orientation), sitk.DICOMOrient(labels, orientation)
    if orientation != "LPS":
        raise ValueError("A tilted grid is stored as LPS; tilt or reorient, not both.")
    return image, labels
