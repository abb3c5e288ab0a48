"""What a model must not forget, for someone who has none of its training data: phantoms, labeled by construction.

Nothing big ships: phantoms are computed. Cases of other domains in the person's own project count too.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.models import Bundle
from bpr.phantom import make_phantom
from bpr.seed.cases import TeachingCase, labeled_part
from bpr.seed.files import write_image
from bpr.seed.grid import GridCT, grid_ct
from bpr.segmentation.grid import GRID_MM
from bpr.training.cases import OUTSIDE

PHANTOM = "phantom"
REPLAY_SEEDS, CHECK_SEED = (1, 2), 3


def phantom_case(bundle: Bundle, seed: int, cache: Path) -> TeachingCase | None:
    """A made-up person, complete from thigh to head, labeled by construction; kept in ``cache`` once it is made."""
    stored = cache / f"phantom{seed}.nrrd", cache / f"phantom{seed}_labels.nrrd"
    if not all(path.is_file() for path in stored):
        phantom = make_phantom(spacing_mm=(GRID_MM,) * 3, seed=seed)
        cache.mkdir(parents=True, exist_ok=True)
        for image, path in zip((phantom.image, phantom.labels), stored, strict=True):
            partial = path.with_name(f"partial_{path.name}")
            write_image(image, partial)
            os.replace(partial, path)
    grid = grid_ct(stored[0], cache, bundle.role == "region")
    labels = sitk.Resample(sitk.ReadImage(str(stored[1])), grid.empty(), sitk.Transform(), sitk.sitkNearestNeighbor,
                           OUTSIDE, sitk.sitkUInt8)  # fmt: skip
    return _case(f"phantom{seed}", PHANTOM, grid, sitk.GetArrayFromImage(labels), bundle.facts["structures"], bundle)


def _case(name: str, domain: str, grid: GridCT, labels: np.ndarray, known, bundle: Bundle) -> TeachingCase | None:
    seen = grid.slices_of(bundle)
    organs = [organ for organ in known if organ in bundle.facts["structures"]]
    if seen is None or not organs:
        return None
    part = labeled_part(name, grid.hu[seen], labels[seen].astype(np.uint8), organs)
    return TeachingCase(name, name, domain, grid.hu[seen], (part,))
