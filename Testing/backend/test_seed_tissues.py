"""The SEED loop for slices: muscle and fat that a person corrected teach the body-composition network."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")
pytest.importorskip("onnx", reason="writing bundles needs onnx, which this environment leaves out")

import safetensors.torch  # noqa: E402
from seed_samples import as_image, write_slice_bundle  # noqa: E402
from test_body_composition import trunk  # noqa: E402

from bpr.body_composition.files import segmentation  # noqa: E402
from bpr.body_composition.job import ROLE, Composition, SliceFound, composition_bundles  # noqa: E402
from bpr.body_composition.level import Level  # noqa: E402
from bpr.body_composition.measure import slice_tissues  # noqa: E402
from bpr.body_composition.slices import axial_slice  # noqa: E402
from bpr.body_composition.tissues import BONE, COMPARTMENTS, DRAWN, TISSUES, tissue_labels  # noqa: E402
from bpr.body_composition.training import LIKE_FAT, LIKE_MUSCLE, allowed_compartments  # noqa: E402
from bpr.cli import main  # noqa: E402
from bpr.compute.engines import open_engine  # noqa: E402
from bpr.errors import InputError  # noqa: E402
from bpr.models import find_bundle, names_in_use  # noqa: E402
from bpr.phantom import make_phantom  # noqa: E402
from bpr.seed.cases import drawn_labels  # noqa: E402
from bpr.seed.finetune import Request, finetune  # noqa: E402
from bpr.seed.kinds import kind_of  # noqa: E402
from bpr.seed.learn import rate_groups  # noqa: E402
from bpr.seed.marks import Mark  # noqa: E402
from bpr.seed.material import gather  # noqa: E402
from bpr.seed.memory import Memory, OldModel  # noqa: E402
from bpr.seed.plan import Recipe  # noqa: E402
from bpr.seed.project import SeedProject  # noqa: E402
from bpr.seed.propose import merged, propose  # noqa: E402
from bpr.seed.runs import ask, latest  # noqa: E402
from bpr.seed.segments import read_stored  # noqa: E402
from bpr.seed.suggest import suggest  # noqa: E402
from bpr.segmentation.labels import label_table  # noqa: E402
from bpr.volume import read_volume  # noqa: E402

MUSCLE, SKIN_FAT, VISCERAL_FAT, _ = (tissue.value for tissue in TISSUES)
SLICES, SPACING = 6, (4.0, 4.0, 5.0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def slice_bundle(tmp_path_factory: pytest.TempPathFactory):
    return write_slice_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def project(tmp_path: Path, slice_bundle) -> SeedProject:
    return SeedProject.create(tmp_path / "project", str(slice_bundle.folder))


def body(seed: int = 0) -> tuple[sitk.Image, np.ndarray]:
    """A short trunk of six slices and its tissues (z, y, x)."""
    rng = np.random.default_rng(seed)
    hu, number = trunk((90, 120), 4.0)
    hu = np.stack([hu + 8 * rng.normal(size=hu.shape) * (hu > -900) for _ in range(SLICES)])
    image = sitk.GetImageFromArray(np.rint(hu).astype(np.int16))
    image.SetSpacing(SPACING)
    image.SetOrigin((-240.0, -180.0, 50.0))
    return image, np.stack([tissue_labels(number, one) for one in hu])


def write_body(folder: Path, labels: np.ndarray | None = None, seed: int = 0, code: str = "LPS") -> tuple[Path, Path]:
    """Volume and label map in an orientation; slices count along it."""
    folder.mkdir(parents=True, exist_ok=True)
    image, truth = body(seed)
    drawn = as_image(truth if labels is None else labels, image)
    for one, name in ((image, "ct.nrrd"), (drawn, "s.nrrd")):
        sitk.WriteImage(sitk.DICOMOrient(one, code), str(folder / name))
    return folder / "ct.nrrd", folder / "s.nrrd"


def taught(project: SeedProject, identifier: str, organs: tuple[str, ...] = ()):
    kind = kind_of(find_bundle(project.bundle))
    return kind.teach(project.case(identifier), project.folder / "cache", organs)


def test_organs_and_tissues_are_never_taken_for_each_other():
    for key in ("id", "name", "snomed_code"):
        assert not {getattr(one, key) for one in DRAWN} & {getattr(one, key) for one in label_table()}


def test_labels_of_a_slice_project_are_tissues(project, tmp_path: Path):
    """Label 1 is a lung in an organ's project, muscle here; an organ cannot be marked."""
    case = project.add(*write_body(tmp_path / "in"), [Mark(((2, 3),))])
    assert case.structures == ("skeletal_muscle", "subcutaneous_fat", "visceral_fat")
    with pytest.raises(InputError, match="no organ 'liver'"):
        project.mark(case.id, [Mark((), ("liver",))])
    organs = SeedProject.create(tmp_path / "organs", "bpr_thorax").add(*write_body(tmp_path / "in"))
    assert "lung_left" in organs.structures and "skeletal_muscle" not in organs.structures


