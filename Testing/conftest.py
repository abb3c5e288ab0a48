"""What many tests share: the sample, the phantom, and the training data where a developer has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def sample_ct() -> Path:
    """The CT that travels with the project: shoulders to kidneys, 3 mm."""
    return ROOT / "Resources" / "SampleData" / "c3n00249.nii.gz"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CT, labels and landmarks; a stranger's clone has none, and these tests then skip."""
    folder = Path(os.environ.get("BPR_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cases.csv").is_file():
        pytest.skip("the shared data (BPR_SHARED_DATA) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def sample_result(sample_ct: Path, tmp_path_factory: pytest.TempPathFactory):
    """A complete run on the sample (without scene): RunResult, whose ``folder`` holds the files."""
    from bpr.job import PRODUCTS, JobRequest, run_job

    produce = tuple(product for product in PRODUCTS if product != "scene")
    return run_job(JobRequest(str(sample_ct), str(tmp_path_factory.mktemp("run") / "result"), produce))
