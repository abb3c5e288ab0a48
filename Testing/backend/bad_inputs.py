"""The table of what can be wrong with a scan, a request or a machine, and what the program must say then.

Each row makes its input from the sample CT, so that it differs from a good one in one thing only.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from bad_machines import (
    Setup,
    disk_fills_up,
    disk_full,
    fails,
    file_in_the_way,
    flip_one_byte,
    interrupted,
    models,
    no_gpu,
    no_right_to_write,
    one_megabyte,
    other_files,
    pretend_score,
    swap_weights,
)
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from volume_samples import saved, write_slice

from bpr.models import Bundle

Make = Callable[[Path, sitk.Image], Path]
SCORES = ("--only", "scores")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is wrong.
        make: from an empty folder and the base CT to the path that is given to the program.
        words: part of the error's message, or for exit code 0 the code of the notice ("" for no notice at all).
        code: exit code.
        arguments: of the command line beside the input and the output.
        setup: changes to the machine (patches, variables), given the row's folder.
        out: place of the results, below the row's folder.
        names_file: whether the message must name the input.
        scores: how the scores compare with those of the base CT: "same", "near", "reversed" or "" (not compared).
    """

    name: str
    make: Make
    words: str
    code: int = 2
    arguments: Sequence[str] = SCORES
    setup: Setup | None = None
    out: str = "out"
    names_file: bool = True
    scores: str = ""


def like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    """An array (slices, rows, columns) with an image's geometry."""
    made = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    made.CopyInformation(image)
    return made


def changed(change: Callable[[np.ndarray], np.ndarray], file: str = "ct.nii.gz") -> Make:
    """The base CT with other values, as a file."""
    return lambda folder, ct: saved(like(change(sitk.GetArrayFromImage(ct)), ct), folder / file)


def image(change: Callable[[sitk.Image], sitk.Image], file: str = "ct.nii.gz") -> Make:
    """The base CT as another image, as a file."""
    return lambda folder, ct: saved(change(ct), folder / file)


def good(folder: Path, ct: sitk.Image) -> Path:
    """The base CT without any fault."""
    return saved(ct, folder / "ct.nii.gz")


def text(file: str) -> Make:
    def write(folder: Path, ct: sitk.Image) -> Path:
        (folder / file).write_text("These are the notes of a study.\n" * 50)
        return folder / file

    return write


def empty(folder: Path, ct: sitk.Image) -> Path:
    (folder / "ct.nii.gz").touch()
    return folder / "ct.nii.gz"


def truncated(file: str, compress: bool = False) -> Make:
    def write(folder: Path, ct: sitk.Image) -> Path:
        path = saved(ct, folder / file, compress)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
        return path

    return write


def header(offset: int, form: str, *values: float) -> Make:
    """A .nii with some fields of its header overwritten."""

    def write(folder: Path, ct: sitk.Image) -> Path:
        path = saved(ct, folder / "ct.nii")
        data = bytearray(path.read_bytes())
        struct.pack_into("<" + form, data, offset, *values)
        path.write_bytes(data)
        return path

    return write


def singular(folder: Path, ct: sitk.Image) -> Path:
    path = saved(ct, folder / "ct.nrrd")
    before, _, rest = path.read_bytes().partition(b"space directions: ")
    path.write_bytes(before + b"space directions: (6,0,0) (0,6,0) (0,6,0)\n" + rest.partition(b"\n")[2])
    return path


def with_holes(value: float, share: float) -> Make:
    def change(hu: np.ndarray) -> np.ndarray:
        holes = np.random.default_rng(1).random(hu.shape) < share
        return np.where(holes, value, hu).astype(np.float32)

    return changed(change)


def magnetic(hu: np.ndarray) -> np.ndarray:
    """T1-like: fat bright, soft tissue in between, bone and air dark, noise that is never below zero."""
    noise = np.random.default_rng(2)
    brightness = np.interp(hu, [-1000, -500, -110, -60, 30, 70, 300, 1500], [8, 30, 900, 800, 430, 520, 200, 40])
    return np.abs(brightness + noise.normal(0, 25, hu.shape)).astype(np.int16)


def emission(hu: np.ndarray) -> np.ndarray:
    """Like a PET in Bq/ml: small values everywhere in the body, and a few hot spots."""
    body = np.clip((hu + 1000.0) / 1000, 0, 1.2)
    counts = np.random.default_rng(4).gamma(0.6, 900, hu.shape) * body
    counts[40:43, 30:36, 30:36] *= 40
    return counts.astype(np.float32)


def picture(hu: np.ndarray) -> np.ndarray:
    return np.clip((hu + 160.0) / 400 * 255, 0, 255).astype(np.uint8)


def shuffled(hu: np.ndarray) -> np.ndarray:
    """The values of a CT at random places."""
    return np.random.default_rng(6).permutation(hu.ravel()).reshape(hu.shape)