@pytest.mark.parametrize("code", ["LPS", "SPL"])
def test_marked_slices_teach_as_they_were_drawn(project, tmp_path: Path, code: str):
    """In any orientation; the HU rule names what was painted over its border."""
    truth = body()[1]
    painted = truth.copy()
    painted[2][truth[2] == VISCERAL_FAT] = MUSCLE  # all fat inside the wall, as if it were between muscles
    case = project.add(*write_body(tmp_path / "in", painted, code=code), [Mark(((2, 3),))])
    low, high = taught(project, case.id).slices
    assert {low.index, high.index} == {2, 3} and low.known == (True, True, True, False, False)
    assert (low.labels == MUSCLE).sum() == (truth[2] == MUSCLE).sum(), "fat that is painted as muscle is none"
    assert (high.labels == truth[3]).all() and (high.labels == VISCERAL_FAT).any()


def test_the_file_of_a_measurement_is_a_case(project, tmp_path: Path):
    """What `bpr body-composition` wrote, of its slices only, once a person has corrected it."""
    image, truth = body()
    slices = [axial_slice(image, k, 50.0 + 5 * k) for k in (2, 3)]
    found = [SliceFound(one, truth[one.index], [], 0.0) for one in slices]
    drawn = segmentation(Composition(Level("L3", 62.0, 3.0, "inside"), None, "measured", found), image)
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    sitk.WriteImage(drawn, str(tmp_path / "body_composition.seg.nrrd"))
    case = project.add(tmp_path / "ct.nrrd", tmp_path / "body_composition.seg.nrrd", [Mark(((3, 3),))])
    (one,) = taught(project, case.id).slices
    assert one.known == (True, True, True, True, False) and (one.labels == truth[3]).all()


def test_what_nobody_looked_for_may_be_anywhere(project, tmp_path: Path):
    case = project.add(*write_body(tmp_path / "in"), [Mark(((1, 1),), ("skeletal_muscle",))])
    (one,) = taught(project, case.id).slices
    assert set(np.unique(one.labels)) == {0, MUSCLE}
    muscle, skin = COMPARTMENTS.index("muscle"), COMPARTMENTS.index("subcutaneous")
    allowed = allowed_compartments(one.known)
    assert not allowed[LIKE_MUSCLE, muscle] and allowed[LIKE_FAT, [muscle, skin]].all()
    everything = allowed_compartments((True,) * BONE)
    assert not everything[LIKE_FAT, [muscle, skin]].any()


def test_the_loss_asks_for_known_tissues_only(project, slice_bundle):
    """Without a drawn vertebra the network may see one, and is not taught that there is none."""
    kind = kind_of(slice_bundle)
    bone = COMPARTMENTS.index("bone")
    target = torch.full((16, 16), LIKE_MUSCLE)

    def loss(known: tuple[bool, ...]) -> float:
        logits = torch.zeros(1, len(COMPARTMENTS), 16, 16)
        logits[:, bone] = 10.0
        return float(kind.loss(logits, target, torch.tensor(known), 0.0))

    assert loss((True, True, True, True, True)) > loss((True, True, True, True, False)) + 0.1


