"""A folder of DICOM: which slices it holds, which series is the CT to read, and what is left out."""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from bpr.errors import InputError, Notice
from bpr.volume.checks import FEWEST_SLICES, plural
from bpr.volume.intensity import NOT_CT

_NO_PREAMBLE_SUFFIXES = ("", ".dcm", ".ima", ".dicom")
_AXIAL_WITHIN = 0.8  # cosine between the slices' normal and superior; gantries tilt up to 30 degrees
_PROJECTIONS = {"MIP", "MINIP", "MIN_IP", "PROJECTION IMAGE"}
_SAME_PLACE_MM = 0.02


@dataclass(frozen=True)
class Frame:
    """One axial picture: a file, or one frame of a multi-frame file. Millimetres, LPS.

    ``orientation`` has the directions of a row's columns and of a column's rows; ``spacing`` is (x, y), so (along a
    row, along a column); ``slope`` and ``intercept`` lead to Hounsfield units.
    """

    path: Path
    index: int
    series: str
    acquisition: int
    instance: int
    image_type: tuple[str, ...]
    size: tuple[int, int]  # columns, rows
    spacing: tuple[float, float]
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    slope: float
    intercept: float
    syntax: UID

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the slice, right-handed with its rows and columns."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return normal / np.linalg.norm(normal)

    @property
    def height(self) -> float:
        """Position along the normal, mm."""
        return float(self.normal @ self.position)


class FolderContent:
    """What the files hold: frames of the wanted modality, and counts of everything else."""

    def __init__(self, modality: str = "CT") -> None:
        self.modality = modality
        self.frames: list[Frame] = []
        self.others: Counter[str] = Counter()  # what else -> number of files
        self.modalities: set[str] = set()
        self.unreadable = 0


def scan(paths: Iterable[Path], modality: str = "CT") -> FolderContent:
    """Read the headers of all files; what is not a slice of that modality is counted, never an error."""
    content = FolderContent(modality)
    for path in paths:
        header = read_header(path)
        if header is None:
            content.unreadable += 1
        elif "SOPClassUID" in header and "DirectoryRecordSequence" not in header:
            _add(content, header, path)
    return content


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder and its subfolders in a fixed order, without hidden ones."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR")


def read_header(path: Path) -> Dataset | None:
    """The header without pixels, or None for what is no readable DICOM file."""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
        has_preamble = start[128:] == b"DICM"
        bare = path.suffix.lower() in _NO_PREAMBLE_SUFFIXES and start[:2] in (b"\x08\x00", b"\x02\x00")
        if not has_preamble and not bare:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, force=bare, stop_before_pixels=True)
            header.get("Modality")  # elements are decoded when they are asked for: a damaged one raises here
            return header if "SOPClassUID" in header or "DirectoryRecordSequence" in header else None
    except Exception:  # whatever a damaged file makes pydicom raise: the file is skipped and counted
        return None


def _add(content: FolderContent, header: Dataset, path: Path) -> None:
    """Sort one DICOM file into the content."""
    modality = str(header.get("Modality", "") or "no modality")
    content.modalities.add(modality)
    if modality != content.modality:
        content.others[modality] += 1
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = list(_frames(header, path))
    except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError):
        frames = []
    if not frames:
        content.others[f"{modality} without a position in space"] += 1
    elif any("LOCALIZER" in part or "SCOUT" in part for part in frames[0].image_type):
        content.others["scout"] += 1
    else:
        content.frames.extend(frames)


def _frames(header: Dataset, path: Path) -> Iterator[Frame]:
    """The gray pictures of one file, with their place; raises AttributeError and the like where that is missing."""
    if int(header.get("SamplesPerPixel", 1)) != 1:
        return
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
    if int(header.get("NumberOfFrames", 1) or 1) != len(per_frame):
        return
    for index, own in enumerate(per_frame):
        orientation = _macro("PlaneOrientationSequence", own, shared, header).ImageOrientationPatient
        position = _macro("PlanePositionSequence", own, shared, header).ImagePositionPatient
        rows_mm, columns_mm = _macro("PixelMeasuresSequence", own, shared, header).PixelSpacing
        values = _macro("PixelValueTransformationSequence", own, shared, header)
        frame = Frame(
            path=path,
            index=index,
            series=str(header.SeriesInstanceUID),
            acquisition=int(header.get("AcquisitionNumber") or 0),
            instance=int(header.get("InstanceNumber") or 0),
            image_type=tuple(str(part).upper() for part in header.get("ImageType") or ()),
            size=(int(header.Columns), int(header.Rows)),
            spacing=(float(columns_mm), float(rows_mm)),
            orientation=tuple(float(value) for value in orientation),
            position=tuple(float(value) for value in position),
            slope=float(_or(values.get("RescaleSlope"), 1)),
            intercept=float(_or(values.get("RescaleIntercept"), 0)),
            syntax=UID(header.file_meta.TransferSyntaxUID) if "TransferSyntaxUID" in header.file_meta else UID(""),
        )
        numbers = (*frame.orientation, *frame.position, *frame.spacing, frame.slope, frame.intercept)
        if not np.isfinite(numbers).all() or not np.isfinite(frame.normal).all() or len(frame.position) != 3:
            raise ValueError("geometry that is not a number")
        yield frame


