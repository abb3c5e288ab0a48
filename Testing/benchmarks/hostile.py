"""Bundle archives that a stranger may have made to do harm; each must be refused in one sentence and leave no trace."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from bpr.models import SUMS, write_sums
from bpr.resources import resources_dir

GOOD = "bpr_score_efficientnet"
NAME = "gift"
SECRET = "/etc/hostname"


class Boom:
    """Unpickling this would write a file named "pwned" in the working folder."""

    def __reduce__(self):
        return open, ("pwned", "w")


def good_files() -> dict[str, bytes]:
    """The files of a good bundle under another name, its graph with empty weights' place, as name -> content."""
    folder = resources_dir() / "Models" / GOOD
    return {f"{NAME}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    """Write a zip; a later entry may repeat an earlier one's name."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def summed(scratch: Path, change: Callable[[Path], None], name: str = NAME) -> dict[str, bytes]:
    """Files of a good bundle after a change to its folder, under sums that fit."""
    folder = scratch / "made" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(resources_dir() / "Models" / GOOD, folder)
    change(folder)
    write_sums(folder)
    return {f"{name}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def with_config(scratch: Path, **fields: object) -> dict[str, bytes]:
    def change(folder: Path) -> None:
        path = folder / "configs" / "inference.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return summed(scratch, change)


def add(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes().replace(old, new))


def link(path: Path, member: str, target: str, more: dict[str, bytes]) -> Path:
    """A zip with a symbolic link as Unix's zip stores it."""
    zipped(path, more)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(member)
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
    return path


def lying_size(path: Path) -> Path:
    """A bomb whose directory states 1 kB where 300 MB of zeros are packed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(f"{NAME}/docs/big.txt", b"\0" * (300 * 2**20))
        for name, content in good_files().items():
            archive.writestr(name, content, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    size = struct.pack("<I", 300 * 2**20)
    start = data.find(size)
    while start >= 0:
        data[start : start + 4] = struct.pack("<I", 1024)
        start = data.find(size)
    path.write_bytes(data)
    return path


def encrypted(path: Path) -> Path:
    """All entries say that they are encrypted."""
    zipped(path, good_files())
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(signature)
        while start >= 0:
            data[start + offset] |= 1
            start = data.find(signature, start + 4)
    path.write_bytes(data)
    return path


def damaged(path: Path) -> Path:
    """A byte in the middle of the packed weights is another one."""
    zipped(path, good_files())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return path


def bomb() -> bytes:
    """600 MB of zeros, packed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("z", "w") as file:
        for _ in range(600):
            file.write(b"\0" * 2**20)
    return packed.getvalue()


def bomb_in_place(path: Path) -> Path:
    """More than the allowed size, honestly stated."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(f"{NAME}/docs/big.txt", "w") as file:
            for _ in range(600):
                file.write(b"\0" * 2**20)
        for name, content in good_files().items():
            archive.writestr(name, content)
    return path


def duplicate(path: Path) -> Path:
    """Two configurations of one name: a check may read the first, a program the second."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in good_files().items():
            archive.writestr(name, content)
        archive.writestr(f"{NAME}/configs/Inference.json", "{}")
    return path


def deep() -> bytes:
    return b"[" * 100000 + b"]" * 100000


SLOW = ("zip bomb", "zip bomb that lies about its size", "zip bomb inside", "a hundred thousand files")


def hostile_archives(folder: Path) -> dict[str, Callable[[], Path]]:
    """What is hostile about it -> a function that makes the archive below ``folder``. SLOW ones take seconds."""
    good, w = good_files(), lambda name: folder / f"{name}.zip"
    sums, weights = f"{NAME}/{SUMS}", f"{NAME}/models/model.safetensors"
    code = {"network_def": {"_target_": "os.system", "command": "touch pwned"}}
    expression = {"network_def": {"_target_": "DynUNet", "filters": "$__import__('os').system('touch pwned')"}}
    return {
        "path that climbs out": lambda: zipped(w("climb"), good | {"../../pwned": b"x"}),
        "absolute path": lambda: zipped(w("absolute"), good | {"/tmp/bpr-pwned": b"x"}),
        "backslashes that climb out": lambda: zipped(w("backslash"), good | {"..\\..\\pwned": b"x"}),
        "path on another drive": lambda: zipped(w("drive"), good | {"C:/pwned": b"x"}),
        "symbolic link to a file": lambda: link(w("link"), f"{NAME}/docs/secret.txt", SECRET, good),
        "symbolic link to a folder, then a file through it": lambda: link(
            w("dirlink"), f"{NAME}/docs/up", "../../..", good | {f"{NAME}/docs/up/pwned": b"x"}),
        "zip bomb": lambda: bomb_in_place(w("bomb")),
        "zip bomb that lies about its size": lambda: lying_size(w("lying")),
        "zip bomb inside": lambda: zipped(w("nested"), summed(folder, add("models/more.zip", bomb()))),
        "a hundred thousand files": lambda: zipped(w("many"), {f"{NAME}/{k}.txt": b"" for k in range(10**5)} | good),
        "pickle beside the weights": lambda: zipped(w("pickle"), summed(folder, add("models/model.pt",
                                                                                   pickle.dumps(Boom())))),
        "pickle instead of the weights": lambda: zipped(w("swap"), summed(folder, add("models/model.safetensors",
                                                                                     pickle.dumps(Boom())))),
        "Python code": lambda: zipped(w("code"), summed(folder, add("scripts/__init__.py", b"open('pwned', 'w')"))),
        "altered weights": lambda: zipped(w("altered"), good | {weights: good[weights][:-9] + b"x" * 9}),
        "altered sums": lambda: zipped(w("sums"), good | {sums: good[sums].replace(b"a", b"b")}),
        "no sums": lambda: zipped(w("nosums"), {k: v for k, v in good.items() if k != sums}),
        "sums of files outside": lambda: zipped(w("sumsout"), good | {sums: good[sums] + b"0" * 64 + b"  ../../x\n"}),
        "configuration that names a function": lambda: zipped(w("target"), with_config(folder, **code)),
        "configuration with an expression": lambda: zipped(w("expression"), with_config(folder, **expression)),
        "configuration without end": lambda: zipped(w("deep"), summed(folder, add("configs/inference.json", deep()))),
        "graph that reads another file": lambda: zipped(w("graph"), summed(folder, replaced(
            "models/model.onnx", b"model.safetensors", b"../../../../passwd"[:17]))),
        "name of a shipped model": lambda: zipped(w("name"), {k.replace(NAME, GOOD, 1): v for k, v in good.items()}),
        "name that is an option": lambda: zipped(w("option"), {k.replace(NAME, "-rf", 1): v for k, v in good.items()}),
        "two files of one name": lambda: duplicate(w("duplicate")),
        "encrypted": lambda: encrypted(w("encrypted")),
        "damaged": lambda: damaged(w("damaged")),
    }  # fmt: skip
