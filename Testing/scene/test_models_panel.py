"""The bundle manager: list, cards, use, import, verify, remove, with real bundles on disk."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import slicer
import slicer_stand_in
from panel_fixtures import run_to_end, wait
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


@pytest.fixture
def mr_model(panel, tmp_path) -> str:
    """The name of an installed model for an MR of two structures; it has learned nothing and sees toys everywhere."""
    torch = pytest.importorskip("torch", reason="making a bundle needs torch, which this environment leaves out")
    pytest.importorskip("onnx", reason="making a bundle needs onnx, which this environment leaves out")
    from bpr.domains.ensemble import build_ensemble
    from bpr.training.bundle import bundle_metadata, write_bundle

    same = {"group": "toy", "snomed_code": "1", "snomed_meaning": "Toy", "red": 255, "green": 0, "blue": 0}
    sides = ((4, "left"), (9, "right"))
    rows = [same | {"value": value, "id": f"toy_{side}", "name": f"{side} toy"} for value, side in sides]
    domain = {"name": "knee MR", "modality": "MR", "inputs": ["standard"], "grid_mm": 4.0, "labels": rows}
    facts = {"role": "domain", "use": "own", "modality": "MR", "structures": ["toy_left", "toy_right"],
             "tile": [16, 16, 32], "domain": domain}  # fmt: skip
    torch.manual_seed(0)
    shape = {"members": 1, "classes": 3, "filters": [4] * 5, "channels": 1}
    network, example = build_ensemble(**shape), torch.zeros(1, 1, 16, 16, 32)
    with torch.no_grad():
        network.members[0].output_block.conv.conv.bias[0] = -20.0
    metadata = bundle_metadata({"version": "1"}, "knee", facts, example, 3, {"0": "background"}, "none")
    write_bundle(tmp_path / "my models" / "knee", network, {"_target_": "Ensemble"} | shape, example, metadata, "knee")
    panel.enter()
    return "knee"


def test_a_model_for_mr_says_so_and_is_used_alone_when_it_is_ticked(panel, mr_model) -> None:
    assert panel.ui.modelsTable.item(row_of(panel, mr_model), 3).text() == "knee MR; for MR"
    assert mr_model not in used(panel), "nobody asked for it"
    tick(panel, "bpr_baseline")
    tick(panel, mr_model)
    assert panel._parameterNode.models == [mr_model] and used(panel) == {mr_model}
    assert all(item.isDisabled() for item in panel._choices._organs.values()), "it has organs of its own"
    tick(panel, "bpr_baseline")
    assert panel._parameterNode.models == ["bpr_baseline"] and mr_model not in used(panel)
    tick(panel, mr_model)
    tick(panel, mr_model, on=False)
    assert panel._parameterNode.models == [] and "bpr_thorax" in used(panel)


def test_a_model_for_mr_segments_without_scores(panel, mr_model, stage) -> None:
    pytest.importorskip("openvino")
    tick(panel, mr_model)
    panel._parameterNode.leftOutOrgans, panel._parameterNode.leftOutRegions = ["liver"], ["thorax"]
    panel.logic.pythonExecutable = lambda: sys.executable
    for _again in range(2):  # the second result takes the place of the first
        panel.ui.runButton.click()
        wait(lambda: panel._control.run is None, limit_s=120)
        text = panel.ui.statusLabel.text
        assert "structures were segmented" in text and "are made for CT only" in text, panel.ui.detailsText.plainText
        assert "No region" not in text
    node = stage.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    names = [
        node.GetSegmentation().GetNthSegment(k).GetName() for k in range(node.GetSegmentation().GetNumberOfSegments())
    ]
    assert set(names) <= {"left toy", "right toy"} and len(names) == len(set(names)) > 0
    panel._parameterNode.produceSegmentation = False
    run_to_end(panel)
    assert "knee gives no scores and no regions" in panel.ui.statusLabel.text
