"""The training data folder: cases, splits, landmarks, labels. Its layout is described in docs/training.md.

Expected: ``cases.csv`` (id, patient, use), ``ct/<id>.nii.gz``, ``landmarks.csv``, ``ct_labels/<id>.nii.gz`` with
``<id>.json``, ``hn/`` with its own ``cases.csv`` and ``landmarks.csv``.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

from bpr.errors import InputError
from bpr.training.ruler import Observation

HEAD_AND_NECK = {1: "brainstem", 2: "spinal_cord", 3: "parotid_right", 4: "parotid_left", 5: "esophagus", 6: "larynx",
                 7: "mandible"}  # fmt: skip
PARTIAL = ["spinal_cord", "esophagus"]  # contoured along a part of their length in the head-and-neck scans
SAMPLE_ID = "c3n00249"  # travels with the project and stays out of every training and validation set


@dataclass(frozen=True)
class Case:
    """One scan of the data folder. ``use`` is "open" or "restricted"; splits go by ``patient``.

    ``hint`` says what the labels are worth: IDs of the structures that are "labelled", "absent", and (of some) labelled
    only along a part of their length ("partial"). ``values`` names the structure of each of the label file's values;
    None when they are the label table's.
    """

    id: str
    patient: str
    use: str
    path: Path
    labels: Path | None = None
    hint: dict | None = None
    values: dict[int, str] | None = None


def data_folder(configured: str | None) -> Path:
    """The data folder named in a configuration, else by the environment variable BPR_DATA. Raises InputError."""
    place = os.environ.get("BPR_DATA") or configured
    if not place or not (Path(place) / "cases.csv").is_file():
        raise InputError(
            f"No training data at {place or '(not set)'}: cases.csv is missing there.",
            "Set BPR_DATA to the data folder; docs/training.md describes its layout.",
        )
    return Path(place)


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def trunk_cases(folder: Path) -> list[Case]:
    """All CT scans of trunk, head and neck except the sample."""
    cases = []
    for row in _rows(folder / "cases.csv"):
        if row["id"] == SAMPLE_ID:
            continue
        labels = folder / "ct_labels" / f"{row['id']}.nii.gz"
        hint = json.loads(labels.with_name(f"{row['id']}.json").read_text()) if labels.exists() else None
        image = folder / "ct" / f"{row['id']}.nii.gz"
        cases.append(Case(row["id"], row["patient"], row["use"], image, labels if hint else None, hint))
    return cases


def head_and_neck_cases(folder: Path, long_only: bool = True, split: str | None = None) -> list[Case]:
    """The radiotherapy head-and-neck scans (masked to the body); the long ones reach the upper thorax.

    ``split`` chooses "train" or "validation" of their source, None both.
    """
    cases = []
    for row in _rows(folder / "hn" / "cases.csv"):
        if (long_only and row["long_scan"] != "1") or split not in (None, row["split"]):
            continue
        name, stem = f"hn_{row['id']}", folder / "hn" / row["id"]
        hint = {"labelled": [HEAD_AND_NECK[int(v)] for v in row["labels"].split()], "absent": [], "partial": PARTIAL}
        cases.append(Case(name, name, "open", stem.with_name(f"{row['id']}_ct.nii.gz"),
                          stem.with_name(f"{row['id']}_seg.nii.gz"), hint, HEAD_AND_NECK))  # fmt: skip
    return cases


def landmark_observations(folder: Path) -> list[Observation]:
    """Landmarks of trunk and head-and-neck scans; z is mm from the first slice of the file."""
    found = []
    for prefix, path in (("", folder / "landmarks.csv"), ("hn_", folder / "hn" / "landmarks.csv")):
        for row in _rows(path):
            z, doubt = float(row["z_mm_from_first_slice"]), float(row["uncertainty_mm"])
            found.append(Observation(prefix + row["volume"], row["landmark"], row["kind"], z, doubt))
    return [o for o in found if o.scan != SAMPLE_ID]


def first_slice_height(path: Path) -> float:
    """RAS superior mm of the first slice of a file whose slices are axial and grow towards the head."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader.GetOrigin()[2]
