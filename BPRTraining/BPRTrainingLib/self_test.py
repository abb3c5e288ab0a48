"""The module's own test, which Slicer runs: models, and a case from the scene."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import slicer


class SelfTest:
    """Runs on a ScriptedLoadableModuleTest, whose assertions and messages it uses."""

    def __init__(self, test, logic):
        self._test, self._logic = test, logic

    def run(self) -> None:
        """All tests, each on an empty scene; a failure stops at its place."""
        for part in (self.models_have_cards, self.case_of_the_scene):
            slicer.mrmlScene.Clear()
            part()
            self._test.delayDisplay(f"{part.__name__.replace('_', ' ')}: passed")

    def models_have_cards(self) -> None:
        """Every shipped model is intact and says what it is."""
        models = self._logic.models()
        self._test.assertTrue(models)
        for model in models:
            self._test.assertEqual(model.problem, "")
            self._test.assertIn(model.version, self._logic.cardText(model))

    def case_of_the_scene(self) -> None:
        """A phantom becomes a case of a new project."""
        import SimpleITK as sitk

        from bpr.phantom import make_phantom
        from bpr.seed.project import SeedProject

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "phantom.nrrd")
            sitk.WriteImage(make_phantom(spacing_mm=(4.0, 4.0, 4.0)).image, path)
            project = SeedProject.create(Path(folder) / "project", "bpr_pelvis")
            name = self._logic.addSeedCase(slicer.util.loadVolume(path), None, project.folder)
            self._test.assertEqual(project.case(name).segmentation, "")