def stretched(ct: sitk.Image) -> sitk.Image:
    ct = sitk.Image(ct)
    ct.SetSpacing((*ct.GetSpacing()[:2], 2 * ct.GetSpacing()[2]))
    return ct


def write_dicom(folder: Path, ct: sitk.Image, first: int = 0, **tags: object) -> Path:
    """Write an image without rotation as a DICOM series, one file per slice."""
    width, height, distance = ct.GetSpacing()
    for k, hu in enumerate(sitk.GetArrayFromImage(ct)):
        place = ct.TransformIndexToPhysicalPoint([0, 0, k])
        names = {"PixelSpacing": [height, width], "SliceThickness": distance, "InstanceNumber": k + 1} | tags
        write_slice(folder / f"{first + k:03d}.dcm", hu, place, **names)
    return folder


def dicom(change: Callable[[Path], object] | None = None, slices: int | None = None, **tags: object) -> Make:
    """The base CT (or some slices of it) as a folder of DICOM that is then changed."""

    def write(folder: Path, ct: sitk.Image) -> Path:
        series = write_dicom(folder / "series", ct[:, :, :slices] if slices else ct, **tags)
        if change:
            change(series)
        return series

    return write


def compressed(series: Path) -> None:
    """Say that the pixels are an MPEG2 video, which nothing here decodes."""
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = encapsulate([b"\0" * 64])
        dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")
        dataset.save_as(path)


def second_series(folder: Path, ct: sitk.Image) -> Path:
    write_dicom(folder / "series", ct)
    write_dicom(folder / "series", ct[:, :, :20], first=500, series="1.2.77")
    write_dicom(folder / "series", ct[:, :, :5], first=700, series="1.2.78", Modality="MR")
    return folder / "series"


def folder_of(*names: str) -> Make:
    def write(folder: Path, ct: sitk.Image) -> Path:
        (folder / "things").mkdir()
        for name in names:
            text(name)(folder / "things", ct)
        return folder / "things"

    return write


