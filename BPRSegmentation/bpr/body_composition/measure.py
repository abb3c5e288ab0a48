"""From a slice to tissues: the network's compartments on the slice's own pixels, then the HU rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bpr.body_composition.slices import body_of, from_grid, network_grid, onto_grid
from bpr.body_composition.tissues import COMPARTMENTS, TISSUES, network_channels, tissue_labels

Predictor = Callable[[np.ndarray], np.ndarray]
LEAST_CM2 = 0.3  # smaller islands of a compartment join their surroundings
TOUCH_MM, LARGE_CM2 = 5.0, 15.0


@dataclass(frozen=True)
class TissueFound:
    """One tissue on one slice or on a slab: area (mean over the slices) and mean HU; NaN HU when there is none."""

    id: str
    area_cm2: float
    mean_hu: float


@dataclass(frozen=True)
class Compartments:
    """Compartment of each pixel (y, x) uint8, and the mean probability that muscle's pixels give to something else."""

    number: np.ndarray
    muscle_doubt: float


def find_compartments(hu: np.ndarray, spacing: tuple[float, float], predict: Predictor) -> Compartments:
    """Run the network on one slice.

    Args:
        hu: (y, x), rows anterior to posterior, columns patient right to left.
        spacing: (y, x) mm.
        predict: maps (1, channels, 192, 256) float32 to (1, compartments, 192, 256) logits.
    """
    body = body_of(hu, spacing[1])
    grid = network_grid(body, spacing)
    image = network_channels(onto_grid(hu, grid, 1, -1024))[None]
    # The trunk's wall is as good as symmetric: the mean of the slice and its mirror image errs less.
    probability = (_softmax(predict(image)) + _softmax(predict(np.ascontiguousarray(image[..., ::-1])))[..., ::-1]) / 2
    own = np.stack([from_grid(p, grid, hu.shape, float(k == 0)) for k, p in enumerate(probability)])
    number = own.argmax(0).astype(np.uint8)
    number[~body] = 0
    number = _plausible(_without_islands(number, spacing), spacing)
    muscle = number == COMPARTMENTS.index("muscle")
    doubt = float(1 - own[COMPARTMENTS.index("muscle")][muscle].mean()) if muscle.any() else 1.0
    return Compartments(number, doubt)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """(compartments, y, x) probabilities of the single image in a batch."""
    weight = np.exp(logits[0].astype(np.float32) - logits[0].max(0))
    return weight / weight.sum(0)


def _without_islands(number: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """Give islands smaller than 0.3 cm2 the compartment that is most frequent around them."""
    least = LEAST_CM2 * 100 / (spacing[0] * spacing[1])
    out = number.copy()
    for k in range(len(COMPARTMENTS)):
        parts, count = ndimage.label(number == k)
        if count == 0:
            continue
        sizes, boxes = np.bincount(parts.ravel()), ndimage.find_objects(parts)
        for island in np.flatnonzero(sizes < least):
            if island == 0:
                continue
            box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[island - 1])
            inside = parts[box] == island
            ring = ndimage.binary_dilation(inside) & ~inside
            if ring.any():
                out[box][inside] = np.bincount(number[box][ring]).argmax()
    return out


def _plausible(number: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """The spinal canal belongs to the bone around it; a patch of muscle amid the viscera is bowel or vessel.

    Muscle of the wall and beside the spine touches subcutaneous fat or bone; a small patch that touches neither is not.
    """
    muscle, skin_fat, bone, visceral = (COMPARTMENTS.index(k) for k in ("muscle", "subcutaneous", "bone", "visceral"))
    out = number.copy()
    out[ndimage.binary_fill_holes(number == bone)] = bone
    parts, count = ndimage.label(out == muscle)
    if count:
        reach = max(1, round(TOUCH_MM / min(spacing)))
        beside = ndimage.binary_dilation((out == skin_fat) | (out == bone), iterations=reach)
        areas = np.bincount(parts.ravel()) * spacing[0] * spacing[1] / 100
        kept = np.zeros(count + 1, bool)
        kept[np.unique(parts[beside])] = True
        kept |= areas > LARGE_CM2
        out[(parts > 0) & ~kept[parts]] = visceral
    return out


def measure(labels: np.ndarray, hu: np.ndarray, pixel_cm2: float) -> list[TissueFound]:
    """Area and mean HU of each tissue in a label array (..., y, x); areas are means over the leading axis."""
    slices = labels.shape[0] if labels.ndim == 3 else 1
    found = []
    for tissue in TISSUES:
        inside = labels == tissue.value
        count = int(inside.sum())
        mean = float(hu[inside].mean()) if count else float("nan")
        found.append(TissueFound(tissue.id, count * pixel_cm2 / slices, mean))
    return found


def slice_tissues(hu: np.ndarray, spacing: tuple[float, float], predict: Predictor) -> tuple[np.ndarray, float]:
    """Tissue labels (y, x) uint8 of one slice, and the doubt about its muscle (0..1)."""
    found = find_compartments(hu, spacing, predict)
    return tissue_labels(found.number, hu, spacing), found.muscle_doubt
