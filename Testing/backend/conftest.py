"""Fixtures of several SEED tests: a tiny untrained network as a bundle, and a project that starts from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from seed_samples import write_toy_bundle

from bpr.seed.project import SeedProject


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    """A toy bundle; it is read, never changed."""
    for package, need in (("torch", "training"), ("monai", "training"), ("onnx", "writing bundles")):
        pytest.importorskip(package, reason=f"{need} needs {package}, which this environment leaves out")
    return write_toy_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def project(tmp_path: Path, bundle) -> SeedProject:
    """An empty project of the toy bundle."""
    return SeedProject.create(tmp_path / "project", str(bundle.folder))
