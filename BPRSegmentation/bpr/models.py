"""Model bundles: folders in MONAI bundle format with checked weights, a card, and what the program must know of them.

<name>/configs/metadata.json   MONAI's metadata; our own facts stand under "bpr"
<name>/configs/inference.json  the network definition, for torch
<name>/models/model.onnx       the graph; its weights lie in the file beside it
<name>/models/model.safetensors  the weights in half precision, read by both engines
<name>/docs/README.md          the model card
<name>/SHA256SUMS              sums of all files above
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bpr.bundle_safety import check_contents, unpack
from bpr.errors import BundleError, OutputError
from bpr.resources import resources_dir

SUMS = "SHA256SUMS"
ROLES = ("score", "region", "baseline", "body_composition", "vertebrae", "domain")


@dataclass(frozen=True)
class Bundle:
    """One bundle on disk. ``facts`` is the "bpr" part of its metadata."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name; what ``--bundle`` takes."""
        return self.folder.name

    @cached_property
    def metadata(self) -> dict:
        """Contents of ``configs/metadata.json``. Raises BundleError when it cannot be read."""
        return _read_json(self.folder / "configs" / "metadata.json", self.name)

    @property
    def facts(self) -> dict:
        """Role, region, structures, grid, landmarks: what the program needs beside the weights."""
        facts = self.metadata.get("bpr") if isinstance(self.metadata, dict) else None
        known = isinstance(facts, dict) and facts.get("role") in ROLES and isinstance(facts.get("use"), str)
        if not known or (facts["role"] == "region" and not isinstance(facts.get("region"), str)):
            raise BundleError(f"The folder {self.folder} holds no bundle of this program.",
                              "Choose one that `bpr models list` shows.")  # fmt: skip
        return facts

    @property
    def can_learn(self) -> bool:
        """Whether corrected cases can fine-tune it: a network that segments organs, or tissues of a slice."""
        return self.role in ("region", "baseline", "body_composition")

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return str(self.metadata.get("version", "?"))

    @property
    def role(self) -> str:
        """ "score", "region" or "baseline"."""
        return self.facts["role"]

    @property
    def slot(self) -> str:
        """What the bundle replaces when it is chosen: "score", "baseline" or a region's name."""
        return self.facts["region"] if self.role == "region" else self.role

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions that a region's network works on: mostly one, "head" and "neck" for both."""
        return tuple(self.facts.get("regions", [self.facts["region"]])) if self.role == "region" else ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of a segmentation network's input channels, see bpr.segmentation.grid.INPUTS."""
        return tuple(self.facts.get("inputs", ("wide", "soft")))

    @cached_property
    def network_definition(self) -> dict:
        """The network's class name and arguments for the torch engine."""
        return _read_json(self.folder / "configs" / "inference.json", self.name)["network_def"]

    @property
    def graph(self) -> Path:
        """The ONNX graph."""
        return self.folder / "models" / "model.onnx"

    @property
    def weights(self) -> Path:
        """The safetensors file that the graph refers to."""
        return self.folder / "models" / "model.safetensors"

    @property
    def card(self) -> str:
        """Text of the model card."""
        path = self.folder / "docs" / "README.md"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def size_mb(self) -> float:
        """Size of all files in MB."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) / 1e6

    def verify(self) -> None:
        """Compare all files with SHA256SUMS. Raises BundleError at the first file that is missing or altered."""
        listed = _read_sums(self.folder)
        for relative, expected in listed.items():
            path = self.folder / relative
            if not path.is_file():
                raise BundleError(f"The model {self.name} is incomplete: {relative} is missing.",
                                  "Install the bundle again.")  # fmt: skip
            if sha256(path) != expected:
                raise BundleError(f"The model {self.name} is damaged: {relative} does not match its checksum.",
                                  "Install the bundle again.")  # fmt: skip
        for needed in (self.graph, self.weights):
            if needed.relative_to(self.folder).as_posix() not in listed:
                raise BundleError(f"The model {self.name} lists no checksum for {needed.name}.",
                                  "Install the bundle again.")  # fmt: skip


def _read_json(path: Path, name: str) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"The model {name} is incomplete: {path.name} is missing.",
                          "Install the bundle again.") from None  # fmt: skip
    except (ValueError, OSError) as error:
        raise BundleError(f"The model {name} cannot be read: {path.name}: {error}.",
                          "Install the bundle again.") from None  # fmt: skip


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if not path.is_file():
        raise BundleError(f"The model {folder.name} has no {SUMS} file.", "Install the bundle again.")
    pairs = (line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    sums = {}
    for pair in pairs:
        inside = len(pair) == 2 and (folder / pair[1]).resolve().is_relative_to(folder.resolve())
        if not inside:
            raise BundleError(f"The model {folder.name} has a malformed {SUMS} file.", "Install the bundle again.")
        sums[pair[1]] = pair[0]
    return sums


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over all files of a bundle."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != SUMS)
    lines = [f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def user_models_dir() -> Path:
    """Where a user's own bundles lie: $BPR_MODELS, else ~/.bpr/models."""
    return Path(os.environ.get("BPR_MODELS") or Path.home() / ".bpr" / "models")