def unharmed(folder: Path) -> str:
    """One sum over all files below a folder, to see that nothing changed."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return total.hexdigest()


NAN, INF = float("nan"), float("inf")
FILES = [
    Row("empty file", empty, "is empty"),
    Row("truncated NRRD", truncated("ct.nrrd"), "incomplete"),
    Row("truncated compressed NRRD", truncated("ct.nrrd", compress=True), "incomplete"),
    Row("truncated nii.gz", truncated("ct.nii.gz"), "incomplete"),
    Row("truncated MetaImage", truncated("ct.mha"), "incomplete"),
    Row("text named nii.gz", text("ct.nii.gz"), "not a NIfTI file"),
    Row("text named nrrd", text("ct.nrrd"), "not a readable NRRD"),
    Row("unsupported ending", text("ct.docx"), "not supported"),
    Row("missing path", lambda folder, ct: folder / "ct.nrrd", "does not exist"),
    Row("all NaN", with_holes(NAN, 1.0), "no numbers"),
    Row("2-D image", image(lambda ct: ct[:, :, 50]), "2-D"),
    Row("one slice", image(lambda ct: ct[:, :, 50:51]), "2-D"),
    Row("two slices", image(lambda ct: ct[:, :, 50:52]), "fewer than 3 slices"),
    Row("RGB", changed(lambda hu: np.stack([picture(hu)] * 3, -1), "ct.nrrd"), "3 values"),
    Row("4-D", image(lambda ct: sitk.JoinSeries([ct[:, :, :10]] * 3)), "4 dimensions"),
    Row("zero spacing", header(80, "f", 0), "voxel size"),
    Row("negative spacing", header(88, "f", -3), "voxel size"),
    Row("spacing in meters", header(80, "3f", 6000, 6000, 3000), "voxel size"),
    Row("singular direction", singular, "singular"),
    Row("MR", changed(magnetic), "does not look like a CT"),
    Row("PET", changed(emission), "does not look like a CT"),
    Row("8-bit screenshot", changed(picture), "not in Hounsfield units"),
    Row("normalized to 0..1", changed(lambda hu: picture(hu).astype(np.float32) / 255), "not in Hounsfield units"),
    Row("label map", changed(lambda hu: (hu > 200).astype(np.uint8), "ct.nrrd"), "not in Hounsfield units"),
    Row("constant", changed(lambda hu: np.full_like(hu, 40)), "all its voxels are 40"),
    Row("all air", changed(lambda hu: np.full_like(hu, -1024)), "all its voxels are -1024"),
]
FOLDERS = [
    Row("empty folder", folder_of(), "no DICOM"),
    Row("folder without images", folder_of("letter.txt", "table.csv"), "no DICOM"),
    Row("DICOM of modality MR", dicom(slices=6, Modality="MR"), "MR"),
    Row("compressed without a decoder", dicom(compressed, slices=6), "compressed"),
]
REQUESTS = [
    Row("no right to write", good, "Permission denied", setup=no_right_to_write, names_file=False),
    Row("out below a file", good, "cannot be written", setup=file_in_the_way, out="note.txt/out", names_file=False),
    Row("out is a file", good, "is a file", setup=file_in_the_way, out="note.txt", names_file=False),
    Row("out holds other files", good, "holds other files", setup=other_files, out="taken", names_file=False),
    Row("disk full before writing", good, "MB left", setup=disk_full, names_file=False),
    Row("disk full while writing", good, "No space left", names_file=False,
        setup=fails("bpr.results.files.write_scores", OSError(errno.ENOSPC, "No space left on device"))),
    Row("disk full while ITK writes", good, "cannot be written", arguments=("--only", "regions"),
        setup=disk_fills_up, names_file=False),
    Row("unknown region", good, "no region", arguments=("--regions", "knee"), names_file=False),
    Row("unknown organ", good, "There is no organ 'wing'", arguments=("--organs", "wing"), names_file=False),
    Row("unknown device", good, "There is no device 'tpu'", arguments=("--device", "tpu"), names_file=False),
    Row("unknown engine", good, "There is no engine 'steam'", arguments=("--engine", "steam"), names_file=False),
    Row("unknown model", good, "no model named", arguments=("--bundle", "nobody"), names_file=False),
    Row("CUDA without a GPU", good, "cuda", arguments=("--device", "cuda"), setup=no_gpu, names_file=False),
    Row("step of zero", good, "step of 0", arguments=("--step", "0"), names_file=False),
    Row("step of NaN", good, "step of nan", arguments=("--step", "nan"), names_file=False),
    Row("too little memory", good, "memory", arguments=("--only", "segmentation", "--no-scene"), setup=one_megabyte,
        names_file=False),
    Row("memory runs out", good, "memory", names_file=False,
        setup=fails("bpr.scoring.inference.slice_logits", MemoryError())),
    Row("canceled while scoring", good, "Cancel", 130, setup=interrupted("scoring"), names_file=False),
    Row("canceled while writing", good, "Cancel", 130, setup=interrupted("writing"), names_file=False),
]  # fmt: skip
MODELS = [
    Row("model file missing", good, "is missing", names_file=False,
        setup=models(lambda m: Bundle(m / "bpr_score_efficientnet").weights.unlink())),
    Row("model's description missing", good, "score", names_file=False,
        setup=models(lambda m: (m / "bpr_score_efficientnet/configs/metadata.json").unlink())),
    Row("model altered by one bit", good, "checksum", setup=models(flip_one_byte), names_file=False),
    Row("another model's weights", good, "cannot be loaded", setup=models(swap_weights), names_file=False),
    Row("region model as score model", good, "bpr_thorax", setup=models(pretend_score), names_file=False),
    Row("no models", good, "No model", names_file=False, setup=models(shutil.rmtree)),
]  # fmt: skip
MENDED = [
    Row("nothing wrong", good, "", 0, scores="same"),
    Row("spaces and accents", lambda folder, ct: saved(ct, folder / "CT of Zoë Müller, №2.nii.gz"), "", 0,
        scores="same", out="résultats d'août"),
    Row("some NaN", with_holes(NAN, 0.001), "nan_replaced", 0, scores="near"),
    Row("some infinite", with_holes(INF, 0.001), "nan_replaced", 0, scores="near"),
    Row("stored with 1024 added", changed(lambda hu: (hu + 1024).astype(np.uint16), "ct.nrrd"), "hu_shifted", 0,
        scores="same"),
    Row("stored feet first", image(lambda ct: ct[:, :, ::-1]), "", 0, scores="same"),
    Row("upside down", changed(lambda hu: hu[::-1]), "order_reversed", 0, scores="reversed"),
    Row("spacing twice too large", image(stretched), "spacing_doubtful", 0),
    Row("five slices", image(lambda ct: ct[:, :, 50:55]), "too_short", 0),
    Row("values at random places", changed(shuffled), "out_of_scope", 0),
    Row("DICOM", dicom(), "", 0, scores="same"),
    Row("DICOM with a missing slice", dicom(lambda s: (s / "050.dcm").unlink()), "missing_slices", 0, scores="near"),
    Row("DICOM with a broken file", dicom(lambda s: (s / "050.dcm").write_bytes((s / "050.dcm").read_bytes()[:900])),
        "files_skipped", 0, scores="near"),
    Row("DICOM of several series", second_series, "series_left_out", 0, scores="same"),
]  # fmt: skip
TABLE = [*FILES, *FOLDERS, *REQUESTS, *MODELS, *MENDED]
