"""The file lists of the modules' CMakeLists.txt against the tree: a file that is not listed is not packaged.

python Testing/scene/cmake_lists.py          say what differs
python Testing/scene/cmake_lists.py --write  bring the lists up to date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("BPRSegmentation", "BPRTraining")
LISTS = {"MODULE_PYTHON_SCRIPTS": True, "MODULE_PYTHON_RESOURCES": False}  # list name -> holds Python files


def listed(module: str, variable: str) -> list[str]:
    """Entries of a list in the module's CMakeLists.txt."""
    text = (ROOT / module / "CMakeLists.txt").read_text(encoding="utf-8")
    body = re.search(rf"set\({variable}\n(.*?)\)", text, re.DOTALL)[1]
    return [line.strip().replace("${MODULE_NAME}", module) for line in body.splitlines() if line.strip()]


def present(module: str, python: bool) -> list[str]:
    """Files that belong into the list, relative to the module's folder: module file first, then by name."""
    folder = ROOT / module
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    names = [
        file.as_posix()
        for file in files
        if not any(part.startswith(".") or part == "__pycache__" or part.endswith(".egg-info") for part in file.parts)
    ]
    names = [name for name in names if name != "CMakeLists.txt" and name.endswith(".py") == python]
    return sorted(names, key=lambda name: (name != f"{module}.py", name))


def write(module: str) -> None:
    """Bring both lists of a module up to date."""
    path = ROOT / module / "CMakeLists.txt"
    text = path.read_text(encoding="utf-8")
    for variable, python in LISTS.items():
        lines = "".join(f"  {name}\n" for name in present(module, python))
        old = re.search(rf"set\({variable}\n.*?\)", text, re.DOTALL)[0]
        text = text.replace(old, f"set({variable}\n{lines}  )")
    path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Compare, or write with --write; returns 1 when lists and tree differ."""
    different = False
    for module in MODULES:
        if arguments == ["--write"]:
            write(module)
        for variable, python in LISTS.items():
            for name in sorted(set(listed(module, variable)) ^ set(present(module, python))):
                print(f"{module}/{name}: only in the {'list' if name in listed(module, variable) else 'tree'}")
                different = True
    return int(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