def test_marked_slices_on_which_nothing_is_drawn_teach_nothing(project, tmp_path: Path):
    truth = body()[1]
    truth[[0, 1, 4, 5]] = 0
    case = project.add(*write_body(tmp_path / "in", truth), [Mark()])
    assert [one.index for one in taught(project, case.id).slices] == [2, 3]
    project.mark(case.id, [Mark(((0, 1),))], replace=True)
    with pytest.raises(InputError, match="No tissue is drawn on the marked slices"):
        taught(project, case.id)
    with pytest.raises(InputError, match="do not match the model"):
        taught(project, case.id, ("liver",))


def test_slices_of_one_patient_are_held_out_when_there_are_enough(project, slice_bundle, tmp_path: Path):
    project.add(*write_body(tmp_path / "in"), [Mark()])
    material, _ = gather(project, slice_bundle)
    assert material.held_out and (len(material.training[0].slices), len(material.validation[0].slices)) == (4, 2)
    assert not material.replay and not material.remembered, "a phantom knows no tissues"


def test_only_the_way_down_is_the_encoder(slice_bundle):
    from bpr.compute.torch_networks import load_network

    network = load_network(slice_bundle)
    encoder, rest = rate_groups(network, 0.3, kind_of(slice_bundle).encoder)
    assert encoder["scale"] == 0.3 and len(encoder["params"]) > 10 and len(rest["params"]) > 5
    names = [name for name, p in network.named_parameters() if any(p is other for other in rest["params"])]
    assert all(".2." in name for name in names), "in MONAI's UNet the third child of each level goes up"


def test_learning_without_forgetting_works_on_slices(slice_bundle):
    from bpr.compute.torch_networks import load_network

    network = load_network(slice_bundle)
    images = torch.rand(1, 4, 192, 256)
    silent = torch.zeros(1, 192, 256, dtype=torch.bool)
    silent[:, 100:] = True
    assert OldModel(network).loss(images, network(images), silent).item() == pytest.approx(0, abs=1e-6)
    assert OldModel(network).loss(images, torch.rand(1, len(COMPARTMENTS), 192, 256), silent).item() > 0.01


def test_a_few_corrected_slices_make_a_better_model(project, tmp_path: Path, monkeypatch, capsys):
    """From `bpr seed add` to the bundle that a measurement uses."""
    monkeypatch.setenv("BPR_MODELS", str(tmp_path / "models"))
    for seed in range(3):
        volume, drawn = write_body(tmp_path / f"in{seed}", seed=seed)
        command = ["seed", "add", str(project.folder), "--volume", str(volume), "--segmentation", str(drawn),
                   "--slices", "2-3", "--domain", "scanner A"]  # fmt: skip
        assert main(command) == 0
    assert "skeletal_muscle" in capsys.readouterr().out
    recipe = Recipe(learning_rate=2e-2, encoder_scale=1.0, checks=2, memory=Memory(0, 0, 0))
    outcome = finetune(project, Request(steps=40, recipe=recipe))
    (group,) = outcome.comparison.groups
    assert outcome.comparison.accepted and group.change.mean > 0.1 and "skeletal_muscle" in group.organs
    outcome.bundle.verify()
    assert "own pixels" in outcome.bundle.card and "skeletal_muscle" in outcome.bundle.card
    assert (outcome.run.folder / "worst_1.png").stat().st_size > 5000
    used = composition_bundles([str(outcome.bundle.folder)])[ROLE]
    assert used.facts["seed"]["parent"] == "slices" and used.folder == outcome.bundle.folder
    image, truth = body(seed=9)
    found, _ = slice_tissues(sitk.GetArrayFromImage(image)[0].astype(np.float32), (4.0, 4.0),
                             open_engine().predictor(used))  # fmt: skip
    both = ((found == SKIN_FAT) & (truth[0] == SKIN_FAT)).sum()
    assert 2 * both / ((found == SKIN_FAT).sum() + (truth[0] == SKIN_FAT).sum()) > 0.5
    assert main(["seed", "use", str(project.folder)]) == 0
    assert names_in_use() == {"body_composition": "slices_seed1"} == {ROLE: composition_bundles([])[ROLE].name}


