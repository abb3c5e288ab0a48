"""Domains end to end: a configuration trains, becomes bundles, and they segment scans that are no CT."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")
yaml = pytest.importorskip("yaml", reason="training needs pyyaml, which this environment leaves out")

from domain_samples import toy_intensities, toy_labels  # noqa: E402
from volume_samples import trunk_array, write_series  # noqa: E402

from bpr.cli import main  # noqa: E402
from bpr.compute.engines import OpenVinoEngine, TorchEngine  # noqa: E402
from bpr.errors import InputError  # noqa: E402
from bpr.job import JobRequest, run_job  # noqa: E402
from bpr.models import find_bundle  # noqa: E402

LOOKS = ("smooth", "grainy")
COLUMNS = "value,id,name,group,snomed_code,snomed_meaning,modifier_code,modifier_meaning,red,green,blue,partner,cleanup"


def write_scan(path: Path, look: str, seed: int) -> Path:
    """An MR of that look, oblique in its file, with its labels beside it."""
    rng = np.random.default_rng(seed)
    labels = toy_labels(rng, (20, 24, 34))
    for array, name in ((toy_intensities(labels, look, rng), "mr"), (labels, "seg")):
        image = sitk.GetImageFromArray(array)
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        image.SetSpacing((1.5, 1.5, 1.5))
        sitk.WriteImage(image, str(path.with_name(f"{path.name}_{name}.nii.gz")))
    return path.with_name(f"{path.name}_mr.nii.gz")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with data, a configuration of two domains, what was trained, and the models folder."""
    folder = tmp_path_factory.mktemp("domains")
    (folder / "data").mkdir()
    lines = ["id,look"]
    for number in range(10):
        write_scan(folder / "data" / f"p{number}", LOOKS[number % 2], number)
        lines.append(f"p{number},{LOOKS[number % 2]}")
    (folder / "data" / "cases.csv").write_text("\n".join(lines))
    rows = [COLUMNS, "4,toy_left,left toy,toy,1,Toy,,,255,0,0,,", "9,toy_right,right toy,toy,1,Toy,,,0,0,255,,"]
    (folder / "toys.csv").write_text("\n".join(rows))
    domain = {"modality": "MR", "inputs": ["standard"], "grid_mm": 1.5, "label_table": "toys.csv", "folder": ".",
              "image": "{id}_mr.nii.gz", "labels": "{id}_seg.nii.gz",
              "values": {1: "toy_left", 2: "toy_right"}}  # fmt: skip
    config = {"bundle": "toys", "version": "0.0.1", "use": "own", "license": "none", "filters": [8, 8, 8, 8, 8],
              "patch": [16, 16, 32], "held_out": 0.2, "prior": 0.1, "prior_steps": 3,
              "contrast": {"depths": [4, 6], "weights": 0.1},
              "domains": [domain | {"name": f"{look} MR", "where": {"look": look}} for look in LOOKS],
              "recipe": {"steps": 40, "groups": 0, "folds": 2, "checks": 1, "learning_rate": 0.02, "average": 0.8,
                         "dropout": 0.0, "augmentation": "none", "mirror": False}}  # fmt: skip
    (folder / "toys.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def models(trained: Path) -> Path:
    """Train and package as a person would."""
    patch = pytest.MonkeyPatch()
    patch.setenv("BPR_DATA", str(trained / "data"))
    patch.setenv("BPR_MODELS", str(trained / "models"))
    for command in ("train", "bundle"):
        assert main([command, "segmentation", str(trained / "toys.yaml"), "--work", str(trained / "work")]) == 0
    yield trained
    patch.undo()


def test_the_report_tells_the_gap_and_the_bundle_its_modality(models):
    report = json.loads((models / "work" / "toys" / "report.json").read_text())
    assert {entry["structure"] for entry in report["smooth MR"]["test"]} == {"toy_left", "toy_right"}
    bundle = find_bundle("toys_smooth_mr")
    assert bundle.facts["modality"] == "MR" and "gap" in bundle.card and "not in" not in bundle.card
    assert bundle.metadata["network_data_format"]["inputs"]["image"]["modality"] == "MR"
    image = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 32)).astype(np.float32)
    a, b = OpenVinoEngine().predictor(bundle)(image), TorchEngine("cpu").predictor(bundle)(image)
    assert (a.argmax(1) == b.argmax(1)).mean() >= 0.999, "two folds in one graph, in both engines"


