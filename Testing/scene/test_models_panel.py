"""The bundle manager: list, cards, use, import, verify, remove, with real bundles on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import slicer
import slicer_stand_in
from pythonqt import FILE_ANSWERS, OPENED_URLS

from bpr.models import find_bundle, write_sums


@pytest.fixture
def own(tmp_path: Path, monkeypatch) -> Path:
    """A bundle for the thorax of one's own, not installed yet; the user's models folder is an empty one."""
    monkeypatch.setenv("BPR_MODELS", str(tmp_path / "my models"))
    folder = tmp_path / "thorax_of_mine"
    shutil.copytree(find_bundle("bpr_thorax").folder, folder)
    write_sums(folder)
    return folder


@pytest.fixture
def panel(own, module, volume):
    host = slicer_stand_in.Host("BPRSegmentation")
    yield host.widget
    host.widget.cleanup()


def row_of(panel, name: str) -> int:
    return next(row for row in range(panel.ui.modelsTable.rowCount) if panel.ui.modelsTable.item(row, 1).text() == name)


def used(panel) -> set[str]:
    table = panel.ui.modelsTable
    ticked = slicer.qt.Qt.Checked
    return {table.item(row, 1).text() for row in range(table.rowCount) if table.item(row, 0).checkState() == ticked}


def tick(panel, name: str, on: bool = True) -> None:
    item = panel.ui.modelsTable.item(row_of(panel, name), 0)
    item.setCheckState(slicer.qt.Qt.Checked if on else slicer.qt.Qt.Unchecked)


def test_shipped_models_are_listed_with_what_they_are_for(panel) -> None:
    table = panel.ui.modelsTable
    row = row_of(panel, "bpr_thorax")
    assert table.item(row, 3).text() == "thorax" and table.item(row, 4).text().endswith("MB")
    assert "bpr_thorax" in used(panel) and "bpr_baseline" not in used(panel)
    table.setCurrentCell(row, 1)
    card = panel.ui.modelCardText.plainText
    assert "License: Apache-2.0" in card and "SHA-256" in card and "thorax" in card
    assert not panel.ui.removeModelButton.enabled, "what came with the extension stays"
    panel.ui.verifyModelButton.click()
    assert "all checksums are right" in panel.ui.modelsMessageLabel.text


def test_a_model_of_ones_own_is_imported_used_and_removed(panel, own) -> None:
    FILE_ANSWERS.append(str(own))
    panel.ui.importFolderButton.click()
    assert "Installed: thorax_of_mine" in panel.ui.modelsMessageLabel.text
    assert "thorax_of_mine" not in used(panel), "the shipped one is used until the other is ticked"
    tick(panel, "thorax_of_mine")
    assert panel._parameterNode.models == ["thorax_of_mine"]
    assert "thorax_of_mine" in used(panel) and "bpr_thorax" not in used(panel), "one for each purpose"
    tick(panel, "bpr_thorax")
    assert panel._parameterNode.models == [] and "bpr_thorax" in used(panel)
    tick(panel, "thorax_of_mine")
    panel.ui.modelsTable.setCurrentCell(row_of(panel, "thorax_of_mine"), 1)
    panel.ui.removeModelButton.click()
    assert "Removed" in panel.ui.modelsMessageLabel.text and "bpr_thorax" in used(panel)


def test_a_zip_is_imported_and_a_damaged_one_refused(panel, own, tmp_path) -> None:
    zipped = shutil.make_archive(str(tmp_path / "bundle"), "zip", own.parent, own.name)
    FILE_ANSWERS.append(zipped)
    panel.ui.importZipButton.click()
    assert "Installed" in panel.ui.modelsMessageLabel.text
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    FILE_ANSWERS.append(str(tmp_path / "bad.zip"))
    panel.ui.importZipButton.click()
    assert "not a zip file" in panel.ui.modelsMessageLabel.text
    panel.ui.importZipButton.click()  # the person cancels the dialog
    assert "not a zip file" in panel.ui.modelsMessageLabel.text


def test_one_network_for_everything_takes_the_regions_place(panel) -> None:
    from BPRSegmentationLib.models_section import slot_of

    tick(panel, "bpr_baseline")
    assert panel._parameterNode.models == ["bpr_baseline"]
    assert used(panel) == {"bpr_baseline", next(iter(b.name for b in panel._models._bundles if slot_of(b) == "score"))}
    tick(panel, "bpr_thorax")
    assert "bpr_baseline" not in used(panel) and "bpr_pelvis" in used(panel)


def test_organs_that_no_model_knows_are_gray(panel, own) -> None:
    from BPRSegmentationLib.choices_section import known_organs

    everything = {name for name, item in panel._choices._organs.items() if not item.isDisabled()}
    assert everything == known_organs([])
    tick(panel, "bpr_baseline")
    enabled = {name for name, item in panel._choices._organs.items() if not item.isDisabled()}
    assert enabled == set(find_bundle("bpr_baseline").facts["structures"])


def test_a_damaged_model_is_listed_and_cannot_be_used(panel, tmp_path) -> None:
    broken = tmp_path / "my models" / "broken" / "configs"
    broken.mkdir(parents=True)
    (broken / "metadata.json").write_text("{")
    panel.enter()
    assert panel.ui.modelsTable.item(row_of(panel, "broken"), 3).text() == "damaged"
    panel.ui.modelsTable.setCurrentCell(row_of(panel, "broken"), 1)
    assert "cannot be read" in panel.ui.modelCardText.plainText
    panel.ui.verifyModelButton.click()
    assert "SHA256SUMS" in panel.ui.modelsMessageLabel.text


def test_the_models_folder_is_opened(panel, tmp_path) -> None:
    panel.ui.modelsFolderButton.click()
    assert OPENED_URLS and "my models" in OPENED_URLS[0].replace("%20", " ") and (tmp_path / "my models").is_dir()