def _macro(name: str, own: Dataset, shared: Dataset, header: Dataset) -> Dataset:
    """Where a functional group of an enhanced file stands; a classic file has the same fields at its top."""
    for place in (own, shared):
        if place.get(name):
            return place[name].value[0]
    return header


def _or(value: object, default: float) -> object:
    return default if value is None or value == "" else value


def choose_series(
    content: FolderContent, name: str, only_series: str | None = None
) -> tuple[list[Frame], list[Notice]]:
    """The axial series with the most slices, sorted along its normal, and notices on what is left out.

    Slices belong together when series, orientation, size and pixel spacing agree.

    Args:
        content: what ``scan`` found.
        name: the folder or file, for messages.
        only_series: SeriesInstanceUID, when one file was chosen and its series is wanted.

    Raises:
        InputError: no DICOM, nothing of the modality, or fewer than three slices in the longest series.
    """
    if not content.frames:
        raise _nothing_usable(content, name)
    groups: dict[tuple, list[Frame]] = defaultdict(list)
    for frame in content.frames:
        groups[_group_key(frame)].append(frame)
    candidates = [frames for frames in groups.values() if only_series in (None, frames[0].series)]
    if not candidates:
        kind = content.modality
        raise InputError(f"{name} belongs to no {kind} series with positions in space.",
                         f"Choose a slice of an axial {kind}.")  # fmt: skip
    stacks = [(without_duplicates(frames), frames) for frames in candidates]
    slices, chosen = max(stacks, key=lambda stack: _rank(stack[0]))
    if len(slices) < FEWEST_SLICES:
        raise InputError(
            f"{name} has fewer than {FEWEST_SLICES} slices: its longest {content.modality} series has "
            f"{plural(len(slices), 'slice')}.",
            f"Choose the folder with the whole {content.modality} series.",
        )
    notices = _left_out(content, groups.values(), chosen, name)
    if len(slices) < len(chosen):
        count = plural(len(chosen) - len(slices), "slice")
        notices.append(Notice("duplicates_dropped", f"{name}: {count} at the same position as another left out."))
    return slices, notices


def _group_key(frame: Frame) -> tuple:
    orientation = tuple(np.round(frame.orientation, 3) + 0.0)
    return frame.series, orientation, frame.size, tuple(np.round(frame.spacing, 4))


def _rank(slices: list[Frame]) -> tuple:
    """Enough slices, axial, no projection, most slices, original: what makes a series the better one."""
    first = slices[0]
    return (
        len(slices) >= FEWEST_SLICES,
        abs(first.normal[2]) > _AXIAL_WITHIN,
        not _PROJECTIONS.intersection(first.image_type),
        len(slices),
        "ORIGINAL" in first.image_type,
    )


def without_duplicates(frames: list[Frame]) -> list[Frame]:
    """One frame for each position, sorted along the normal.

    Where a series repeats positions (phases, copies), one acquisition that covers all of them is taken whole;
    else the lowest instance number wins.
    """
    everything = _one_per_position(frames)
    if len(everything) == len(frames):
        return everything
    for acquisition in sorted({frame.acquisition for frame in frames}):
        one = _one_per_position([frame for frame in frames if frame.acquisition == acquisition])
        if len(one) == len(everything):
            return one
    return everything


def _one_per_position(frames: list[Frame]) -> list[Frame]:
    kept: list[Frame] = []
    normal = frames[0].normal  # the frames' own differ by rounding
    for frame in sorted(frames, key=lambda f: (round(float(normal @ f.position), 2), f.instance, str(f.path), f.index)):
        if not kept or float(normal @ frame.position) - float(normal @ kept[-1].position) > _SAME_PLACE_MM:
            kept.append(frame)
    return kept


def _left_out(content: FolderContent, groups: Iterable[list[Frame]], chosen: list[Frame], name: str) -> list[Notice]:
    """What else lies there: other series, other kinds of DICOM, files that are not DICOM or damaged."""
    kind = content.modality
    parts = [f"a {kind} series of {plural(len(frames), 'slice')}" for frames in groups if frames is not chosen]
    parts += [plural(count, f"{kind} file") for kind, count in sorted(content.others.items())]
    notices = []
    if parts:
        notices.append(Notice("series_left_out", f"{name}: left out {', '.join(parts)}."))
    if content.unreadable:
        count = plural(content.unreadable, "file")
        notices.append(Notice("files_skipped", f"{name}: skipped {count} that cannot be read as DICOM."))
    return notices


def _nothing_usable(content: FolderContent, name: str) -> InputError:
    wanted = content.modality
    if not content.modalities:
        return InputError(f"{name} holds no DICOM images.", f"Choose the folder with the {wanted}'s DICOM files.")
    kinds = ", ".join(sorted(content.modalities))
    if wanted in content.modalities:
        what = ", ".join(plural(count, f"{kind} file") for kind, count in sorted(content.others.items()))
        return InputError(f"{name} holds no {wanted} slices, only {what}.",
                          f"Choose the folder with the axial {wanted} series.")  # fmt: skip
    return InputError(f"{name} holds no {wanted} but {kinds}.", other_modality(wanted))


def other_modality(wanted: str) -> str:
    """What to do when DICOM says another modality than the wanted one."""
    if wanted == "CT":
        return NOT_CT
    return f"The chosen model is for {wanted}: choose {wanted} images, or a model of the modality that you have."
