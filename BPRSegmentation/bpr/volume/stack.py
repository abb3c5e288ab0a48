"""From DICOM slices to one image: pixels in Hounsfield units, distances made even, gantry tilt taken out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import UID

from bpr.errors import InputError, Notice
from bpr.volume.checks import FEWEST_SLICES, check_size, check_spacing, is_whole, plural
from bpr.volume.dicom import Frame
from bpr.volume.geometry import AIR, is_orthogonal, orthogonalize, resample
from bpr.volume.quiet import captured_stderr

_MISSING_FROM = 1.8  # a gap of so many median distances means that slices are missing
_LARGEST_FILLED_GAP_MM = 15.0
_STACK_SHARE = 0.6  # the gap-free part must hold so many of the slices
_OFF_LINE_PIXELS = 0.1


def read_stack(frames: list[Frame], name: str, hounsfield: bool = True) -> tuple[sitk.Image, list[Notice]]:
    """Read sorted frames of one series into an image with even slice distance and orthogonal axes.

    Args:
        frames: sorted along their common normal, one for each position.
        name: the folder, for messages.
        hounsfield: whether values are Hounsfield units, which fit int16 and are -1024 where nothing was measured.

    Returns:
        An int16 or float32 image, slices along its third axis, and notices.

    Raises:
        InputError: pixels that cannot be decoded, gaps too large to fill.
    """
    check_spacing(frames[0].spacing, name)
    check_size((*frames[0].size, len(frames)), 4, name)
    frames, voxels, notices = _read_voxels(frames, name, hounsfield)
    normal = frames[0].normal
    positions = np.array([frame.position for frame in frames])
    start, stop, gap_notices = _longest_part(positions @ normal, name)
    positions, voxels = positions[start:stop], voxels[start:stop]
    check_size((*frames[0].size, len(positions)), 4, name)
    positions = _onto_line(positions, voxels, frames[0], AIR if hounsfield else float(voxels.min()))
    voxels, positions, even_notices = _evened(voxels, positions, normal, name)
    notices += gap_notices + even_notices
    image = sitk.GetImageFromArray(voxels)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    distance = float(np.linalg.norm(step))
    rows, columns = np.reshape(frames[0].orientation, (2, 3))
    axes = np.stack([rows, columns, step / distance], 1)
    if is_orthogonal(axes):
        axes[:, 2] = normal
        distance = float(step @ normal)
    image.SetSpacing([*frames[0].spacing, distance])
    image.SetDirection((axes / np.linalg.norm(axes, axis=0)).ravel().tolist())
    image.SetOrigin(positions[0].tolist())
    check_spacing(image.GetSpacing(), name)
    return image, notices


def straightened(image: sitk.Image, name: str, fill: float = AIR) -> tuple[sitk.Image, list[Notice]]:
    """The image on orthogonal axes, with a notice when it had to be resampled (gantry tilt or a sheared matrix)."""
    axes = np.reshape(image.GetDirection(), (3, 3))
    if is_orthogonal(axes):
        return image, []
    normal = np.cross(axes[:, 0], axes[:, 1])
    cosine = min(1.0, abs(axes[:, 2] @ normal) / np.linalg.norm(normal))
    angle = np.degrees(np.arccos(cosine))
    text = f"{name} has slices that are tilted by {angle:.1f} degrees (gantry tilt); it was resampled without the tilt."
    return orthogonalize(image, fill), [Notice("gantry_tilt", text)]


def _read_voxels(frames: list[Frame], name: str, hounsfield: bool) -> tuple[list[Frame], np.ndarray, list[Notice]]:
    """Decode all frames; damaged ones are dropped with a notice. Array (slices, rows, columns) of rescaled values."""
    whole = all(is_whole(frame.slope) and is_whole(frame.intercept) for frame in frames)
    columns, rows = frames[0].size
    voxels = np.empty((len(frames), rows, columns), np.int16 if whole and hounsfield else np.float32)
    kept: list[Frame] = []
    open_file: tuple[Path | None, np.ndarray | None] = (None, None)
    for frame in frames:
        if open_file[0] != frame.path:
            open_file = (frame.path, _decoded(frame, name))
        pictures = open_file[1]
        if pictures is None or frame.index >= len(pictures) or pictures.shape[1:] != (rows, columns):
            continue
        values = pictures[frame.index]
        if values.dtype.kind in "iu" and whole:
            values = values.astype(np.int64) * int(frame.slope) + int(frame.intercept)
        elif values.dtype != np.float64:
            values = values * np.float32(frame.slope) + np.float32(frame.intercept)
        voxels[len(kept)] = np.clip(values, -32768, 32767) if hounsfield else values
        kept.append(frame)
    if len(kept) < FEWEST_SLICES:
        raise InputError(
            f"{name} has only {plural(len(kept), 'slice')} whose pixels can be read, of {len(frames)}.",
            "Copy or export the series again.",
        )
    notices = []
    if len(kept) < len(frames):
        count = plural(len(frames) - len(kept), "damaged slice")
        notices.append(Notice("files_skipped", f"{name}: skipped {count} without readable pixels."))
    return kept, voxels[: len(kept)], notices


def _decoded(frame: Frame, name: str) -> np.ndarray | None:
    """All pictures of a frame's file (frames, rows, columns): stored values, or float64 when already in HU.

    None for a damaged file. pydicom decodes what it has decoders for, the GDCM inside SimpleITK some of the rest.

    Raises:
        InputError: no decoder for the file's transfer syntax.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(frame.path, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
            pixels = dataset.pixel_array
        return pixels.reshape(-1, *pixels.shape[-2:])
    except Exception:  # pydicom raises a different class for each kind of damage and for missing decoders
        if not _is_compressed(frame.syntax):
            return None
    pixels = _decoded_by_itk(frame)
    if pixels is None and not _has_decoder(frame.syntax):
        raise InputError(
            f"{name} is compressed as {frame.syntax.name} (transfer syntax {frame.syntax}), for which no decoder is "
            "installed.",
            "Install pylibjpeg with pylibjpeg-libjpeg and pylibjpeg-openjpeg, or decompress with dcmdjpeg.",
        )
    return pixels


