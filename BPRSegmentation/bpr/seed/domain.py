"""The domain of a scan: modality, scanner and protocol from DICOM tags that hold no names."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

TAGS = ("Modality", "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "KVP", "SliceThickness")
UNITS = {"KVP": "kV", "SliceThickness": "mm"}
LONGEST = 100


def domain_of(path: Path) -> str:
    """Words for the scanner and protocol of a DICOM file or folder; "" for other formats."""
    files = sorted(file for file in path.iterdir() if file.is_file())[:20] if path.is_dir() else [path]
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
        except (InvalidDicomError, OSError):
            continue
        if header.get("Modality"):
            return domain_words({tag: header.get(tag) for tag in TAGS})
    return ""


def domain_words(values: dict[str, object]) -> str:
    """One short text from tag names and values; empty values are left out."""
    words = []
    for tag in TAGS:
        value = values.get(tag)
        if value in (None, ""):
            continue
        text = (
            "/".join(map(str, value)) if isinstance(value, list | tuple | pydicom.multival.MultiValue) else str(value)
        )
        words.append(_with_unit(text.strip(), UNITS[tag]) if tag in UNITS else text.strip())
    return " ".join(words)[:LONGEST]


def _with_unit(text: str, unit: str) -> str:
    """One way to write a number, so that 5.0 and 5.000000 mm are one domain."""
    try:
        return f"{float(text):g} {unit}"
    except ValueError:
        return f"{text} {unit}"
