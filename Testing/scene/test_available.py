"""Says aloud when the scene or widget tests were left out."""

import pytest

from conftest import why_not


@pytest.mark.parametrize("module, package", [("slicer", "slicer-core"), ("PySide6.QtUiTools", "PySide6-Essentials")])
def test_the_scene_and_widget_tests_can_run(module: str, package: str) -> None:
    reason = why_not(module)
    if reason:
        pytest.skip(f"scene or widget tests were left out: {package} cannot be loaded ({reason})")
