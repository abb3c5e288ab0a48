"""What to label next: volumes and slices by what the model would learn from them, with the reason in words.

Three signs: the model is in doubt (probability of its own answer), networks of neighboring regions disagree, and the
scan looks unlike those that are labeled (distance of simple image features).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bpr.body_composition.doubts import REMARKS
from bpr.body_composition.tissues import ROLE
from bpr.compute.engines import open_engine
from bpr.errors import BPRError
from bpr.models import Bundle, find_bundle, list_bundles
from bpr.seed.case import SeedCase, State
from bpr.seed.grid import GridCT, grid_ct
from bpr.seed.project import SeedProject
from bpr.seed.propose import composition_of
from bpr.segmentation.grid import GRID_MM, body_center, network_channels
from bpr.segmentation.interface import Interface
from bpr.segmentation.labels import structure_by_id, structure_by_value
from bpr.segmentation.windows import predict_grid
from bpr.volume import Volume, read_volume, slice_heights

APART_MM = 24.0  # between two slices that are suggested
SLICES_EACH = 3
FEATURES = ("soft tissue HU", "fat HU", "noise", "sharpness", "share of bone")


@dataclass(frozen=True)
class Suggestion:
    """A volume, or a slice of one (index along its slice axis), with its expected gain 0..1 and why."""

    case: str
    slice: int | None
    gain: float
    reason: str


def suggest(
    project: SeedProject, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Suggestion], list[Suggestion]]:
    """Rank the volumes without marks, and the unmarked slices of every case that is not excluded.

    Returns:
        Volumes and slices, the most useful first. Cases that cannot be read are passed over.
    """
    bundle = find_bundle(project.bundle)
    cases = [case for case in project.cases()[0] if case.state is not State.EXCLUDED]
    if bundle.role == ROLE:
        return _of_tissues(cases, bundle, progress)
    engine, other = open_engine(device="cpu"), _neighbor(bundle)
    predictors = {b: engine.predictor(b) for b in (bundle, other) if b}
    looked, slices = [], []
    for number, case in enumerate(cases):
        try:
            grid = grid_ct(case.volume_path, project.folder / "cache", bundle.role == "region" or other is not None)
        except BPRError:
            continue
        views = {b: _view(grid, b, predict) for b, predict in predictors.items()}
        if views[bundle] is not None:
            clash = _disagreement(views, bundle, other)
            looked.append((case, _doubt(views[bundle].certainty), clash, features(grid.hu)))
            slices += _slices(case, grid, views[bundle], bundle)
        progress(number + 1, len(cases))
    return _volumes(looked), sorted(slices, key=lambda s: -s.gain)


def _of_tissues(
    cases: list[SeedCase], bundle: Bundle, progress: Callable[[int, int], None]
) -> tuple[list[Suggestion], list[Suggestion]]:
    """The same for muscle and fat at L3, by the network's doubt of the muscle: one slice of each case."""
    volumes, slices = [], []
    for number, case in enumerate(cases):
        try:
            volume = read_volume(case.volume_path)
            found = composition_of(volume, bundle)
        except BPRError:
            continue
        marked = _marked(case, volume)
        waiting = [one for one in found.slices if not marked[one.slice.index]]
        words = [notice.message for notice in found.notices if notice.code not in REMARKS]
        reason = " ".join(words) or "The model is unsure of the muscle."
        if waiting:
            least = max(waiting, key=lambda one: one.doubt)
            slices.append(Suggestion(case.id, least.slice.index, round(least.doubt, 4), reason))
        if found.slices and not case.marks:
            doubt = float(np.mean([one.doubt for one in found.slices]))
            volumes.append(Suggestion(case.id, None, round(doubt, 3), reason))
        progress(number + 1, len(cases))
    return tuple(sorted(part, key=lambda s: -s.gain) for part in (volumes, slices))


@dataclass(frozen=True)
class _View:
    """One network's answer: label values and their probability, (z, y, x) from grid slice ``first``."""

    labels: np.ndarray
    certainty: np.ndarray
    first: int


def _view(grid: GridCT, bundle: Bundle, predict) -> _View | None:
    seen = grid.slices_of(bundle)
    if seen is None:
        return None
    network = Interface.of(bundle)
    image = network_channels(grid.hu[seen], network.inputs, body_center(grid.hu))
    probability = predict_grid(image, predict, len(network.classes) + 1, network.tile)
    return _View(np.array([0, *network.classes])[probability.argmax(0)], probability.max(0), seen.start)


def _neighbor(bundle: Bundle) -> Bundle | None:
    """The shipped network of another region that shares most structures."""
    own, best, most = set(bundle.facts["structures"]), None, 2
    for other in list_bundles():
        try:
            if other.role != "region" or other.slot == bundle.slot:
                continue
            shared = len(own & set(other.facts["structures"]))
        except BPRError:
            continue
        if shared > most:
            best, most = other, shared
    return best


