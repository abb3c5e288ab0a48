"""A SEED project survives what happens to folders: damaged and deleted files, a full disk, hostile archives."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from seed_samples import as_image, toy_volume, write_seg, write_toy_case

from bpr.cli import main
from bpr.errors import InputError, OutputError
from bpr.seed.archive import export_project, import_project
from bpr.seed.case import Part, State
from bpr.seed.domain import domain_of, domain_words
from bpr.seed.files import lock
from bpr.seed.marks import Mark, organs_by_slice, parse_slices, slices_text
from bpr.seed.project import SeedProject
from bpr.seed.segments import read_drawing, structure_of
from bpr.segmentation.labels import label_table, structure_by_id, terminology_entry


@pytest.fixture
def project(tmp_path: Path) -> SeedProject:
    return SeedProject.create(tmp_path / "project", "bpr_pelvis")


@pytest.fixture
def filled(project: SeedProject, tmp_path: Path) -> SeedProject:
    for seed in range(2):
        project.add(*write_toy_case(tmp_path / f"in{seed}", seed), [Mark(((3, 9),))], domain="scanner A")
    return project


def test_slices_are_written_as_people_write_them():
    assert parse_slices("10-20, 35") == ((10, 20), (35, 35)) and parse_slices("all") == ()
    for text in ("20-10", "ten", "1-2-3", "-4"):
        with pytest.raises(InputError, match="no slice or range"):
            parse_slices(text)
    marks = (Mark(((10, 20), (35, 35))), Mark((), ("liver",)))
    assert slices_text(marks) == "10-20, 35; liver: all"


def test_marks_group_slices_by_what_is_known():
    marks = (Mark(((0, 1),)), Mark(((1, 2),), ("heart",)))
    groups = organs_by_slice(marks, 4, ("liver", "spleen"))
    found = {tuple(sorted(organs)): list(np.flatnonzero(slices)) for organs, slices in groups.items()}
    assert found == {("liver", "spleen"): [0], ("heart", "liver", "spleen"): [1], ("heart",): [2]}


def test_a_case_comes_back_as_it_was_added(filled: SeedProject):
    case = SeedProject.open(filled.folder).case("case001")
    assert case.structures == ("liver", "spleen") and case.marks == (Mark(((3, 9),)),)
    assert case.state is State.ACCEPTED and case.domain == "scanner A" and case.teaches
    assert [entry["label"] for entry in case.segments] == [structure_by_id(o).value for o in ("liver", "spleen")]
    assert case.role == "annotator" and len(case.changed) == 10


def test_states_marks_and_sides_change_and_stay(filled: SeedProject):
    filled.set_state("case001", State.EXCLUDED)
    assert not filled.case("case001").teaches
    assert filled.mark("case001", [Mark(((1, 2),), ("liver",))]).state is State.ACCEPTED
    assert len(filled.case("case001").marks) == 2
    assert filled.mark("case001", [], replace=True).state is State.NEW
    filled.set_part("case002", Part.VALIDATION)
    assert filled.case("case002").part is Part.VALIDATION


def test_the_split_keeps_patients_together_and_does_not_move(project: SeedProject, tmp_path: Path):
    files = write_toy_case(tmp_path / "in")
    for patient in ("a", "b", "b", "c", "d"):
        project.add(*files, [Mark()], patient=patient)
    first = project.split()
    assert list(first.values()).count(Part.VALIDATION) == 1 and first["case002"] is first["case003"]
    project.add(*files, [Mark()], patient="e")
    second = project.split()
    assert all(second[name] is part for name, part in first.items())
    assert SeedProject.create(tmp_path / "two", "x").split() == {}


def test_nobody_validates_below_three_patients(filled: SeedProject):
    assert set(filled.split().values()) == {Part.TRAINING}


@pytest.mark.parametrize("damage", ["record", "volume", "segmentation"])
def test_a_damaged_case_is_one_sentence_and_the_others_stay(filled: SeedProject, damage: str):
    folder = filled.folder / "cases" / "case001"
    if damage == "record":
        (folder / "case.json").write_text('{"patient": ')
    else:
        (folder / {"volume": "volume.nrrd", "segmentation": "segmentation.seg.nrrd"}[damage]).unlink()
    good, bad = SeedProject.open(filled.folder).cases()
    assert [case.id for case in good] == ["case002"]
    assert len(bad) == 1 and "case001 is damaged" in bad[0].message and "Delete the case" in bad[0].advice
    filled.remove("case001")
    assert filled.case_ids() == ["case002"]


def test_a_record_that_points_outside_of_its_case_is_damaged(filled: SeedProject):
    path = filled.folder / "cases" / "case001" / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"segmentation": "../../project.json"}))
    with pytest.raises(InputError, match="damaged"):
        filled.case("case001")


@pytest.mark.parametrize("number, words", [(errno.ENOSPC, "is full"), (errno.EIO, "reports an error")])
def test_an_addition_that_is_cut_off_leaves_nothing(filled: SeedProject, tmp_path: Path, monkeypatch, number, words):
    def fail(*arguments):
        raise OSError(number, "as the system says")

    with monkeypatch.context() as patch:
        patch.setattr("bpr.seed.project.shutil.copyfile", fail)
        with pytest.raises(OutputError, match=words):
            filled.add(*write_toy_case(tmp_path / "more"), [Mark()])
    assert sorted(path.name for path in (filled.folder / "cases").iterdir()) == ["case001", "case002"]
    (filled.folder / "cases" / ".case003.partial").mkdir()  # what kill -9 leaves
    SeedProject.open(filled.folder)
    assert sorted(path.name for path in (filled.folder / "cases").iterdir()) == ["case001", "case002"]


def test_a_full_disk_is_said_before_anything_is_written(filled: SeedProject, tmp_path: Path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("bpr.seed.files.psutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OutputError, match="are free"):
        filled.add(*write_toy_case(tmp_path / "more"), [Mark()])
    assert filled.case_ids() == ["case001", "case002"]


def test_bad_requests_get_one_sentence(filled: SeedProject, tmp_path: Path):
    volume, segmentation = write_toy_case(tmp_path / "in")
    image, labels = toy_volume()
    far = as_image(labels, image)
    far.SetOrigin((5000, 0, 0))
    cases = {
        "is empty": as_image(np.zeros_like(labels), image),
        "does not lie in the volume": far,
        "stands for a known organ": as_image((labels > 0).astype(np.uint8) * 200, image),
    }
    for words, wrong in cases.items():
        sitk.WriteImage(wrong, str(tmp_path / "wrong.nrrd"))
        with pytest.raises(InputError, match=words):
            filled.add(volume, tmp_path / "wrong.nrrd", [Mark()])
    (tmp_path / "text.seg.nrrd").write_text("no image")
    for path, marks, words in (
        (tmp_path / "text.seg.nrrd", [Mark()], "cannot be read as a segmentation"),
        (tmp_path / "missing.nrrd", [Mark()], "does not exist"),
        (segmentation, [Mark(((2, 300),))], "Slice 300 does not exist"),
        (segmentation, [Mark((), ("wing",))], "no organ 'wing'"),
    ):
        with pytest.raises(InputError, match=words):
            filled.add(volume, path, marks)
    with pytest.raises(InputError, match="already"):
        filled.add(volume, segmentation, [Mark()], identifier="case001")
    with pytest.raises(InputError, match="cannot name"):
        filled.add(volume, segmentation, [Mark()], identifier="../up")
    assert filled.case_ids() == ["case001", "case002"]


def test_segments_are_known_by_id_then_term_then_name():
    kidney = terminology_entry(structure_by_id("kidney_left"))
    assert structure_of("liver", "tumor", kidney, label_table()) == "liver"
    assert structure_of("Segment_7", "my left one", kidney, label_table()) == "kidney_left"
    assert structure_of("Segment_7", "Left Kidney", "", label_table()) == "kidney_left"
    assert structure_of("Segment_7", "something", "a~b", label_table()) == ""


def test_two_segments_for_one_organ_are_refused_unless_one_is_mapped_away(tmp_path: Path):
    image, labels = toy_volume()
    segments = [{"id": "liver", "name": "liver", "layer": 0, "label": 7},
                {"id": "Segment_2", "name": "liver", "layer": 0, "label": 8}]  # fmt: skip
    path = write_seg(tmp_path / "two.seg.nrrd", [as_image(labels, image)], segments)
    with pytest.raises(InputError, match="Two segments of two.seg.nrrd stand for liver"):
        read_drawing(path)
    assert read_drawing(path, {"Segment_2": "spleen"}).structures == ("liver", "spleen")


def test_a_replaced_segmentation_goes_into_review(filled: SeedProject, tmp_path: Path):
    before = filled.case("case001")
    _, segmentation = write_toy_case(tmp_path / "corrected", seed=9)
    after = filled.replace_segmentation("case001", segmentation)
    assert after.state is State.IN_REVIEW and after.marks == before.marks
    assert after.sums["segmentation"] != before.sums["segmentation"]
    assert not list((filled.folder / "cases").glob(".*"))


def test_a_project_goes_into_a_zip_and_comes_back(filled: SeedProject, tmp_path: Path):
    (filled.folder / "cache").mkdir()
    (filled.folder / "cache" / "big.npz").write_bytes(b"0" * 1000)
    archive = export_project(filled, tmp_path / "out.zip")
    assert not [name for name in zipfile.ZipFile(archive).namelist() if "cache" in name]
    back = import_project(archive, tmp_path / "back")
    assert [case.sums for case in back.cases()[0]] == [case.sums for case in filled.cases()[0]]
    with pytest.raises(InputError, match="not empty"):
        import_project(archive, tmp_path / "back")


def _zip(path: Path, members: dict[str, bytes], link: str = "", deflate: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as file:
        for name, content in members.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = file.compression
            if name == link:
                member.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(member, content)
    return path


RECORD = json.dumps({"format": 1, "bundle": "bpr_pelvis", "settings": {}}).encode()
HOSTILE = {
    "climbs out": ({"project.json": RECORD, "../evil": b"x"}, "no project has"),
    "absolute": ({"project.json": RECORD, "/tmp/evil": b"x"}, "no project has"),
    "hidden": ({"project.json": RECORD, "cases/a/.bashrc": b"x"}, "no project has"),
    "program": ({"project.json": RECORD, "cases/a/volume.nrrd/../../../x.py": b"x"}, "no project has"),
    "no record": ({"cases/a/case.json": b"{}"}, "no SEED project"),
    "damaged case": ({"project.json": RECORD, "cases/a/case.json": b"{}"}, "damaged"),
    "damaged record": ({"project.json": b"[]"}, "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(name: str, tmp_path: Path):
    members, words = HOSTILE[name]
    with pytest.raises(InputError, match=words):
        import_project(_zip(tmp_path / "bad.zip", members), tmp_path / "in" / "project")
    assert not (tmp_path / "in" / "project").exists() and list((tmp_path / "in").iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_links_bombs_and_other_files_are_refused(tmp_path: Path):
    link = _zip(tmp_path / "link.zip", {"project.json": RECORD, "cases/a/volume.nrrd": b"/etc/passwd"},
                link="cases/a/volume.nrrd")  # fmt: skip
    bomb = _zip(tmp_path / "bomb.zip", {"project.json": RECORD, "cases/a/volume.nrrd": bytes(20_000_000)}, deflate=True)
    (tmp_path / "text.zip").write_text("no zip")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(link.read_bytes()[:-30])
    for path, words in ((link, "contains a link"), (bomb, "cannot be"), (tmp_path / "text.zip", "no intact zip"),
                        (cut, "no intact zip"), (tmp_path / "none.zip", "There is no file")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            import_project(path, tmp_path / "project")
    assert not (tmp_path / "project").exists()


def test_the_command_line_tells_the_whole_story(tmp_path: Path, capsys):
    volume, segmentation = write_toy_case(tmp_path / "in")
    project, archive = str(tmp_path / "p"), str(tmp_path / "p.zip")
    for arguments in (
        ["seed", "init", project, "--bundle", "bpr_upper_abdomen"],
        ["seed", "add", project, "--volume", str(volume), "--segmentation", str(segmentation), "--slices", "3-9",
         "--domain", "scanner B", "--map", "spleen="],
        ["seed", "mark", project, "case001", "--slices", "12", "--organs", "liver"],
        ["seed", "split", project],
        ["seed", "list", project],
        ["seed", "export", project, archive],
        ["seed", "import", str(tmp_path / "q"), archive],
        ["seed", "state", project, "case001", "excluded"],
        ["seed", "remove", project, "case001"],
    ):  # fmt: skip
        assert main(arguments) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "segments stand for no known organ and teach nothing: spleen" in printed and "3-9; liver: 12" in printed
    assert main(["seed", "init", project, "--bundle", "bpr_upper_abdomen"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["seed", "use", project]) == 2 and "no trained model" in capsys.readouterr().err


def test_a_domain_is_told_from_tags_without_names():
    values = {"Modality": "CT", "Manufacturer": "SIEMENS", "ConvolutionKernel": ["I30f", "3"], "KVP": "120"}
    assert domain_words(values | {"PatientName": "Doe^Jane"}) == "CT SIEMENS I30f/3 120 kV"
    assert domain_words({"SliceThickness": "5.000000"}) == domain_words({"SliceThickness": 5.0}) == "5 mm"


def test_a_domain_of_a_real_dicom_folder(shared_data: Path, tmp_path: Path):
    assert domain_of(shared_data / "dicom" / "mixed_folder") == "CT GE MEDICAL SYSTEMS Discovery LS SOFT 140 kV 5 mm"
    assert domain_of(tmp_path) == ""


def test_headers_with_names_stay_behind(project: SeedProject, tmp_path: Path):
    image, _ = toy_volume()
    image.SetMetaData("PatientName", "Doe^Jane")
    sitk.WriteImage(image, str(tmp_path / "Doe Jane.nrrd"))
    case = project.add(tmp_path / "Doe Jane.nrrd")
    content = b"".join(path.read_bytes() for path in case.folder.iterdir())
    assert b"Doe" not in content and "Doe" not in str(sorted(project.folder.rglob("*")))


def test_what_slicer_imports_loads_no_torch():
    modules = "project, archive, runs, defaults, commands, domain, marks, case"
    code = f"import sys; from bpr.seed import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path: Path):
    path = tmp_path / "training.lock"
    path.write_text("1")  # a process that lives
    with pytest.raises(InputError, match="busy"), lock(path, "busy", ""):
        pass
    for number, written in ((2**22 + 5, None), (1, 1000.0)):  # nobody has the number, or somebody younger has it now
        path.write_text(str(number))
        if written:
            os.utime(path, (written, written))
        with lock(path, "busy", ""):
            assert path.read_text() == str(os.getpid())
    assert not path.exists()
