"""Which scans a batch holds: from files, folders, DICOM trees and CSV lists to one entry per scan, in a fixed order."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom

from bpr.errors import InputError, Notice
from bpr.volume.dicom import read_header
from bpr.volume.reading import ITK_SUFFIXES, NIFTI_SUFFIXES

PATH_COLUMNS = ("path", "input", "file", "volume", "image")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
KINDS = "Give volume files, folders of volumes or DICOM, or CSV lists with a column of paths."
NOT_IMAGES = (".seg.nrrd", ".csv", ".json", ".txt", ".html", ".png", ".jpg", ".xml", ".zip", ".gz", ".raw", ".pdf")


@dataclass(frozen=True)
class Scan:
    """One scan of a batch.

    ``id`` names its result folder: the file's or folder's name and a sum over its absolute path, so that the same scan
    has the same name in every later run and two files of one name do not collide.
    """

    id: str
    path: str


def find_scans(inputs: Iterable[str], out: Path) -> tuple[list[Scan], list[Notice]]:
    """All scans that the inputs name, each once.

    Args:
        inputs: volume files, DICOM files, folders that are searched with their subfolders, or CSV lists with a column
            ``path`` (paths relative to the list's own folder).
        out: the batch's own folder, which is never searched.

    Raises:
        InputError: an input does not exist, a list has no paths, or there is no scan at all.
    """
    out = Path(os.path.abspath(out))
    found: dict[str, Scan] = {}
    left_out: Counter[str] = Counter()
    for given in inputs:
        path = Path(os.path.abspath(given))
        if path.is_dir():
            places = _below(path, out, left_out)
        elif path.suffix.lower() == ".csv":
            places = _listed(path)
        elif path.exists():
            places = iter([(path, path.name)])
        else:
            raise InputError(f"{given} does not exist.", KINDS)
        for place, name in places:
            found.setdefault(str(place), Scan(scan_id(place, name), str(place)))
    if not found:
        raise InputError(f"There is no CT in {', '.join(map(str, inputs))}.",
                         KINDS)  # fmt: skip
    notices = [Notice("series_left_out", f"Left out: {count} {kind} series, which are no CT.")
               for kind, count in sorted(left_out.items())]  # fmt: skip
    return list(found.values()), notices


def scan_id(path: Path, name: str) -> str:
    """A file-name-safe name that depends on the path alone."""
    stem = name
    for suffix in (*sorted(VOLUME_SUFFIXES, key=len, reverse=True), ".dcm", ".ima", ".dicom"):
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
            break
    safe = re.sub(r"[^\w.-]+", "_", stem).strip("._")[:60] or "scan"
    return f"{safe}-{hashlib.sha256(str(path).encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _listed(path: Path) -> Iterator[tuple[Path, str]]:
    """The paths of a CSV list; a path that does not exist becomes a failed row, not an end of the batch."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path.name} cannot be read as a CSV list: {error}.", "Save it as UTF-8 text.") from None
    column = next((name for name in PATH_COLUMNS if rows and name in rows[0]), None)
    if column is None:
        raise InputError(f"{path.name} lists no scans: it has no column of paths.",
                         f"Name the column one of: {', '.join(PATH_COLUMNS)}.")  # fmt: skip
    for row in rows:
        if row[column]:
            place = Path(os.path.abspath(path.parent / row[column]))
            yield place, place.name


def _below(root: Path, out: Path, left_out: Counter[str]) -> Iterator[tuple[Path, str]]:
    """Volume files and CT series below a folder, folder by folder, without hidden ones."""
    for parent, folders, names in os.walk(root):
        folder = Path(parent)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and folder / n != out)
        files = [folder / name for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR"]
        for file in files:
            lower = file.name.lower()
            if lower.endswith(VOLUME_SUFFIXES) and not lower.endswith(NOT_IMAGES[0]):
                yield file, file.name
        rest = [file for file in files if not file.name.lower().endswith((*VOLUME_SUFFIXES, *NOT_IMAGES))]
        yield from _series_of(folder, rest, alone=not folders, left_out=left_out)


def _series_of(folder: Path, files: list[Path], alone: bool, left_out: Counter[str]) -> Iterator[tuple[Path, str]]:
    """The CT series of one folder: the folder itself when it holds a single one, else the first file of each."""
    first: dict[str, tuple[Path, str]] = {}
    for file in files:
        series, modality = _series_and_modality(file)
        if series:
            first.setdefault(series, (file, modality))
    ct = [file for file, modality in first.values() if modality == "CT"]
    left_out.update(modality for _, modality in first.values() if modality != "CT")
    if len(ct) == 1 and alone:
        yield folder, folder.name
    else:
        yield from ((file, f"{folder.name}_{file.stem}") for file in ct)


def _series_and_modality(file: Path) -> tuple[str, str]:
    """SeriesInstanceUID and modality, or empty strings for what is no DICOM image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = ["SeriesInstanceUID", "Modality", "DirectoryRecordSequence", "SOPClassUID"]
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
    except Exception:  # whatever a damaged file makes pydicom raise; one without preamble gets a second look
        header = read_header(file)
    if header is None or "SOPClassUID" not in header or "DirectoryRecordSequence" in header:
        return "", ""
    return str(header.get("SeriesInstanceUID", "")), str(header.get("Modality", "") or "unknown")