def _doubt(certainty: np.ndarray) -> float:
    """Mean doubt over the voxels that are not plainly background."""
    unsure = certainty < 0.95
    return float((1 - certainty[unsure]).sum() / max(certainty.size * 0.1, 1))


def _disagreement(views: dict, bundle: Bundle, other: Bundle | None) -> float:
    """Share of differently labeled voxels of shared structures where both networks look; 0 without overlap."""
    if other is None or views[other] is None:
        return 0.0
    a, b = views[bundle], views[other]
    first, last = max(a.first, b.first), min(a.first + len(a.labels), b.first + len(b.labels))
    if last - first < 2:
        return 0.0
    shared = [structure_by_id(name).value for name in set(bundle.facts["structures"]) & set(other.facts["structures"])]
    x, y = a.labels[first - a.first : last - a.first], b.labels[first - b.first : last - b.first]
    either = np.isin(x, shared) | np.isin(y, shared)
    return float((x != y)[either].mean()) if either.any() else 0.0


def features(hu: np.ndarray) -> np.ndarray:
    """(5,) what a scan looks like, see FEATURES; hu (z, y, x) on the 4 mm grid."""
    hu = hu.astype(np.float32)
    soft, fat, body = (hu > -20) & (hu < 180), (hu > -160) & (hu < -40), hu > -300
    detail = hu - ndimage.gaussian_filter(hu, 1)
    smooth = soft & (np.abs(ndimage.gaussian_gradient_magnitude(hu, 1)) < 30)
    values = [np.median(hu[mask]) if mask.any() else 0.0 for mask in (soft, fat)]
    values += [float(detail[smooth].std()) if smooth.any() else 0.0, float(np.abs(detail[body]).mean())]
    return np.array([*values, float((hu[body] > 200).mean())])


def _volumes(looked: list[tuple[SeedCase, float, float, np.ndarray]]) -> list[Suggestion]:
    """Volumes without marks by the mean of their three signs, each scaled by the largest among them."""
    labeled = [row[3] for row in looked if row[0].marks]
    waiting = [row for row in looked if not row[0].marks]
    if not waiting:
        return []
    everything = np.array([row[3] for row in looked])
    spread = np.maximum(everything.std(0), 1e-6)
    steps = [(row[3] - np.array(labeled)) / spread if labeled else np.zeros((1, len(FEATURES))) for row in waiting]
    nearest = [step[np.linalg.norm(step, axis=1).argmin()] for step in steps]
    signs = np.array([[row[1], row[2], np.linalg.norm(step)] for row, step in zip(waiting, nearest, strict=True)])
    scaled = signs / np.maximum(signs.max(0), 1e-6)
    found = []
    for row, step, sign in zip(waiting, nearest, scaled, strict=True):
        words = [
            "the model is unsure",
            "networks of neighboring regions disagree",
            f"it looks unlike the labeled cases ({FEATURES[int(np.abs(step).argmax())]})",
        ]
        reasons = [words[k] for k in np.argsort(-sign) if sign[k] > 0.5] or ["no sign stands out"]
        found.append(Suggestion(row[0].id, None, round(float(sign.mean()), 3), "; ".join(reasons)))
    return sorted(found, key=lambda s: -s.gain)


def _slices(case: SeedCase, grid: GridCT, view: _View, bundle: Bundle) -> list[Suggestion]:
    """The least certain unmarked slices of a case, some distance apart."""
    doubt = np.where(view.certainty < 0.95, 1 - view.certainty, 0).mean((1, 2))
    heights = grid.origin[2] + GRID_MM * (view.first + np.arange(len(doubt)))
    volume = read_volume(case.volume_path)
    of_volume, marked = slice_heights(volume.image), _marked(case, volume)
    found, taken = [], list(of_volume[marked]) if case.marks else []
    for k in np.argsort(-doubt):
        index = int(np.abs(of_volume - heights[k]).argmin())
        if any(abs(of_volume[index] - height) < APART_MM / 2 for height in taken):
            continue
        organs = _doubtful_organs(view, k)
        reason = f"unsure about {', '.join(organs)}" if organs else "unsure where organs begin"
        found.append(Suggestion(case.id, index, round(float(doubt[k]), 4), reason))
        taken.append(of_volume[index])
        if len(found) == SLICES_EACH:
            break
    return found


def _marked(case: SeedCase, volume: Volume) -> np.ndarray:
    """(slices,) bool: where something of the case is marked."""
    count = len(slice_heights(volume.image))
    return np.logical_or.reduce([np.zeros(count, bool), *(mark.covers(count) for mark in case.marks)])


def _doubtful_organs(view: _View, k: int) -> list[str]:
    """Up to two organs that hold most doubt in a slice."""
    weight = np.bincount(view.labels[k].ravel(), (1 - view.certainty[k]).ravel(), 256)
    weight[0] = 0
    return [structure_by_value(int(v)).name for v in np.argsort(-weight)[:2] if weight[v] > 0]
