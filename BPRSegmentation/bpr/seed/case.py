"""One SEED case: a volume, what a person corrected in it, which of it is right, and its state in the project."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from bpr.errors import InputError
from bpr.seed.files import write_json
from bpr.seed.marks import Mark

RECORD, VOLUME, SEGMENTATION = "case.json", "volume.nrrd", "segmentation.seg.nrrd"


class State(Enum):
    """Where a case is on its way; only accepted cases teach."""

    NEW = "new"
    IN_REVIEW = "in review"
    ACCEPTED = "accepted"
    EXCLUDED = "excluded"


class Part(Enum):
    """What a case is for; all cases of a patient are on one side. UNDECIDED cases are split when training starts."""

    UNDECIDED = ""
    TRAINING = "training"
    VALIDATION = "validation"


@dataclass(frozen=True)
class SeedCase:
    """The record of a case. ``folder`` holds case.json, volume.nrrd and the segmentation.

    Attributes:
        patient: a pseudonym; splits go by it. domain: scanner, protocol, modality.
        segments: the explicit map, one entry a segment: id, name, layer, label, structure ("" teaches nothing).
        marks: what of the case is right. role, changed: who last changed it, by role, and the day.
        segmentation: the file's name; absent for a volume that waits for labels.
        sums: SHA-256 of volume and segmentation when they were stored or last accepted.
    """

    id: str
    folder: Path
    patient: str
    domain: str
    state: State = State.NEW
    part: Part = Part.UNDECIDED
    segments: tuple[dict, ...] = ()
    marks: tuple[Mark, ...] = ()
    role: str = "annotator"
    changed: str = ""
    slices: int = 0
    segmentation: str = ""
    sums: dict | None = None

    @property
    def volume_path(self) -> Path:
        """The stored CT."""
        return self.folder / VOLUME

    @property
    def segmentation_path(self) -> Path | None:
        """The stored segmentation, or None for a volume without labels."""
        return self.folder / self.segmentation if self.segmentation else None

    @property
    def structures(self) -> tuple[str, ...]:
        """IDs of the structures that have a segment."""
        return tuple(entry["structure"] for entry in self.segments if entry["structure"])

    @property
    def teaches(self) -> bool:
        """Whether the case has something that training may use."""
        return self.state is State.ACCEPTED and bool(self.marks) and bool(self.segmentation)

    def changed_by(self, role: str, **changes) -> SeedCase:
        """The same case with changes, who made them and the day."""
        return replace(self, role=role, changed=time.strftime("%Y-%m-%d"), **changes)

    def save(self) -> None:
        """Write case.json."""
        record = {name: value for name, value in asdict(self).items() if name != "folder"}
        record |= {"state": self.state.value, "part": self.part.value, "marks": [mark.to_json() for mark in self.marks]}
        write_json(self.folder / RECORD, record)


def read_case(folder: Path) -> SeedCase:
    """Read a case's record and look whether its files are there.

    Raises:
        InputError: naming the case, when the record is damaged or a file is missing.
    """
    advice = "Delete the case and add it again; the other cases are not affected."
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        marks = tuple(Mark.from_json(mark) for mark in record["marks"])
        segments = tuple(dict(entry) for entry in record["segments"])
        if any(not isinstance(entry["structure"], str) or "id" not in entry for entry in segments):
            raise ValueError("segments")
        names = ("patient", "domain", "role", "changed", "segmentation")
        texts = {name: str(record[name]) for name in names}
        if texts["segmentation"] and Path(texts["segmentation"]).name != texts["segmentation"]:
            raise ValueError("segmentation")
        case = SeedCase(id=folder.name, folder=folder, state=State(record["state"]), part=Part(record["part"]),
                        marks=marks, segments=segments, slices=int(record["slices"]), sums=dict(record["sums"] or {}),
                        **texts)  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"The case {folder.name} is damaged: {RECORD} cannot be read ({error}).", advice) from None
    for path in (case.volume_path, case.segmentation_path):
        if path and not path.is_file():
            raise InputError(f"The case {folder.name} is damaged: {path.name} is missing.", advice)
    return case