def test_a_paused_training_of_slices_resumes_to_the_same_weights(slice_bundle, tmp_path: Path):
    def trained(folder: Path, pause: bool) -> dict:
        project = SeedProject.create(folder / "project", str(slice_bundle.folder))
        project.add(*write_body(folder / "in"), [Mark()])
        request = Request(steps=4, recipe=Recipe(checks=2, memory=Memory(0.25, 1.0, 0.0)))

        def listen(event: dict) -> None:
            if pause and event.get("name") == "dice" and event["step"] == 2:
                ask(latest(project.folder), "pause")

        outcome = finetune(project, request, listen)
        if pause:
            assert outcome.state == "paused"
            outcome = finetune(project, replace(request, resume=True))
        return safetensors.torch.load_file(str(outcome.bundle.weights))

    whole, resumed = trained(tmp_path / "a", False), trained(tmp_path / "b", True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_proposal_keeps_the_marked_slices(project, tmp_path: Path):
    """Other slices become what the model says, and no contour is carried from one slice to the next."""
    case = project.add(*write_body(tmp_path / "in"), [Mark(((2, 2),))])
    truth = body()[1]
    model = np.zeros_like(truth)
    model[2:5] = np.roll(truth[2:5], 5, axis=2)
    found = merged(model, [], read_stored(case), case, read_volume(case.volume_path).image)
    assert (found[2] == truth[2]).all() and (found[3:] == model[3:]).all() and not found[:2].any()


def test_a_model_proposes_muscle_and_fat_at_l3(tmp_path: Path):
    """On a scan without labels; then it names a slice that is worth a look."""
    project = SeedProject.create(tmp_path / "project", "bpr_body_composition")
    sitk.WriteImage(make_phantom(spacing_mm=(3.0, 3.0, 5.0), seed=0).image, str(tmp_path / "ct.nrrd"))
    case = project.add(tmp_path / "ct.nrrd")
    bundle = find_bundle(project.bundle)
    found = propose(project, case.id, bundle)
    assert set(found.structures) == {tissue.id for tissue in TISSUES} and found.role == "model"
    labels = drawn_labels(read_stored(found), None, sitk.ReadImage(str(case.volume_path)))
    filled = np.flatnonzero(labels.any((1, 2)))
    assert 1 <= len(filled) <= 4 and (labels[filled] == MUSCLE).sum((1, 2)).min() * 0.09 > 40, "cm2 of muscle on each"
    volumes, slices = suggest(project)
    assert [one.case for one in volumes] == [case.id] and slices[0].slice in filled and slices[0].reason
    project.mark(case.id, [Mark(((int(filled[0]), int(filled[-1])),))])
    assert suggest(project) == ([], []), "what is marked needs no look"


def test_real_slices_teach_the_shipped_network(shared_data: Path, tmp_path: Path):
    """Three people whose scans taught it nothing: every part of the loop on real CT, a few steps."""
    with open(shared_data / "l3" / "cases.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["level"].startswith("L3")]
    project = SeedProject.create(tmp_path / "project", "bpr_body_composition")
    for name in ("rad1211_10_AP", "rad1720_31_EQP", "rad0697_31_EQP"):
        indices = [int(row["slice_index"]) for row in rows if row["id"] == name]
        start, stop = min(indices) - 1, max(indices) + 2
        image = sitk.ReadImage(str(shared_data / "ct" / f"{name}.nii.gz"))[:, :, start:stop]
        drawn = sitk.GetArrayFromImage(sitk.ReadImage(str(shared_data / "l3" / f"{name}_l3.nii.gz")))
        labels = np.full(sitk.GetArrayViewFromImage(image).shape, 0, np.uint8)
        labels[[index - start for index in indices]] = drawn
        sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
        sitk.WriteImage(as_image(labels, image), str(tmp_path / "s.nrrd"))
        middle = indices[1] - start
        project.add(tmp_path / "ct.nrrd", tmp_path / "s.nrrd", [Mark(((middle, middle),))], domain="B")
    outcome = finetune(project, Request(steps=2, recipe=Recipe(checks=1)))
    (group,) = outcome.comparison.groups
    assert group.before.mean > 0.7 and group.organs["skeletal_muscle"][0].mean > 0.88
    assert abs(group.change.mean) < 0.1, "two steps change little"
    plan = json.loads((outcome.run.folder / "plan.json").read_text(encoding="utf-8"))
    assert len(plan["cases"]) == 3 and outcome.bundle.slot == ROLE