def list_bundles() -> list[Bundle]:
    """All bundles, shipped ones first; folders that are not bundles are passed over."""
    bundles = []
    for root in (resources_dir() / "Models", user_models_dir()):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if (folder / "configs" / "metadata.json").is_file():
                bundles.append(Bundle(folder))
    return bundles


def find_bundle(name: str) -> Bundle:
    """The bundle with this name, or at this path. Raises BundleError naming the ones there are."""
    for bundle in list_bundles():
        if bundle.name == name:
            return bundle
    if (Path(name) / "configs" / "metadata.json").is_file():
        return Bundle(Path(name).resolve())
    known = ", ".join(bundle.name for bundle in list_bundles()) or "none"
    raise BundleError(f"There is no model named {name}.", f"Installed models: {known}.")


def domain_models(names: list[str] | None = None) -> list[Bundle]:
    """The installed bundles for another anatomy or modality, or those of them with these names; no damaged ones."""
    found = []
    for bundle in list_bundles() if names is None or names else ():
        try:
            if bundle.role == "domain" and (names is None or bundle.name in names):
                found.append(bundle)
        except BundleError:
            continue
    return found


def used_models() -> dict[str, list[str]]:
    """Slot to the names that a person put into use instead of the shipped model, the latest last.

    Kept as ``defaults.json`` beside the user's models; empty when there is none or it cannot be read.
    """
    try:
        content = json.loads((user_models_dir() / "defaults.json").read_text(encoding="utf-8"))
        return {str(slot): [str(name) for name in names] for slot, names in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def names_in_use() -> dict[str, str]:
    """Slot to the person's own model that runs there: the latest put into use that is still installed."""
    found = {}
    for slot, names in used_models().items():
        installed = [name for name in names if (user_models_dir() / name / "configs" / "metadata.json").is_file()]
        if installed:
            found[slot] = installed[-1]
    return found


def choose_bundles(requested: list[str]) -> dict[str, Bundle]:
    """Bundle per slot ("score", "baseline", region names).

    What ships is replaced by what a person put into use, and that by what is requested now. A domain's bundle runs only
    when it is requested: which scans it fits, a person must say.
    """
    chosen: dict[str, Bundle] = {}
    for bundle in list_bundles():
        try:
            if bundle.role != "domain":
                chosen.setdefault(bundle.slot, bundle)
        except BundleError:
            continue  # someone else's bundle in the user's folder must not stop the shipped ones
    chosen |= {slot: Bundle(user_models_dir() / name) for slot, name in names_in_use().items()}
    for name in requested:
        bundle = find_bundle(name)
        chosen[bundle.slot] = bundle
    return chosen


def import_bundle(source: Path) -> Bundle:
    """Copy a bundle from a folder or a zip into the user's models folder, after its checksums have been verified.

    Raises:
        BundleError: not a bundle, damaged, unsafe paths in the archive, or a bundle of that name exists.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = source
        if source.is_file():
            folder = _extract(source, Path(scratch))
        elif not source.is_dir():
            raise BundleError(f"There is no bundle at {source}.", "Give a bundle's folder or its zip file.")
        check_contents(folder)
        bundle = Bundle(folder)
        bundle.facts  # noqa: B018 - raises when it is not one of ours
        bundle.verify()
        target = user_models_dir() / bundle.name
        if target.exists() or (resources_dir() / "Models" / bundle.name).exists():
            raise BundleError(f"A model named {bundle.name} is installed already.",
                              f"Remove it first: bpr models remove {bundle.name}.")  # fmt: skip
        partial = target.with_name(f".{bundle.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, partial)
            os.replace(partial, target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = error.strerror or "the disk may be full"
            raise OutputError(f"The model cannot be installed in {target.parent}: {reason}.",
                              "Free space there, or check its permissions.") from None  # fmt: skip
        return Bundle(target)


def _extract(archive: Path, scratch: Path) -> Path:
    """Unpack a zip whose members stay inside the folder and whose size is bounded; returns the bundle's folder."""
    unpack(archive, scratch)
    found = list(scratch.glob("*/configs/metadata.json"))
    if len(found) != 1:
        raise BundleError(f"The archive {archive.name} does not hold exactly one bundle folder.",
                          "Zip the bundle's folder itself.")  # fmt: skip
    return found[0].parents[1]


def export_bundle(name: str, target: Path) -> Path:
    """Write a bundle as a zip file that ``import_bundle`` takes."""
    bundle = find_bundle(name)
    bundle.verify()
    base = target.with_suffix("") if target.suffix == ".zip" else target
    return Path(shutil.make_archive(str(base), "zip", bundle.folder.parent, bundle.name))


def remove_bundle(name: str) -> None:
    """Delete a bundle from the user's folder; shipped ones stay."""
    bundle = find_bundle(name)
    if bundle.folder.parent.resolve() != user_models_dir().resolve():
        raise BundleError(f"The model {name} ships with the program and stays.", "Only imported models can be removed.")
    shutil.rmtree(bundle.folder)
