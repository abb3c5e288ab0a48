"""Malformed inputs by mutation of real headers and data: NIfTI, NRRD, MetaImage, DICOM; the seed makes each again."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "backend"))

from bad_inputs import write_dicom  # noqa: E402

SAMPLE = ROOT / "Resources" / "SampleData" / "c3n00249.nii.gz"
KINDS = ("nii", "nii.gz", "nrrd", "mha", "mhd", "dicom", "real dicom")
SCORE_TOLERANCE = 3.0  # a changed voxel may move scores a little without anyone being misled
EXTREMES = (0, -1, 1, 2, 3, 255, -32768, 32767, 65535, 2**31 - 1, -(2**31), 1e-30, 1e30, float("nan"), float("inf"))
NIFTI_FIELDS = [(0, "i"), (70, "h"), (72, "h"), (108, "f"), (112, "f"), (116, "f"), (252, "h"), (254, "h"), (344, "i")]
NIFTI_FIELDS += [(40 + 2 * k, "h") for k in range(8)] + [(76 + 4 * k, "f") for k in range(8)]
NIFTI_FIELDS += [(256 + 4 * k, "f") for k in range(6)] + [(280 + 4 * k, "f") for k in range(12)]
TAGS = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns", "BitsAllocated",
        "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "SamplesPerPixel", "Modality",
        "SeriesInstanceUID", "InstanceNumber", "NumberOfFrames", "SOPClassUID")  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One malformed input: ``kind`` of KINDS, what was done to it, and where it lies."""

    seed: int
    kind: str
    what: str
    path: Path


def base_image() -> sitk.Image:
    """The sample, coarse: nothing is wrong with it, and its run gives no notice."""
    return sitk.ReadImage(str(SAMPLE))[::3, ::3, ::2]


