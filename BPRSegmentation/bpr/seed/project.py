"""A SEED project: a folder of corrected cases that survives restarts, crashes and a damaged case.

PROJECT/project.json          format, starting bundle, settings
PROJECT/cases/<id>/case.json  one case's record, with its volume and segmentation beside it
PROJECT/runs/<number>/        one training: plan, checkpoint, history, comparison, the new bundle

A case is put together in a hidden folder and renamed into place; so a case is there completely or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import SimpleITK as sitk

from bpr.errors import BundleError, InputError
from bpr.models import find_bundle, sha256
from bpr.seed.case import SEGMENTATION, VOLUME, Part, SeedCase, State, read_case
from bpr.seed.files import check_free, read_image, write_image, write_json, writing
from bpr.seed.marks import Mark
from bpr.seed.segments import read_drawing
from bpr.seed.taught import table_of
from bpr.segmentation.labels import Structure, label_table
from bpr.volume import read_volume, slice_axis

RECORD = "project.json"
FORMAT = 1
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
VALIDATION_SHARE = 0.25  # of the patients, when there are at least three


@dataclass(frozen=True)
class SeedProject:
    """An open project. Cases are read from the disk each time, so there is one place for their state."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, bundle: str) -> SeedProject:
        """Make a new project that starts from ``bundle``. Raises InputError when the folder holds other things."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not empty.", "Choose a new folder, or open the project that is there.")
        with writing(folder):
            (folder / "cases").mkdir(parents=True)
            write_json(folder / RECORD, {"format": FORMAT, "bundle": bundle, "settings": {}})
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> SeedProject:
        """Open a project; remains of additions that were cut off are removed. Raises InputError when it is none."""
        project = cls(folder)
        project.record()
        for leftover in (folder / "cases").glob(".*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        return project

    def record(self) -> dict:
        """Contents of project.json. Raises InputError."""
        path = self.folder / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            good = record["format"] == FORMAT and isinstance(record["bundle"], str)
            if not good or not isinstance(record["settings"], dict):
                raise ValueError("unknown format")
        except FileNotFoundError:
            raise InputError(f"{self.folder} is no SEED project: {RECORD} is missing.",
                             "Make one with: bpr seed init PROJECT --bundle NAME.") from None  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"The project {self.folder} cannot be opened: {RECORD} is damaged ({error}).",
                             "Restore it from a copy; the cases beside it are intact.") from None  # fmt: skip
        return record

    @property
    def bundle(self) -> str:
        """Name of the bundle that training starts from."""
        return self.record()["bundle"]

    @property
    def table(self) -> tuple[Structure, ...]:
        """What a segment of a new case may stand for; organs when the project's model is not installed here."""
        try:
            return table_of(find_bundle(self.bundle))
        except BundleError:
            return label_table()

    def settings(self) -> dict:
        """Choices of the training panel that survive a restart."""
        return self.record()["settings"]

    def change(self, bundle: str | None = None, **settings) -> None:
        """Store another bundle or other settings."""
        record = self.record()
        record["bundle"] = bundle or record["bundle"]
        record["settings"] |= settings
        with writing(self.folder):
            write_json(self.folder / RECORD, record)

    def beside(self) -> list[Path]:
        """Folders of the other projects in the same folder, by name."""
        here = self.folder.absolute()
        with contextlib.suppress(OSError):
            return sorted(path.parent for path in here.parent.glob(f"*/{RECORD}") if path.parent != here)
        return []

    def case_ids(self) -> list[str]:
        """IDs of all cases, also of damaged ones."""
        folder = self.folder / "cases"
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and SAFE_ID.fullmatch(path.name))

    def case(self, identifier: str) -> SeedCase:
        """One case. Raises InputError when there is none of that name or it is damaged."""
        folder = self.folder / "cases" / identifier
        if not SAFE_ID.fullmatch(identifier) or not folder.is_dir():
            known = ", ".join(self.case_ids()) or "none"
            raise InputError(f"The project has no case {identifier!r}.", f"Cases: {known}.")
        return read_case(folder)

    def cases(self) -> tuple[list[SeedCase], list[InputError]]:
        """All cases that can be read, and one error for each that cannot."""
        good, bad = [], []
        for identifier in self.case_ids():
            try:
                good.append(self.case(identifier))
            except InputError as error:
                bad.append(error)
        return good, bad

    def add(
        self,
        volume: Path,
        segmentation: Path | None = None,
        marks: Iterable[Mark] = (),
        *,
        domain: str = "",
        patient: str = "",
        identifier: str = "",
        mapping: dict[str, str] | None = None,
        role: str = "annotator",
        part: Part = Part.UNDECIDED,
    ) -> SeedCase:
        """Add a case: copies of the volume and of the segmentation, complete or not at all.

        Args:
            segmentation: .seg.nrrd or label map; None adds a volume that waits for labels.
            marks: what is right; a case with marks is accepted, one without is new.
            identifier: made up when empty, never taken from a file's name, which may be a person's.
            mapping: see bpr.seed.segments.read_drawing.

        Raises:
            InputError: unreadable files, an empty segmentation, one that lies outside of the volume, marks outside of
                the volume, a name that is taken. OutputError: the disk is full.
        """
        marks, identifier = tuple(marks), identifier or self._free_id()
        target = self.folder / "cases" / identifier
        if not SAFE_ID.fullmatch(identifier):
            raise InputError(f"{identifier!r} cannot name a case.", "Use letters, digits, - and _ only.")
        if target.exists():
            raise InputError(f"The project has a case {identifier!r} already.", "Choose another name.")
        image = read_volume(volume).image
        for key in image.GetMetaDataKeys():  # headers can hold names
            image.EraseMetaData(key)
        count, table = image.GetSize()[slice_axis(image)], self.table
        check_marks(marks, count, table)
        partial = target.with_name(f".{identifier}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with writing(self.folder):
            try:
                partial.mkdir(parents=True)
                check_free(partial, 2 * image.GetNumberOfPixels())
                write_image(image, partial / VOLUME)
                sums, segments, name = {"volume": sha256(partial / VOLUME)}, (), ""
                if segmentation:
                    segments, name = _store_segmentation(segmentation, image, partial, mapping, table)
                    sums["segmentation"] = sha256(partial / name)
                case = SeedCase(identifier, partial, patient or identifier, domain, segments=segments, marks=marks,
                                state=State.ACCEPTED if marks else State.NEW, part=part, slices=count,
                                segmentation=name, sums=sums)  # fmt: skip
                case.changed_by(role).save()
                os.replace(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return self.case(identifier)

    def replace_segmentation(
        self, identifier: str, path: Path, role: str = "annotator", state: State = State.IN_REVIEW
    ) -> SeedCase:
        """Store a corrected segmentation; the case goes into review, its marks stay. Raises InputError, OutputError."""
        case = self.case(identifier)
        partial = case.folder.with_name(f".{identifier}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with writing(self.folder):
            try:
                partial.mkdir()
                mapping = {entry["id"]: entry["structure"] for entry in case.segments}
                volume = read_image(case.volume_path)
                segments, name = _store_segmentation(path, volume, partial, mapping, self.table)
                sums = (case.sums or {}) | {"segmentation": sha256(partial / name)}
                os.replace(partial / name, case.folder / name)
                changed = case.changed_by(role, segments=segments, segmentation=name, sums=sums, state=state)
                changed.save()
                if case.segmentation_path and case.segmentation != name:
                    case.segmentation_path.unlink()
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return changed

    def mark(self, identifier: str, marks: Iterable[Mark], role: str = "annotator", replace: bool = False) -> SeedCase:
        """Say what of a case is right, in addition to what was said; this accepts the case. Raises InputError."""
        case, marks = self.case(identifier), tuple(marks)
        if not case.segmentation:
            raise InputError(f"The case {identifier} has no segmentation yet.", "Add one before marking slices.")
        check_marks(marks, case.slices, self.table)
        kept = () if replace else tuple(mark for mark in case.marks if mark not in marks)
        changed = case.changed_by(role, marks=kept + marks, state=State.ACCEPTED if kept + marks else State.NEW)
        return self._saved(changed)

    def set_state(self, identifier: str, state: State, role: str = "annotator") -> SeedCase:
        """Exclude a case, take it back, or put it into review."""
        return self._saved(self.case(identifier).changed_by(role, state=state))

    def set_part(self, identifier: str, part: Part, role: str = "annotator") -> list[SeedCase]:
        """Put a case, and with it all cases of its patient, on one side of the split."""
        patient = self.case(identifier).patient
        return [self._saved(c.changed_by(role, part=part)) for c in self.cases()[0] if c.patient == patient]

    def split(self, again: bool = False) -> dict[str, Part]:
        """Divide undecided cases (all with ``again``) by patient; returns the side of every case that teaches."""
        side = self.planned_split(again)
        for case in self.cases()[0]:
            if case.id in side and case.part is not side[case.id]:
                self._saved(case.changed_by(case.role, part=side[case.id]))
        return side

    def planned_split(self, again: bool = False) -> dict[str, Part]:
        """What ``split`` would do.

        A quarter of the patients validates, nobody below three patients. Patients are taken in the order in which
        their cases stand in the project, so that the same project is always split alike.
        """
        cases = [case for case in self.cases()[0] if case.teaches]
        side = {c.patient: c.part for c in cases if c.part is not Part.UNDECIDED and not again}
        patients = list(dict.fromkeys(case.patient for case in cases))
        wanted = max(1, round(len(patients) * VALIDATION_SHARE)) if len(patients) >= 3 else 0
        for patient in reversed(patients):  # the latest cases validate: the first ones have most corrections
            if patient not in side:
                missing = wanted - sum(part is Part.VALIDATION for part in side.values())
                side[patient] = Part.VALIDATION if missing > 0 else Part.TRAINING
        return {case.id: side[case.patient] for case in cases}

    def remove(self, identifier: str) -> None:
        """Delete a case, also a damaged one. Raises InputError when there is none of that name."""
        if identifier not in self.case_ids():
            self.case(identifier)
        folder = self.folder / "cases" / identifier
        hidden = folder.with_name(f".{identifier}.partial")
        shutil.rmtree(hidden, ignore_errors=True)
        with writing(self.folder):
            os.replace(folder, hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def _saved(self, case: SeedCase) -> SeedCase:
        with writing(self.folder):
            case.save()
        return case

    def _free_id(self) -> str:
        taken, number = set(self.case_ids()), 1
        while f"case{number:03d}" in taken:
            number += 1
        return f"case{number:03d}"


def check_marks(marks: Iterable[Mark], count: int, table: tuple[Structure, ...]) -> None:
    """Raises InputError for slices that the volume does not have or organs that the label table does not know."""
    known = {structure.id for structure in table}
    for mark in marks:
        last = max((pair[1] for pair in mark.slices), default=0)
        if last >= count:
            raise InputError(f"Slice {last} does not exist.", f"The volume has the slices 0 to {count - 1}.")
        for organ in mark.organs:
            if organ not in known:
                raise InputError(f"There is no organ {organ!r}.", f"Organs: {', '.join(sorted(known))}.")


def _store_segmentation(
    path: Path, volume: sitk.Image, folder: Path, mapping: dict[str, str] | None, table: tuple[Structure, ...]
) -> tuple[tuple[dict, ...], str]:
    """Copy a segmentation after a look at it; returns the explicit segment map and the file's name."""
    drawing = read_drawing(path, mapping, table)
    if not any(sitk.GetArrayViewFromImage(layer).any() for layer in drawing.layers):
        raise InputError(f"{path.name} is empty: no voxel belongs to a segment.", "Draw at least one organ first.")
    if not drawing.structures:
        names = ", ".join(segment.name for segment in drawing.segments)
        raise InputError(f"No segment of {path.name} stands for a known organ or tissue ({names}).",
                         f"Give them names or terminology of {', '.join(s.id for s in table[:4])} ..., or map them "
                         "with --map.")  # fmt: skip
    if not _overlap(drawing.layers[0], volume):
        raise InputError(f"{path.name} does not lie in the volume.", "Give the segmentation of this scan.")
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    name = SEGMENTATION if drawing.outside_is_background else f"segmentation{suffix}"
    shutil.copyfile(path, folder / name)
    return tuple(asdict(segment) for segment in drawing.segments), name


def _overlap(labels: sitk.Image, volume: sitk.Image) -> bool:
    """Whether some voxel of the labels lies inside the volume."""
    body = sitk.Image(volume.GetSize(), sitk.sitkUInt8) + 1
    body.CopyInformation(volume)
    seen = sitk.GetArrayFromImage(sitk.Resample(body, labels, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    drawn = sitk.GetArrayViewFromImage(labels) != 0
    return bool((seen & drawn).any()) or not drawn.any()  # another layer may hold the voxels