def _guessed_syntax(dataset: pydicom.Dataset) -> UID:
    """What pydicom found the encoding of a file without meta header to be."""
    return pydicom.uid.ImplicitVRLittleEndian if dataset.original_encoding[0] else pydicom.uid.ExplicitVRLittleEndian


def _is_compressed(syntax: UID) -> bool:
    return syntax.is_transfer_syntax and syntax.is_compressed


def _has_decoder(syntax: UID) -> bool:
    try:
        return pydicom.pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _decoded_by_itk(frame: Frame) -> np.ndarray | None:
    """Hounsfield units as float64, decoded by GDCM; None where it cannot."""
    with captured_stderr():
        try:
            image = sitk.ReadImage(str(frame.path), sitk.sitkFloat64)
        except RuntimeError:
            return None
    pixels = sitk.GetArrayFromImage(image)
    return pixels.reshape(-1, *pixels.shape[-2:])


def _longest_part(heights: np.ndarray, name: str) -> tuple[int, int, list[Notice]]:
    """First and past-last index of the longest part whose gaps can be filled.

    Raises:
        InputError: a large gap leaves less than 60 % of the slices together.
    """
    gaps = np.diff(heights)
    median = float(np.median(gaps))
    cuts = np.flatnonzero((gaps >= _MISSING_FROM * median) & (gaps > _LARGEST_FILLED_GAP_MM)) + 1
    edges = [0, *cuts.tolist(), len(heights)]
    start, stop = max(zip(edges, edges[1:], strict=False), key=lambda part: part[1] - part[0])
    if not len(cuts):
        return 0, len(heights), []
    text = f"{name} lacks slices: a gap of {gaps.max():.1f} mm where slices are {median:.2f} mm apart"
    if stop - start < max(FEWEST_SLICES, _STACK_SHARE * len(heights)):
        raise InputError(f"{text}.", "Export the series again, complete.")
    left = plural(len(heights) - (stop - start), "slice")
    return start, stop, [Notice("stack_cut", f"{text}; {left} beyond it left out.")]