def write_bases(folder: Path) -> None:
    """The unchanged inputs, one of each kind, below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    ct = base_image()
    for kind in KINDS[:5]:
        sitk.WriteImage(ct, str(folder / f"ct.{kind}"), useCompression=False)
    write_dicom(folder / "dicom", ct)
    shared = Path(os.environ.get("BPR_SHARED_DATA", ROOT.parent / "shared" / "data")) / "dicom" / "mixed_folder"
    if shared.is_dir():
        shutil.copytree(shared, folder / "real dicom")


def mutations(folder: Path, count: int, first: int = 0) -> Iterator[Mutation]:
    """``count`` malformed inputs, each made in place of the one before; the seed alone decides what is done."""
    bases, place = folder / "bases", folder / "now"
    if not bases.is_dir():
        write_bases(bases)
    kinds = [kind for kind in KINDS if kind != "real dicom" or (bases / kind).is_dir()]
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        kind = kinds[seed % len(kinds)]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if "dicom" in kind:
            shutil.copytree(bases / kind, place / "series", copy_function=shutil.copyfile)
            yield Mutation(seed, kind, _mutate_series(place / "series", rng), place / "series")
            continue
        path = place / f"ct.{kind}"
        shutil.copy(bases / path.name, path)
        if kind == "mhd":
            shutil.copy(bases / "ct.raw", place / "ct.raw")
        yield Mutation(seed, kind, _mutate_file(path, rng), path)


def _mutate_file(path: Path, rng: np.random.Generator) -> str:
    kind = path.name.partition(".")[2]
    if kind == "mhd" and rng.random() < 0.25:
        raw = path.with_name("ct.raw")
        return f"raw file: {_mutate_bytes(raw, rng, raw.stat().st_size)}"
    if kind in ("nrrd", "mha", "mhd") and rng.random() < 0.65:
        return _mutate_text(path, rng)
    if kind == "nii" and rng.random() < 0.65:
        return _mutate_fields(path, rng)
    if kind == "nii.gz" and rng.random() < 0.5:
        plain = path.with_name("plain.nii")
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        what = _mutate_fields(plain, rng)
        path.write_bytes(gzip.compress(plain.read_bytes(), 1))
        plain.unlink()
        return what
    return _mutate_bytes(path, rng, 352 if kind == "nii" and rng.random() < 0.5 else path.stat().st_size)


def _mutate_fields(path: Path, rng: np.random.Generator) -> str:
    """One to three fields of a NIfTI header become extreme or random values."""
    data, done = bytearray(path.read_bytes()), []
    for _ in range(rng.integers(1, 4)):
        offset, form = NIFTI_FIELDS[rng.integers(len(NIFTI_FIELDS))]
        value = EXTREMES[rng.integers(len(EXTREMES))] if rng.random() < 0.7 else float(rng.normal(0, 1000))
        bits = {"h": 15, "i": 31}.get(form)
        if bits:
            value = int(np.clip(np.nan_to_num(value), -(2**bits), 2**bits - 1))
        elif np.isfinite(value):
            value = float(np.clip(value, -3e38, 3e38))
        struct.pack_into("<" + form, data, offset, value)
        done.append(f"byte {offset} = {value:.4g}")
    path.write_bytes(data)
    return "fields: " + ", ".join(done)


def _mutate_text(path: Path, rng: np.random.Generator) -> str:
    """A line of the header is dropped, repeated or garbled, or a number in it becomes another one."""
    data = path.read_bytes()
    end = {"nrrd": data.find(b"\n\n"), "mha": data.find(b"LOCAL\n")}.get(path.suffix[1:], len(data))
    lines = data[:end].split(b"\n")
    k = int(rng.integers(len(lines)))
    before, choice = lines[k], rng.integers(5)
    numbers = list(re.finditer(rb"-?\d+\.?\d*(e-?\d+)?", lines[k]))
    if choice <= 2 and numbers:
        found = numbers[rng.integers(len(numbers))]
        value = EXTREMES[rng.integers(len(EXTREMES))]
        lines[k] = before[: found.start()] + f"{value:g}".encode() + before[found.end() :]
    elif choice == 3:
        del lines[k]
    elif choice == 4:
        lines.insert(k, before)
    else:
        garbled = bytearray(before or b"x")
        garbled[rng.integers(len(garbled))] = rng.integers(1, 256)
        lines[k] = bytes(garbled)
    after = lines[k] if k < len(lines) else b""
    path.write_bytes(b"\n".join(lines) + data[end:])
    return f"line {before[:50]!r} -> {after[:50]!r}" if choice not in (3, 4) else f"line {before[:50]!r} x {choice}"


def _mutate_bytes(path: Path, rng: np.random.Generator, reach: int) -> str:
    """Bytes among the first ``reach`` are flipped, removed, inserted or overwritten, or the file ends early."""
    data, choice = bytearray(path.read_bytes()), rng.integers(5)
    start = int(rng.integers(max(1, min(reach, len(data)))))
    length = int(rng.integers(1, max(2, min(4096, len(data) - start))))
    if choice == 0:
        for k in rng.integers(0, min(reach, len(data)), rng.integers(1, 9)):
            data[k] ^= 1 << int(rng.integers(8))
    elif choice == 1:
        del data[start:]
    elif choice == 2:
        del data[start : start + length]
    elif choice == 3:
        data[start:start] = rng.bytes(length)
    else:
        data[start : start + length] = rng.bytes(length)
    path.write_bytes(data)
    words = ("flipped", "ends at", "removed", "inserted", "overwritten")
    return f"bytes {words[choice]} {start}, {length}"


def _mutate_series(series: Path, rng: np.random.Generator) -> str:
    """One file, some or all: bytes, a tag, or the file itself is gone."""
    files = sorted(p for p in series.iterdir() if p.suffix == ".dcm") or sorted(series.iterdir())
    share = (1, max(1, len(files) // 4), len(files))[rng.integers(3)]
    chosen = [files[k] for k in rng.choice(len(files), share, replace=False)]
    if rng.random() < 0.5:
        tag, value = TAGS[rng.integers(len(TAGS))], EXTREMES[rng.integers(len(EXTREMES))]
        for path in chosen:
            _set_tag(path, tag, value, rng)
        return f"{tag} = {value:.4g} in {share} of {len(files)} files"
    if rng.random() < 0.2:
        for path in chosen:
            path.unlink()
        return f"{share} of {len(files)} files removed"
    seed = int(rng.integers(2**31))
    reach = 1500 if rng.random() < 0.7 else 10**9
    whats = {_mutate_bytes(path, np.random.default_rng(seed), reach) for path in chosen}
    return f"{sorted(whats)[0]} in {share} of {len(files)} files"


def _set_tag(path: Path, tag: str, value: float, rng: np.random.Generator) -> None:
    """Write an extreme value into a tag, in the tag's own form; what pydicom does not write is left out instead."""
    try:
        dataset = pydicom.dcmread(path)
        old = dataset.get(tag)
        if isinstance(old, str) or tag in ("Modality", "SOPClassUID", "SeriesInstanceUID"):
            setattr(dataset, tag, str(value)[:16])
        elif tag in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel"):
            setattr(dataset, tag, int(np.clip(np.nan_to_num(value), 0, 65535)))
        elif hasattr(old, "__len__"):
            changed = list(old)
            changed[rng.integers(len(changed))] = f"{value:.8g}"
            setattr(dataset, tag, changed)
        else:
            setattr(dataset, tag, f"{value:.8g}")
        dataset.save_as(path)
    except Exception:  # the tag becomes missing: a malformed input as well
        dataset = pydicom.dcmread(path)
        if tag in dataset:
            del dataset[tag]
        dataset.save_as(path)


def judge(mutation: Mutation, outcome, out: Path, base: dict | None) -> tuple[str, str]:
    """Kind of the ending, and what is wrong about it ("" when nothing is).

    Args:
        outcome: of fault_runs.
        out: where the results lie when there are any.
        base: ``result.json`` of the unchanged input; None for an input whose unchanged run has notices anyway.
    """
    if outcome.code is None:
        return "hung", "hung"
    printed = outcome.stderr + "".join(json.dumps(event) for event in outcome.events)
    if "Traceback" in printed or "Something went wrong" in printed:
        return "fault of ours", (outcome.error or {}).get("message", outcome.stderr[-300:])
    if outcome.code == 2:
        message = (outcome.error or {}).get("message", "")
        return "refused", "" if re.fullmatch(r"[^\n]+[.!?]", message) and not out.exists() else f"sentence: {message!r}"
    if outcome.code != 0:
        return "ended otherwise", f"exit {outcome.code}: {outcome.stderr[-300:]}"
    content = json.loads((out / "result.json").read_text(encoding="utf-8"))
    if content["notices"]:
        return "result with a warning", ""
    if base is None:
        return "result as without the mutation", ""
    same = _same_grid(content["volume"], base["volume"])
    shift = np.abs(np.subtract(content["score_range"], base["score_range"])).max()
    if same and shift <= SCORE_TOLERANCE:
        return "result as without the mutation", ""
    size, spacing = content["volume"]["size"], content["volume"]["spacing_mm"]
    return "silent", f"no warning: size {size}, spacing {spacing}, scores {shift:.1f} off"


def _same_grid(one: dict, other: dict) -> bool:
    return one["size"] == other["size"] and np.allclose(one["spacing_mm"], other["spacing_mm"], rtol=0.02)