def test_an_mr_is_segmented_without_scores(models, tmp_path):
    scan = write_scan(tmp_path / "new", "smooth", 77)
    result = run_job(JobRequest(str(scan), str(tmp_path / "out"), bundles=["toys_smooth_mr"]))
    assert [notice.code for notice in result.notices] == ["ct_only"], "what is CT only says so in a sentence"
    found = sitk.ReadImage(str(tmp_path / "out" / "segmentation.seg.nrrd"))
    truth = sitk.ReadImage(str(tmp_path / "new_seg.nii.gz"))
    labels = sitk.GetArrayFromImage(found)
    assert set(np.unique(labels)) == {0, 4, 9} and found.GetMetaData("Segment0_Name") == "left toy"
    assert found.GetSize() == truth.GetSize() and found.GetDirection() == truth.GetDirection()
    drawn = sitk.GetArrayFromImage(truth)
    overlap = [2 * ((labels == a) & (drawn == b)).sum() / ((labels == a).sum() + (drawn == b).sum())
               for a, b in ((4, 1), (9, 2))]  # fmt: skip
    assert np.mean(overlap) > 0.3, overlap
    summary = json.loads((tmp_path / "out" / "result.json").read_text())
    assert summary["verdict"] is None and len(summary["segments"]) == 2


def write_mr_series(folder: Path, image: sitk.Image, modality: str = "MR") -> Path:
    """The same scan as axial DICOM slices."""
    array = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
    spacing = image.GetSpacing()
    return write_series(folder, array, spacing[2] * np.arange(len(array)), Modality=modality, RescaleIntercept=0,
                        PixelSpacing=[spacing[1], spacing[0]])  # fmt: skip


def test_a_dicom_series_of_mr_gives_what_the_same_scan_as_a_file_gives(models, tmp_path):
    image = sitk.ReadImage(str(write_scan(tmp_path / "new", "smooth", 77)))
    whole = sitk.Cast(sitk.Round(image), sitk.sitkInt16)
    sitk.WriteImage(whole, str(tmp_path / "whole.nii.gz"))
    series = write_mr_series(tmp_path / "series", whole)
    write_series(tmp_path / "series" / "ct", trunk_array(30), series="1.2.9")  # more slices, and not asked for
    labels = []
    for number, scan in enumerate((tmp_path / "whole.nii.gz", series, series / "000.dcm")):
        result = run_job(JobRequest(str(scan), str(tmp_path / f"out{number}"), bundles=["toys_smooth_mr"]))
        assert "ct_only" in [notice.code for notice in result.notices]
        found = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / f"out{number}" / "segmentation.seg.nrrd")), "LPS")
        labels.append(sitk.GetArrayFromImage(found))
    assert set(np.unique(labels[0])) == {0, 4, 9}
    assert all((labels[0] == other).mean() > 0.999 for other in labels[1:])
    assert "a CT series" not in str(result.notices)


def test_what_dicom_says_against_the_model_is_a_sentence(models, tmp_path):
    ct, mr = write_series(tmp_path / "ct", trunk_array()), write_series(tmp_path / "mr", trunk_array(), Modality="MR")
    for scan, says in ((ct, "ct holds no MR but CT"), (ct / "000.dcm", "000.dcm holds no MR but CT")):
        with pytest.raises(InputError, match=says) as caught:
            run_job(JobRequest(str(scan), str(tmp_path / "out"), bundles=["toys_smooth_mr"]))
        assert "The chosen model is for MR" in caught.value.advice
    for scan in (mr, mr / "000.dcm", write_scan(tmp_path / "new", "smooth", 3)):
        with pytest.raises(InputError) as caught:
            run_job(JobRequest(str(scan), str(tmp_path / "out")))
        assert "for another modality choose a model that says so" in caught.value.advice
    assert not (tmp_path / "out").exists()


