"""Bundles: every file is checked, imports and exports round-trip, hostile archives are refused."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from bpr.errors import BundleError
from bpr.models import (
    Bundle,
    choose_bundles,
    export_bundle,
    find_bundle,
    import_bundle,
    list_bundles,
    remove_bundle,
    write_sums,
)
from bpr.resources import resources_dir

SCORE = "bpr_score_efficientnet"


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the user's models."""
    monkeypatch.setenv("BPR_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def a_copy(tmp_path: Path) -> Path:
    """The shipped score bundle under another name."""
    return Path(shutil.copytree(resources_dir() / "Models" / SCORE, tmp_path / "mine"))


def test_every_shipped_bundle_is_whole_and_has_a_card(own_models):
    bundles = list_bundles()
    assert {bundle.slot for bundle in bundles} == {
        "score", "baseline", "thorax", "upper abdomen", "lower abdomen", "pelvis", "body_composition", "vertebrae",
        "head and neck"
    }  # fmt: skip
    for bundle in bundles:
        bundle.verify()
        assert bundle.facts["use"] == "open"
        for part in ("## Data and splits", "## Numbers", "95 % interval", "## Limits"):
            assert part in bundle.card, (bundle.name, part)
    assert sum(bundle.size_mb() for bundle in bundles) <= 40


def test_export_and_import_round_trip(own_models, a_copy, tmp_path):
    imported = import_bundle(a_copy)
    assert find_bundle("mine").folder == imported.folder == own_models / "mine"
    assert choose_bundles(["mine"])["score"] == imported
    archive = export_bundle("mine", tmp_path / "mine.zip")
    with pytest.raises(BundleError, match="installed already"):
        import_bundle(archive)
    remove_bundle("mine")
    assert import_bundle(archive).name == "mine"
    with pytest.raises(BundleError, match="ships with the program"):
        remove_bundle(SCORE)


@pytest.mark.parametrize("file", ("models/model.safetensors", "models/model.onnx", "configs/metadata.json"))
def test_one_altered_byte_is_found(own_models, a_copy, file):
    path = a_copy / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError):
        import_bundle(a_copy)
    assert not own_models.exists() or not any(own_models.iterdir())


def test_weights_without_a_sum_are_refused(a_copy):
    sums = a_copy / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if "safetensors" not in line))
    with pytest.raises(BundleError, match="no checksum"):
        Bundle(a_copy).verify()


def test_sums_that_point_outside_are_refused(a_copy):
    with open(a_copy / "SHA256SUMS", "a") as file:
        file.write("0" * 64 + "  ../../secret\n")
    with pytest.raises(BundleError, match="malformed"):
        Bundle(a_copy).verify()


def test_an_archive_may_not_leave_its_folder(own_models, tmp_path):
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../outside.txt", "x")
        file.writestr("evil/configs/metadata.json", "{}")
    with pytest.raises(BundleError, match="outside"):
        import_bundle(archive)
    assert not (tmp_path.parent / "outside.txt").exists()


def test_links_in_a_bundle_are_refused(own_models, a_copy):
    (a_copy / "docs" / "link").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="links"):
        import_bundle(a_copy)


def test_a_network_that_is_not_on_the_list_is_not_built(a_copy):
    torch_networks = pytest.importorskip("bpr.compute.torch_networks", reason="needs torch and monai")
    definition = a_copy / "configs" / "inference.json"
    definition.write_text('{"network_def": {"_target_": "os.system", "command": "true"}}')
    write_sums(a_copy)
    with pytest.raises(BundleError, match="unknown network"):
        torch_networks.load_network(Bundle(a_copy))
