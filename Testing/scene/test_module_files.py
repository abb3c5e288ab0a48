"""What packages and loads the modules: CMake lists, panels, catalog entry, icons. Needs neither Slicer nor Qt."""

from __future__ import annotations

import ast
import json
import os
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cmake_lists
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = cmake_lists.MODULES


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("variable", cmake_lists.LISTS)
def test_cmake_lists_equal_the_tree(module: str, variable: str) -> None:
    listed = cmake_lists.listed(module, variable)
    present = cmake_lists.present(module, cmake_lists.LISTS[variable])
    assert set(listed) == set(present), "run: python Testing/scene/cmake_lists.py --write"
    assert len(listed) == len(set(listed))


def test_shared_resources_are_copied_to_where_the_backend_looks() -> None:
    text = (ROOT / "Resources" / "CMakeLists.txt").read_text()
    folders = re.search(r"set\(SHARED_RESOURCES (.*?)\)", text)[1].split()
    assert folders == ["Anatomy", "Models", "SampleData"]
    assert all((ROOT / "Resources" / folder).is_dir() for folder in folders)
    assert "${Slicer_QTSCRIPTEDMODULES_LIB_DIR}/Resources/${folder}" in text


def test_backend_finds_the_resources_in_an_installed_extension(tmp_path: Path, monkeypatch) -> None:
    from bpr import resources

    scripts = tmp_path / "qt-scripted-modules"
    (scripts / "Resources" / "Anatomy").mkdir(parents=True)
    monkeypatch.delenv("BPR_RESOURCES", raising=False)
    monkeypatch.setattr(resources, "__file__", str(scripts / "bpr" / "resources.py"))
    assert resources.resources_dir() == scripts / "Resources"


def test_extension_says_all_that_the_catalog_wants() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'^set\(EXTENSION_{name} "[^"\n]+"\)$', text, re.MULTILINE), name
    for module in MODULES:
        assert f"add_subdirectory({module})" in text
    entry = json.loads((ROOT / "BodyPartRegression.json").read_text())
    assert entry["category"] == "Segmentation" and entry["tier"] == 3 and entry["build_dependencies"] == ["PyTorch"]
    assert entry["scm_url"].endswith(".git") and entry["scm_url"][:-4] in text


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md", "CONTRIBUTING.md"])
def test_documents_show_pictures_that_exist(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{document}: {target}"


def test_the_tutorial_shows_every_state_of_the_panel() -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    for picture in (ROOT / "Resources" / "Screenshots").glob("panel_*.png"):
        assert picture.name in text, picture.name
    assert "tutorial.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_license_is_said() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text() and "Version 2.0" in (ROOT / "LICENSE").read_text()
    assert "Apache License 2.0" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / "NOTICE").stat().st_size > 1000


@pytest.mark.parametrize(
    "path", ["Resources/Icons/BodyPartRegression.png", *(f"{name}/Resources/Icons/{name}.png" for name in MODULES)]
)
def test_icons_are_128_pixels_wide_and_high(path: str) -> None:
    assert struct.unpack(">II", (ROOT / path).read_bytes()[16:24]) == (128, 128)


def panel(module: str) -> ElementTree.Element:
    return ElementTree.parse(ROOT / module / "Resources" / "UI" / f"{module}.ui").getroot()


@pytest.mark.parametrize("module", MODULES)
def test_panel_hands_its_scene_to_every_mrml_widget(module: str) -> None:
    root = panel(module)
    assert root.find("widget").get("class") == "qMRMLWidget"
    wanted = {w.get("name") for w in root.iter("widget") if w.get("class").startswith("qMRML")} - {module}
    connected = {
        c.findtext("receiver")
        for c in root.iter("connection")
        if c.findtext("sender") == module
        and c.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and c.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    assert connected == wanted


def sources(module: str) -> list[Path]:
    """The module file and its library."""
    return [ROOT / module / f"{module}.py", *sorted((ROOT / module / f"{module}Lib").rglob("*.py"))]


@pytest.mark.parametrize("module", MODULES)
def test_panel_and_code_agree_on_names(module: str) -> None:
    root = panel(module)
    names = {widget.get("name") for widget in root.iter("widget")}
    for path in sources(module):
        assert set(
            re.findall(r"self\._?ui\.(\w+)|\bui\.(\w+(?:Button|Table|Label|Edit|Box|List|Tree))", path.read_text())
        ) <= {pair for name in names for pair in ((name, ""), ("", name))}, path
    tree = ast.parse((ROOT / module / f"{module}.py").read_text())
    parameters = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == f"{module}ParameterNode")
    known = {item.target.id for item in parameters.body if isinstance(item, ast.AnnAssign)}
    bound = {p.findtext("string") for p in root.iter("property") if p.get("name") == "SlicerParameterName"}
    assert bound <= known