def test_evaluate_tells_dice_by_domain_and_structure_and_the_gap(models, tmp_path, capsys):
    out = tmp_path / "numbers.json"
    command = ["evaluate", "segmentation", "toys", str(models / "data"), "--config", str(models / "toys.yaml")]
    assert main([*command, "--out", str(out)]) == 0
    printed, numbers = capsys.readouterr().out, json.loads(out.read_text())
    assert "| Dice, smooth MR: left toy |" in printed and "grainy MR: training minus test Dice" in printed
    assert {entry["case"] for entry in numbers["by case"] if not entry["taught"]} == {
        entry["case"] for own in json.loads((models / "work" / "toys" / "report.json").read_text()).values()
        for entry in own["test"]}, "the cases that were left out are those of the training's report"  # fmt: skip
    dice = numbers["dice"]
    assert dice["smooth MR: all structures"]["n"] == 2 and dice["smooth MR: training cases"]["n"] == 8
    gap = dice["smooth MR: training cases"]["mean"] - dice["smooth MR: all structures"]["mean"]
    assert numbers["gap"]["smooth MR"] == pytest.approx(gap) and dice["smooth MR: all structures"]["mean"] > 0.3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["segmentation", "toys_smooth_mr"], "its cases are not known"),
        (["segmentation", "other", "--config", "toys.yaml"], "other is no bundle of toys"),
        (["segmentation", "toys", "--config", "segmentation_baseline.yaml"], "lists no domains"),
        (["score", "toys_smooth_mr"], "gives no scores"),
        (["segmentation", "bpr_body_composition"], "a model for body composition"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_a_sentence(models, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(models)
    kind, name, *more = arguments
    assert main(["evaluate", kind, name, str(models / "data"), *more]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert says in printed and "Traceback" not in printed


def test_an_unknown_domain_is_guessed_with_a_warning(models, tmp_path, capsys):
    names = ["toys_smooth_mr", "toys_grainy_mr"]
    for look in LOOKS:
        scan = write_scan(tmp_path / look, look, 88)
        options = [part for name in names for part in ("--bundle", name)]
        assert main(["run", str(scan), "--out", str(tmp_path / f"out {look}"), "--only", "segmentation", *options]) == 0
        summary = json.loads((tmp_path / f"out {look}" / "result.json").read_text())
        codes = [notice["code"] for notice in summary["notices"]]
        assert summary["bundles"]["domain"].startswith(f"toys_{look}_mr") and "domain_guessed" in codes
    assert "domain is not known" in " ".join(capsys.readouterr().out.split()), "the terminal says so too"


@pytest.mark.parametrize(
    "asked", [{"produce": ("scores",)}, {"organs": ["liver"]}, {"bundles": ["toys_smooth_mr", "bpr_baseline"]}]
)
def test_what_a_domain_s_bundle_cannot_give_is_refused(models, tmp_path, asked):
    scan = write_scan(tmp_path / "new", "smooth", 1)
    with pytest.raises(InputError):
        run_job(JobRequest(str(scan), str(tmp_path / "out"), **({"bundles": ["toys_smooth_mr"]} | asked)))
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_does_not_fit_is_refused_in_a_sentence(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BPR_DATA", str(trained / "data"))
    config = yaml.safe_load((trained / "toys.yaml").read_text())
    wrong = ({"recipe": {"epochs": 3}}, {"domains": [config["domains"][0] | {"where": {"scanner": "x"}}]},
             {"domains": [config["domains"][0] | {"inputs": ["wide"]}]})  # fmt: skip
    for number, change in enumerate(wrong):
        path = trained / f"wrong{number}.yaml"
        path.write_text(yaml.safe_dump(config | change))
        assert main(["train", "segmentation", str(path), "--work", str(tmp_path)]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_the_list_of_models_says_the_modality_and_a_batch_refuses_them(models, tmp_path, capsys):
    assert main(["models", "list"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("toys_smooth_mr"))
    assert " MR " in row
    scan = write_scan(tmp_path / "new", "smooth", 4)
    assert main(["batch", str(scan), "--out", str(tmp_path / "out"), "--bundle", "toys_smooth_mr"]) == 2
    assert "toys_smooth_mr gives no scores" in capsys.readouterr().err and not (tmp_path / "out").exists()
