"""A project as one zip file, and back. Nothing in an archive of a stranger is believed before it has been looked at."""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
from pathlib import Path

from bpr.errors import InputError, OutputError
from bpr.seed.files import check_free, writing
from bpr.seed.project import RECORD, SeedProject

MEMBER = re.compile(
    r"project\.json|cases/[A-Za-z0-9][A-Za-z0-9_-]{0,63}/"
    r"(?:case\.json|volume\.nrrd|segmentation(?:\.seg)?\.(?:nrrd|nii|nii\.gz|mha|mhd))"
)
LARGEST_BYTES = 64 * 2**30
LARGEST_RECORD = 2**20  # bytes of a JSON record
LARGEST_RATIO = 1000  # of unpacked to packed size: images do not shrink further
MOST_MEMBERS = 100_000
CHUNK = 1 << 20


def export_project(project: SeedProject, target: Path) -> Path:
    """Write project.json and all intact cases as a zip; trainings and caches stay behind.

    Raises:
        InputError: the target exists. OutputError: it cannot be written.
    """
    if target.exists():
        raise InputError(f"{target} exists already.", "Choose another name, or delete it.")
    partial = target.with_name(f".{target.name}.partial")
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:  # images are packed already
                file.write(project.folder / RECORD, RECORD)
                for case in project.cases()[0]:
                    for path in (case.folder / "case.json", case.volume_path, case.segmentation_path):
                        if path:
                            file.write(path, f"cases/{case.id}/{path.name}")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def import_project(archive: Path, folder: Path) -> SeedProject:
    """Unpack an exported project into a new folder, complete or not at all.

    Raises:
        InputError: no zip, paths that lead outside, links, members that no project has, sizes that cannot be, a
            damaged case, or a folder that is not empty. OutputError: the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty.", "Choose a new folder for the project.")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(folder.parent):
        try:
            partial.mkdir(parents=True)
            _unpack(archive, partial)
            project = SeedProject(partial)
            project.record()
            (partial / "cases").mkdir(exist_ok=True)
            for identifier in project.case_ids():
                project.case(identifier)
            if folder.exists():
                folder.rmdir()
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return SeedProject.open(folder)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as file:
            members = _checked(file.infolist(), archive.name)
            check_free(folder, sum(member.file_size for member in members))
            for member in members:
                _copy(file, member, folder / member.filename, archive.name)
    except FileNotFoundError:
        raise InputError(f"There is no file {archive}.", "Check the path.") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise InputError(f"{archive.name} is no intact zip file ({error}).", "Export the project again.") from None


def _checked(members: list[zipfile.ZipInfo], name: str) -> list[zipfile.ZipInfo]:
    """The files of an archive, after a look at what they claim to be."""
    files = [member for member in members if not member.is_dir()]
    advice = "Do not use it; export the project again."
    if len(members) > MOST_MEMBERS or sum(member.file_size for member in files) > LARGEST_BYTES:
        raise InputError(f"The archive {name} is larger than any project can be.", advice)
    seen = set()
    for member in files:
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"The archive {name} contains a link ({member.filename}).", advice)
        if not MEMBER.fullmatch(member.filename):
            raise InputError(f"The archive {name} holds a file that no project has: {member.filename[:80]!r}.", advice)
        if member.flag_bits & 1:
            raise InputError(f"The archive {name} is encrypted.", "Export the project without a password.")
        if member.filename in seen:
            raise InputError(f"The archive {name} holds {member.filename} twice.", advice)
        large_record = member.filename.endswith(".json") and member.file_size > LARGEST_RECORD
        if large_record or member.file_size > LARGEST_RATIO * max(member.compress_size, 1):
            raise InputError(f"The archive {name} unpacks {member.filename} to a size that cannot be.", advice)
        seen.add(member.filename)
    if RECORD not in seen:
        raise InputError(f"The archive {name} is no SEED project: {RECORD} is missing.", "Choose an exported project.")
    return files


def _copy(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, name: str) -> None:
    """Unpack one member, and not a byte more than it says it has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with file.open(member) as source, open(target, "wb") as out:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > member.file_size:
                raise OutputError(f"The archive {name} unpacks to more than it says.", "Do not use it.")
            out.write(chunk)
