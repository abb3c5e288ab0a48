"""The measurement of a scan: level, slices, tissues, doubts, and the files of a result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from bpr.body_composition.counting import Predictor, Spine, find_counted_level
from bpr.body_composition.doubts import REMARKS, level_notices, slice_notices
from bpr.body_composition.level import Level, find_level, slab
from bpr.body_composition.measure import TissueFound, find_compartments, measure
from bpr.body_composition.slices import AxialSlice, axial_slice
from bpr.body_composition.spine import spine_pictures
from bpr.body_composition.tissues import ROLE, TISSUES, tissue_labels
from bpr.errors import InputError, Notice
from bpr.scoring.curve import ScoreCurve
from bpr.volume import Volume, slice_heights

VERTEBRAE = "vertebrae"
SLAB_MM = 10.0  # thickness of the slab at a level
LEAST_CHANCE = 0.75  # that the vertebra is the one meant
STEP_MM = 5.0  # between two levels every slice counts, but not more often than this
SLICE_TOLERANCE_MM = 5.0
COUNTED_BEYOND_MM = 30.0  # a level that the curve puts this far outside of the scan is not looked for in it


@dataclass(frozen=True)
class CompositionRequest:
    """A level, or a span between two; ``height_cm`` of the person, for the muscle index."""

    level: str = "L3"
    upper: str | None = None
    lower: str | None = None
    height_cm: float | None = None
    slab_mm: float = SLAB_MM

    def check(self) -> None:
        """Raises InputError for levels and numbers that cannot be."""
        from bpr.body_composition.level import LEVELS

        for name in (self.level, self.upper, self.lower):
            if name is not None and name not in LEVELS:
                raise InputError(f"There is no level {name!r}.", f"Levels: {', '.join(LEVELS)}.")
        if (self.upper is None) != (self.lower is None):
            raise InputError("A span needs two levels.", "Give both --from and --to.")
        if self.upper and LEVELS[self.upper] >= LEVELS[self.lower]:
            raise InputError(f"{self.upper} does not lie above {self.lower}.", "Give the upper level first.")
        if self.height_cm is not None and not 50 <= self.height_cm <= 250:
            raise InputError(f"A height of {self.height_cm} cm is not possible.", "Give the height in cm, 50 to 250.")
        if not 0 <= self.slab_mm <= 60:
            raise InputError(f"A slab of {self.slab_mm} mm is not possible.", "Choose 0 to 60 mm.")


@dataclass(frozen=True)
class SliceFound:
    """One measured slice: the slice, its tissue labels (y, x), tissues, doubt of its muscle."""

    slice: AxialSlice
    labels: np.ndarray
    tissues: list[TissueFound]
    doubt: float


@dataclass(frozen=True)
class Composition:
    """What was measured. ``state`` is "measured", "doubtful" (see ``notices``) or "not measured".

    ``tissues`` are means over the slices (a span's volume is ``volume_cm3``). ``range_cm2``: lowest and highest area of
    muscle at the level and one standard deviation of the level below and above it.
    """

    level: Level
    span: tuple[Level, Level] | None
    state: str
    slices: list[SliceFound] = field(default_factory=list)
    tissues: list[TissueFound] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    range_cm2: tuple[float, float] | None = None
    volume_cm3: dict[str, float] | None = None
    muscle_index: float | None = None
    chance: float | None = None  # that the vertebra found is the one meant; None: vertebrae were not counted

    @property
    def central(self) -> SliceFound:
        """The slice nearest to the level, or to the span's middle."""
        return min(self.slices, key=lambda s: abs(s.slice.z_mm - self.level.z_mm))


def measure_composition(
    volume: Volume, curve: ScoreCurve, predict: Predictor, count: Predictor | None, request: CompositionRequest
) -> Composition:
    """Find the level or span and measure its slices.

    Args:
        predict: the body-composition bundle's predictor, (1, channels, 192, 256) to logits.
        count: the vertebrae bundle's predictor, see bpr.body_composition.counting; None takes the curve's heights.

    Raises:
        InputError: a level that does not exist.
    """
    request.check()
    trusted = curve.verdict.quality != "refused" and curve.verdict.slice_order != "reversed"
    names = [name or request.level for name in (request.upper, request.lower)]
    (upper, lower), spine = _levels(volume, curve, count if trusted else None, names)
    span = (upper, lower) if request.upper else None
    level = upper if span is None else Level(f"{upper.name} to {lower.name}", (upper.z_mm + lower.z_mm) / 2,
                                             float(np.hypot(upper.sd_mm, lower.sd_mm) / 2), "inside")  # fmt: skip
    notices = [notice for one in (span or (level,)) for notice in level_notices(one)]
    if spine is not None and spine.chance < LEAST_CHANCE:
        notices.append(Notice("level_ambiguous", f"The vertebra may be the one above or below {level.name}: check the "
                              f"level."))  # fmt: skip
    if not trusted:
        notices = [Notice("scan_doubtful", "The scores of this scan cannot be trusted, so no level was measured.")]
    if any(notice.code in ("level_outside", "scan_doubtful") for notice in notices):
        return Composition(level, span, "not measured", notices=notices)
    heights = slice_heights(volume.image)
    reach = (lower.z_mm, upper.z_mm) if span else (level.z_mm - request.slab_mm / 2, level.z_mm + request.slab_mm / 2)
    indices = slab(heights, *reach, step_mm=STEP_MM if span else 0.0)
    found, remarks = {}, []
    for index in indices:
        found[index] = _slice(volume, index, float(heights[index]), predict, remarks)
    slices = list(found.values())
    ends = [] if span else _ends(volume, heights, level, predict, found)
    notices += {remark.code: remark for remark in reversed(remarks)}.values()  # each kind once, as first said
    if min(abs(heights - level.z_mm)) > SLICE_TOLERANCE_MM:
        notices.append(Notice("slice_far", f"The nearest slice lies {min(abs(heights - level.z_mm)):.0f} mm from the "
                              f"level."))  # fmt: skip
    state = "measured" if all(notice.code in REMARKS for notice in notices) else "doubtful"
    tissues = _means(slices)
    return Composition(level, span, state, slices, tissues, notices, _range(tissues, ends), _volumes(tissues, span),
                       _index(tissues, request), spine and round(spine.chance, 2))  # fmt: skip


def _levels(
    volume: Volume, curve: ScoreCurve, count: Predictor | None, names: list[str]
) -> tuple[list[Level], Spine | None]:
    """The levels of these names by the curve, or counted in pictures of the spine."""
    guesses = [find_level(curve, name) for name in names]
    beyond = max(max(curve.z_mm.min() - guess.z_mm, guess.z_mm - curve.z_mm.max()) for guess in guesses)
    if count is None or beyond > COUNTED_BEYOND_MM:
        return guesses, None
    pictures = spine_pictures(volume.image, curve.quarter_turns)
    counted = {name: find_counted_level(pictures, curve, name, count) for name in dict.fromkeys(names)}
    return [counted[name][0] for name in names], counted[names[0]][1]


def _slice(volume: Volume, index: int, z_mm: float, predict, remarks: list[Notice]) -> SliceFound:
    one = axial_slice(volume.image, index, z_mm)
    compartments = find_compartments(one.hu, one.spacing, predict)
    labels = tissue_labels(compartments.number, one.hu, one.spacing)
    tissues = measure(labels, one.hu, one.pixel_cm2)
    remarks += slice_notices(one, compartments.number, compartments.muscle_doubt, tissues[0].area_cm2)
    return SliceFound(one, labels, tissues, compartments.muscle_doubt)


def _ends(volume: Volume, heights: np.ndarray, level: Level, predict, found: dict[int, SliceFound]) -> list[float]:
    """Muscle areas one standard deviation of the level below and above it, where the scan has slices there."""
    areas = []
    for z in (level.z_mm - level.sd_mm, level.z_mm + level.sd_mm):
        index = int(np.abs(heights - z).argmin())
        if abs(heights[index] - z) <= SLICE_TOLERANCE_MM:
            one = found.get(index) or _slice(volume, index, float(heights[index]), predict, [])
            areas.append(one.tissues[0].area_cm2)
    return areas


def _means(slices: list[SliceFound]) -> list[TissueFound]:
    """Mean area, and mean HU weighted by area."""
    means = []
    for k, tissue in enumerate(TISSUES):
        areas = np.array([one.tissues[k].area_cm2 for one in slices])
        densities = np.array([one.tissues[k].mean_hu for one in slices])
        weight = np.where(np.isfinite(densities), areas, 0)
        mean = float(np.nansum(densities * weight) / weight.sum()) if weight.sum() else math.nan
        means.append(TissueFound(tissue.id, float(areas.mean()), mean))
    return means


def _range(tissues: list[TissueFound], ends: list[float]) -> tuple[float, float] | None:
    areas = [tissues[0].area_cm2, *ends]
    return (min(areas), max(areas)) if ends else None


def _volumes(tissues: list[TissueFound], span: tuple[Level, Level] | None) -> dict[str, float] | None:
    """Mean area times the distance of the two levels, cm3."""
    if span is None:
        return None
    return {tissue.id: tissue.area_cm2 * (span[0].z_mm - span[1].z_mm) / 10 for tissue in tissues}


def _index(tissues: list[TissueFound], request: CompositionRequest) -> float | None:
    """Skeletal muscle index: muscle's area at L3 by the square of the height, cm2/m2."""
    if request.height_cm is None or request.upper or request.level != "L3":
        return None
    return tissues[0].area_cm2 / (request.height_cm / 100) ** 2


def facts(found: Composition) -> dict:
    """What ``result.json`` holds under "body_composition"."""
    return {
        "state": found.state, "level": found.level.name, "z_mm": round(found.level.z_mm, 1),
        "sd_mm": round(found.level.sd_mm, 1), "chance_of_level": found.chance,
        "slices": [one.slice.index for one in found.slices],
        "tissues": {t.id: {"area_cm2": round(t.area_cm2, 2), "mean_hu": None if math.isnan(t.mean_hu) else
                           round(t.mean_hu, 2)} for t in found.tissues},
        "muscle_range_cm2": found.range_cm2 and [round(area, 1) for area in found.range_cm2],
        "volume_cm3": found.volume_cm3, "muscle_index_cm2_m2": found.muscle_index and round(found.muscle_index, 2),
        "notices": [asdict(notice) for notice in found.notices],
    }  # fmt: skip


def composition_bundles(names: list[str]) -> dict:
    """By role the bundles that count vertebrae (may be missing) and measure: the shipped ones, or those of these names.

    Raises:
        InputError: nothing that measures is installed.
    """
    from bpr.models import choose_bundles

    bundles = choose_bundles(names)
    if ROLE not in bundles:
        raise InputError("No model for body composition is installed.", "Install one with: bpr models import FILE.")
    return {role: bundles[role] for role in (ROLE, VERTEBRAE) if role in bundles}


def add_to_result(result, folder: Path, engine) -> dict:
    """Measure L3 of a main run and write the files beside the others; the entry for ``result.json``."""
    from bpr.body_composition.files import write_composition

    predict = {role: engine.predictor(bundle) for role, bundle in composition_bundles([]).items()}
    request = CompositionRequest()
    found = measure_composition(result.volume, result.curve, predict[ROLE], predict.get(VERTEBRAE), request)
    write_composition(found, result.volume, folder)
    return {ROLE: facts(found)}
