"""What can be wrong with the machine, its folders or its models: changes that a row of the table makes before a run."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import SimpleITK as sitk

from bpr.models import Bundle, write_sums
from bpr.resources import resources_dir

Setup = Callable[[pytest.MonkeyPatch, Path], None]


def fails(place: str, error: BaseException) -> Setup:
    """A function of the program that raises an error."""

    def replacement(*arguments: object, **options: object) -> None:
        raise error

    return lambda patch, folder: patch.setattr(place, replacement)


def no_right_to_write(patch: pytest.MonkeyPatch, folder: Path) -> None:
    make = Path.mkdir

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        if ".partial-" in self.name:
            raise PermissionError(errno.EACCES, "Permission denied")
        make(self, *arguments, **options)

    patch.setattr(Path, "mkdir", refuse)


def disk_full(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr("bpr.results.folder.shutil.disk_usage", lambda place: SimpleNamespace(free=1000))


def disk_fills_up(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """ITK's files go to a device that is always full."""
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    write = sitk.WriteImage

    def to_full_disk(image: sitk.Image, path: str, *arguments: object, **options: object) -> None:
        if ".partial-" in path:
            Path(path).symlink_to("/dev/full")
        write(image, path, *arguments, **options)

    patch.setattr(sitk, "WriteImage", to_full_disk)


def other_files(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("years of work")


def file_in_the_way(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "note.txt").write_text("a note")


def models(change: Callable[[Path], object]) -> Setup:
    """The program's models, changed; the change gets the folder of the bundles."""

    def use(patch: pytest.MonkeyPatch, folder: Path) -> None:
        resources = folder / "resources"
        shutil.copytree(resources_dir() / "Anatomy", resources / "Anatomy")
        for name in ("bpr_score_efficientnet", "bpr_thorax"):
            shutil.copytree(resources_dir() / "Models" / name, resources / "Models" / name)
        change(resources / "Models")
        patch.setenv("BPR_RESOURCES", str(resources))
        patch.setenv("BPR_MODELS", str(folder / "none"))

    return use


def flip_one_byte(folder: Path) -> None:
    path = Bundle(folder / "bpr_score_efficientnet").weights
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap_weights(folder: Path) -> None:
    """Another network's weights under checksums that fit them."""
    bundle = Bundle(folder / "bpr_score_efficientnet")
    shutil.copy(Bundle(folder / "bpr_thorax").weights, bundle.weights)
    write_sums(bundle.folder)


def pretend_score(folder: Path) -> None:
    """A region's network that says it were a score network, under checksums that fit."""
    shutil.rmtree(folder / "bpr_score_efficientnet")
    bundle = Bundle(folder / "bpr_thorax")
    path = bundle.folder / "configs" / "metadata.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"role": "region"', '"role": "score"'), encoding="utf-8")
    write_sums(bundle.folder)


def interrupted(stage: str) -> Setup:
    """Ctrl-C while a stage begins."""

    def use(patch: pytest.MonkeyPatch, folder: Path) -> None:
        from bpr.job import print_event

        def emit(event: dict) -> None:
            if event.get("name") == stage:
                raise KeyboardInterrupt
            print_event(event)

        patch.setattr("bpr.cli.print_event", emit)

    return use


def one_megabyte(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("BPR_MEMORY_MB", "1")


def no_gpu(patch: pytest.MonkeyPatch, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    patch.setattr(torch.cuda, "is_available", lambda: False)
