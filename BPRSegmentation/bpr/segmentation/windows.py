"""Sliding windows over a grid: overlapping tiles, softmax, Gaussian blending. Plain numpy, any engine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

Predictor = Callable[[np.ndarray], np.ndarray]
OVERLAP = 0.3
SIGMA = 0.2  # of the tile's edge; the center of a tile is trusted most


def tile_starts(length: int, tile: int, overlap: float = OVERLAP) -> list[int]:
    """Evenly spread first indices of tiles that cover ``length`` voxels with at least the given overlap."""
    if length <= tile:
        return [0]
    count = math.ceil((length - tile) / (tile * (1 - overlap))) + 1
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def importance(tile: tuple[int, int, int]) -> np.ndarray:
    """Weight of a tile's voxels: a Gaussian around its center, never zero."""
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (SIGMA * n)) ** 2) for n in tile]
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return np.maximum(weight, 1e-3 * weight.max()).astype(np.float32)


def count_tiles(shape: tuple[int, int, int], tile: tuple[int, int, int]) -> int:
    """Number of tiles that ``predict_grid`` will run."""
    return math.prod(len(tile_starts(n, t)) for n, t in zip(shape, tile, strict=True))


def predict_grid(
    image: np.ndarray,
    predict: Predictor,
    classes: int,
    tile: tuple[int, int, int],
    advance: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Class probabilities of a whole grid.

    Args:
        image: (channels, z, y, x) float32. Where it is smaller than a tile it is padded with its lowest value (air).
        predict: (1, channels, *tile) to (1, classes, *tile) logits.
        advance: called after each tile; may raise to cancel.

    Returns:
        (classes, z, y, x) float32 probabilities.
    """
    shape = image.shape[1:]
    pad = [(0, 0)] + [(0, max(0, t - n)) for n, t in zip(shape, tile, strict=True)]
    padded = np.stack([np.pad(c, pad[1:], constant_values=c.min()) for c in image]) if any(p[1] for p in pad) else image
    total = np.zeros((classes, *padded.shape[1:]), np.float32)
    weights = np.zeros(padded.shape[1:], np.float32)
    blend = importance(tile)
    for start in itertools.product(*(tile_starts(n, t) for n, t in zip(padded.shape[1:], tile, strict=True))):
        box = tuple(slice(a, a + t) for a, t in zip(start, tile, strict=True))
        logits = predict(np.ascontiguousarray(padded[(slice(None), *box)])[None])[0]
        probability = np.exp(logits - logits.max(0))
        probability *= blend / probability.sum(0)
        total[(slice(None), *box)] += probability
        weights[box] += blend
        advance()
    total /= weights
    return total[(slice(None), *(slice(0, n) for n in shape))]
