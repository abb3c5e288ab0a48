"""What a bundle from a stranger may hold: known kinds of plain files, configurations that only describe, own weights.

Nothing of a bundle is ever run as code; these checks refuse what only makes sense in a program that would.
"""

from __future__ import annotations

import json
import re
import stat
import zipfile
import zlib
from pathlib import Path

from bpr.errors import BundleError

LARGEST_ARCHIVE = 500 * 2**20
MOST_FILES = 200
FILES = re.compile(r"SHA256SUMS|LICENSE|configs/\w+\.json|docs/[\w. -]+\.(md|png|txt)|models/model\.(onnx|safetensors)")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
WEIGHTS = b"model.safetensors"
LOCATION = re.compile(rb"\x0a\x08location\x12(.)", re.DOTALL)  # ONNX's entry for a file beside the graph: key, length
DEEPEST = 20
LARGEST_TABLE = 10 * 2**20


def check_contents(folder: Path) -> None:
    """Look at every file of a bundle's folder. Raises BundleError at the first that must not be there."""
    name = folder.name
    if not NAME.fullmatch(name):
        raise BundleError(f"{name!r} cannot be the name of a model.", "Use letters, digits, dots and dashes.")
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise BundleError(f"The bundle {name} contains links.", "Bundles hold plain files only.")
        relative = path.relative_to(folder).as_posix()
        if path.is_file() and not FILES.fullmatch(relative):
            raise BundleError(f"The bundle {name} holds a file that no bundle of this program has: {relative!r}.",
                              "Do not use it.")  # fmt: skip
        if path.is_file() and path.suffix == ".json":
            _check_json(path, name)
    check_graph(folder / "models" / "model.onnx", name)
    check_weights(folder / "models" / "model.safetensors", name)


def _check_json(path: Path, name: str) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check_value(content, name, path.name, 0)
    except (ValueError, RecursionError, OSError):
        raise BundleError(f"The model {name} cannot be read: {path.name} is no JSON text.",
                          "Do not use it, or ask its author for another copy.") from None  # fmt: skip


def _check_value(value: object, name: str, file: str, depth: int) -> None:
    """No expressions ("$..."), no references into code, no networks by a dotted path, no endless nesting."""
    if depth > DEEPEST:
        raise BundleError(f"The model {name} has a configuration without end: {file}.", "Do not use it.")
    if isinstance(value, dict):
        target = value.get("_target_")
        if target is not None and not (isinstance(target, str) and target.isidentifier()):
            raise BundleError(f"The model {name} asks to run code: {file} names {target!r}.", "Do not use it.")
        for key, inner in value.items():
            _check_value(key, name, file, depth + 1)
            _check_value(inner, name, file, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, name, file, depth + 1)
    elif isinstance(value, str) and value.lstrip().startswith("$"):
        raise BundleError(f"The model {name} asks to run code: {file} holds the expression {value[:40]!r}.",
                          "Do not use it.")  # fmt: skip


def check_graph(graph: Path, name: str) -> None:
    """The graph may read its weights from the bundle's own weights file only. Raises BundleError."""
    try:
        data = graph.read_bytes()
    except OSError:
        return  # Bundle.verify says that it is missing
    for found in LOCATION.finditer(data):
        length = found.group(1)[0]
        place = data[found.end() : found.end() + length]
        if place != WEIGHTS:
            raise BundleError(f"The model {name} wants to read another file than its own weights: "
                              f"{place.decode(errors='replace')!r}.", "Do not use it.")  # fmt: skip


def check_weights(weights: Path, name: str) -> None:
    """The weights are what safetensors writes: a length, a JSON table, numbers. Raises BundleError otherwise."""
    try:
        with open(weights, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            table = json.loads(file.read(size)) if size < LARGEST_TABLE else None
    except OSError:
        return  # Bundle.verify says that it is missing
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise BundleError(f"The weights of the model {name} are no safetensors file.", "Do not use it.")


def unpack(archive: Path, scratch: Path) -> None:
    """Unpack a zip whose members are few, plain, not encrypted, inside the folder and bounded in size.

    Raises:
        BundleError: it is no such zip.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            _check_members(file.infolist(), archive, scratch)
            file.extractall(scratch)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise BundleError(f"{archive.name} is not a zip file, or it is damaged.",
                          "Give a bundle's folder or its zip file.") from None  # fmt: skip
    except (RuntimeError, NotImplementedError, OverflowError, ValueError):
        raise BundleError(f"{archive.name} is packed in a way that bundles are not.",
                          "Give a bundle's folder or its zip file.") from None  # fmt: skip


def _check_members(members: list[zipfile.ZipInfo], archive: Path, scratch: Path) -> None:
    if len(members) > MOST_FILES:
        raise BundleError(f"The archive {archive.name} holds {len(members)} files.",
                          "This is not a bundle of this program.")  # fmt: skip
    if sum(member.file_size for member in members) > LARGEST_ARCHIVE:
        raise BundleError(f"The archive {archive.name} unpacks to more than {LARGEST_ARCHIVE >> 20} MB.",
                          "This is not a bundle of this program.")  # fmt: skip
    seen = set()
    for member in members:
        inside = (scratch / member.filename).resolve().is_relative_to(scratch.resolve())
        if not inside or "\\" in member.filename or ":" in member.filename:
            raise BundleError(f"The archive {archive.name} holds paths that lead outside of it.", "Do not use it.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise BundleError(f"The archive {archive.name} contains links.", "Bundles hold plain files only.")
        if member.flag_bits & 1:
            raise BundleError(f"The archive {archive.name} is encrypted.", "Ask its author for one that is not.")
        if member.filename.lower() in seen:
            raise BundleError(f"The archive {archive.name} holds two files of one name.", "Do not use it.")
        seen.add(member.filename.lower())
