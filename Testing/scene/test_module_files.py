"""What packages and loads the modules: CMake lists, panels, catalog entry, icons. Needs neither Slicer nor Qt."""

from __future__ import annotations

import ast
import json
import re
import struct
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


@pytest.mark.parametrize("module", MODULES)
def test_panel_and_code_agree_on_names(module: str) -> None:
    root, source = panel(module), (ROOT / module / f"{module}.py").read_text()
    names = {widget.get("name") for widget in root.iter("widget")}
    assert set(re.findall(r"self\.ui\.(\w+)", source)) <= names
    tree = ast.parse(source)
    parameters = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == f"{module}ParameterNode")
    known = {item.target.id for item in parameters.body if isinstance(item, ast.AnnAssign)}
    bound = {p.findtext("string") for p in root.iter("property") if p.get("name") == "SlicerParameterName"}
    assert bound <= known


@pytest.mark.parametrize("module", MODULES)
def test_no_formatted_string_is_translated(module: str) -> None:
    for node in ast.walk(ast.parse((ROOT / module / f"{module}.py").read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("_", "translate"):
            assert not any(isinstance(argument, ast.JoinedStr) for argument in node.args), node.lineno


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