def _onto_line(positions: np.ndarray, voxels: np.ndarray, frame: Frame, fill: float) -> np.ndarray:
    """Shift slices, in place, whose corner is off the straight line through the others; returns the line's points.

    A constant drift (gantry tilt) is the line itself and stays.
    """
    rows = np.array(frame.orientation[:3]) / np.linalg.norm(frame.orientation[:3])
    axes = np.stack([rows, np.cross(frame.normal, rows)])
    heights, places = positions @ frame.normal, positions @ axes.T  # (slices,), (slices, 2) mm in the plane
    tolerance = _OFF_LINE_PIXELS * np.array(frame.spacing)
    expected = _straight_line(heights, places, tolerance)
    off = places - expected
    for index in np.flatnonzero((np.abs(off) > tolerance).any(1)):
        picture = sitk.GetImageFromArray(voxels[index : index + 1])
        picture.SetSpacing([*frame.spacing, 1.0])
        picture.SetOrigin([*off[index], 0.0])
        size, spacing = np.array(picture.GetSize()), np.array(picture.GetSpacing())
        voxels[index] = sitk.GetArrayFromImage(resample(picture, size, spacing, np.zeros(3), np.eye(3), fill))[0]
    return np.outer(heights, frame.normal) + expected @ axes


def _straight_line(heights: np.ndarray, places: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """Where the corners would lie on one line: the place most share, else the median of all slopes between pairs.

    Medians, because a few slices reconstructed about another center must not bend the line.
    """
    common = np.sort(places, axis=0)[len(places) // 2]
    if (np.abs(places - common) <= tolerance).all(1).mean() >= 0.5:
        return np.broadcast_to(common, places.shape)
    low, high = np.triu_indices(len(heights), 1)
    slope = np.median((places[high] - places[low]) / (heights[high] - heights[low])[:, None], axis=0)
    return np.median(places - heights[:, None] * slope, axis=0) + heights[:, None] * slope


def _evened(
    voxels: np.ndarray, positions: np.ndarray, normal: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, list[Notice]]:
    """Slices at even distances (the median one), interpolated linearly between the true ones where they are not."""
    heights = positions @ normal
    gaps = np.diff(heights)
    even = np.linspace(heights[0], heights[-1], len(heights))
    median = float(np.median(gaps))
    if np.abs(heights - even).max() <= min(0.1 * median, 0.25):
        return voxels, positions, []
    if gaps.max() >= _MISSING_FROM * median:
        code = "missing_slices"
        places = plural(int((gaps >= _MISSING_FROM * median).sum()), "place")
        text = f"{places} where slices are missing, with gaps up to {gaps.max():.2f} mm"
    else:
        code, text = "uneven_spacing", f"slices from {gaps.min():.2f} to {gaps.max():.2f} mm apart"
    notice = Notice(code, f"{name} has {text}; it was interpolated to every {median:.2f} mm.")
    count = int(np.floor((heights[-1] - heights[0]) / median + 1e-3)) + 1
    targets = heights[0] + np.arange(count) * median
    below = np.clip(np.searchsorted(heights, targets, side="right") - 1, 0, len(heights) - 2)
    share = np.clip((targets - heights[below]) / gaps[below], 0, 1).astype(np.float32)
    result = np.empty((count, *voxels.shape[1:]), voxels.dtype)
    for index, (lower, part) in enumerate(zip(below, share, strict=True)):
        mixed = voxels[lower] * (1 - part) + voxels[lower + 1] * part
        result[index] = np.rint(mixed) if voxels.dtype.kind == "i" else mixed
    new_positions = positions[below] + share[:, None] * (positions[below + 1] - positions[below])
    return result, new_positions, [notice]
