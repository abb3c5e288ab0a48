"""What a domain's network says of a whole case: mirrored, averaged over folds, tile by tile. Plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bpr.segmentation.windows import Predictor, predict_grid

if TYPE_CHECKING:  # what prepares cases is needed for training only
    from bpr.domains.cases import DomainCase


def mirrored(predict: Predictor, partner: np.ndarray) -> Predictor:
    """The mean of the logits on the image and on its mirror image; ``partner`` swaps the sides' channels."""

    def both(batch: np.ndarray) -> np.ndarray:
        straight = predict(batch)
        swapped = predict(np.ascontiguousarray(batch[..., ::-1]))[:, partner[: straight.shape[1]]]
        return (straight + swapped[..., ::-1]) / 2

    return both


def ensemble(predictors: Sequence[Predictor]) -> Predictor:
    """The mean of several networks' log probabilities."""

    def mean(batch: np.ndarray) -> np.ndarray:
        return sum(_log_softmax(predict(batch)) for predict in predictors) / len(predictors)

    return mean


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def labels_of(predict: Predictor, case: DomainCase, tile: tuple[int, int, int]) -> np.ndarray:
    """(z, y, x) uint8 output channels of a whole case."""
    return predict_grid(case.image, predict, len(case.known), tile).argmax(0).astype(np.uint8)