@pytest.mark.parametrize("module", MODULES)
def test_every_button_of_the_panel_is_used_and_says_what_it_does(module: str) -> None:
    text = "".join(path.read_text() for path in sources(module))
    for widget in panel(module).iter("widget"):
        if widget.get("class") == "QPushButton":
            assert widget.get("name") in text, widget.get("name")
            tip = next((p.findtext("string") for p in widget if p.get("name") == "toolTip"), None)
            assert tip or f"{widget.get('name')}" in ("runButton", "runBatchButton"), widget.get("name")


@pytest.mark.parametrize("module", MODULES)
def test_translated_strings_are_plain_literals(module: str) -> None:
    """What is put together at run time cannot be translated."""
    for path in sources(module):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("_", "translate"):
                assert all(isinstance(argument, ast.Constant) for argument in node.args), (path, node.lineno)


WORDS = re.compile(r"^[A-Z][a-z]+ .*[a-z]{3}")  # a sentence


def test_sentences_for_people_are_translatable() -> None:
    """A sentence that is neither translated nor a docstring nor the text of an exception that nobody sees."""
    for path in sources("BPRSegmentation"):
        tree = ast.parse(path.read_text())
        translated = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("_", "translate")
            for inner in ast.walk(node)
        }
        documents = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        technical = ("result_folder.py", "segmentation_nodes.py", "scene_file.py", "dicom_seg.py", "score_nodes.py")
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and WORDS.match(node.value):
                known = id(node) in translated | documents or path.name in technical
                assert known, f"{path.name}:{node.lineno}: {node.value!r}"


def test_the_application_starts_without_waiting_for_our_packages() -> None:
    """Slicer imports every module at its start: what takes long is imported when it is needed."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import slicer_stand_in, slicer; "
        "slicer_stand_in.install(slicer.vtkMRMLScene(), '/tmp'); before = set(sys.modules); import BPRSegmentation; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    pytest.importorskip("PySide6.QtUiTools", reason="PySide6 is not installed")
    command = [sys.executable, "-c", code, str(ROOT / "Testing" / "scene"), str(ROOT / "BPRSegmentation")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"QT_QPA_PLATFORM": "offscreen"})
    assert done.returncode == 0, done.stderr
    loaded = set(ast.literal_eval(done.stdout.strip().splitlines()[-1]))
    heavy = {"SimpleITK", "scipy", "pydicom", "matplotlib", "openvino", "torch", "monai", "pandas", "dask", "highdicom"}
    assert not loaded & heavy


def test_nothing_that_slicer_imports_needs_torch() -> None:
    files = [*(ROOT / "BPRSegmentation" / "BPRSegmentationLib").glob("*.py"), *(ROOT / "BPRTraining").rglob("*.py")]
    for path in [*files, ROOT / "BPRSegmentation" / "BPRSegmentation.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not any(name.split(".")[0] in ("torch", "monai") for name in names), path


def test_requirements_leave_torch_and_slicers_own_packages_alone() -> None:
    lines = (ROOT / "BPRSegmentation" / "Resources" / "requirements.txt").read_text().splitlines()
    names = [re.split(r"[><=~!]", line)[0] for line in lines if line and not line.startswith("#")]
    assert names and not {"torch", "numpy", "SimpleITK", "vtk"} & set(names)
    assert not any("==" in line for line in lines)
