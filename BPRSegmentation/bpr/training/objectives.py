"""Objectives of the score network, self-supervised ones and ours. Slices come in groups of ``per_group`` of one scan.

Self-supervised objectives see one output per slice and no annotation, only heights; ours sees bins and votes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bpr.scoring.scale import BIN_CENTERS
from bpr.training.score_slices import SliceBatch, SliceSampler, augmented_input

LABEL_SD_MM = 12.0
VOTE_WEIGHT = 5.0
BPREG_ALPHA, BPREG_BETA = 0.2, 0.01  # per mm: of the scores' and of the heights' difference


def order_loss(scores: torch.Tensor) -> torch.Tensor:
    """Slices of one scan shall be in order: -mean log sigmoid(s[j + 1] - s[j]).

    scores (groups, per_group), sorted by height. Source: Yan, Lu, Summers, Unsupervised Body Part Regression via
    Spatially Self-ordering Convolutional Neural Networks (ISBI 2018), equation 2.
    """
    return -F.logsigmoid(scores[:, 1:] - scores[:, :-1]).mean()


def equidistance_loss(scores: torch.Tensor) -> torch.Tensor:
    """Equidistant slices shall have equal differences: mean smooth L1 of the second difference.

    scores (groups, per_group) of equidistant slices, sorted by height. Source: Yan et al. 2018, equation 3.
    """
    return F.smooth_l1_loss(scores[:, 2:] - scores[:, 1:-1], scores[:, 1:-1] - scores[:, :-2])


def millimeter_loss(scores: torch.Tensor, z_mm: torch.Tensor) -> torch.Tensor:
    """Differences of scores shall tell the order as strongly as distances in mm do.

    Mean of (sigmoid(beta dz) - sigmoid(alpha ds))^2 over the pairs of one scan. scores, z_mm (groups, per_group).
    Source: Schuhegger, Body Part Regression for CT Images (2021), the "heuristic" order loss of the bpreg package.
    """
    i, j = torch.triu_indices(scores.shape[1], scores.shape[1], 1)
    told = torch.sigmoid(BPREG_BETA * (z_mm[:, j] - z_mm[:, i]))
    return ((told - torch.sigmoid(BPREG_ALPHA * (scores[:, j] - scores[:, i]))) ** 2).mean()


def ruler_loss(logits: torch.Tensor, target: torch.Tensor, doubt: torch.Tensor, per_group: int) -> torch.Tensor:
    """Cross entropy against a Gaussian soft label plus a smooth L1 term on distances between slices of one scan.

    logits (n, bins); target, doubt (n,) in ruler mm. Uncertain targets get a wider label and a smaller weight. Ours.
    """
    centers = torch.from_numpy(BIN_CENTERS).float()
    width = torch.sqrt(LABEL_SD_MM**2 + doubt**2)[:, None]
    label = torch.softmax(-0.5 * ((centers - target[:, None].clamp(centers[0], centers[-1])) / width) ** 2, 1)
    entropy = -(label * F.log_softmax(logits, 1)).sum(1)
    expected = (F.softmax(logits, 1) * centers).sum(1).view(-1, per_group)
    target = target.view(-1, per_group)
    error = (expected[:, 1:] - expected[:, :1]) - (target[:, 1:] - target[:, :1])
    return (entropy * 20 / (20 + doubt)).mean() + 0.5 * F.smooth_l1_loss(error / 40, torch.zeros_like(error))


def vote_loss(logits: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of "this slice lies above that landmark"; NaN in ``above`` means nobody knows. Ours.

    logits, above (n, votes).
    """
    known = ~above.isnan()
    loss = F.binary_cross_entropy_with_logits(logits, above.nan_to_num(), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def few_label(sampler: SliceSampler, pixels: int):
    """Ruler and votes together, from annotated landmarks."""

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        batch = sampler.draw(rng)
        logits = network(_image(batch, rng, pixels))
        bins = len(BIN_CENTERS)
        ruler = ruler_loss(logits[:, :bins], batch.target, batch.doubt, sampler.per_group)
        return ruler + VOTE_WEIGHT * vote_loss(logits[:, bins:], batch.above)

    return loss_of


def ssbr(sampler: SliceSampler, pixels: int):
    """Order and equidistance of sorted, equidistant slices (SSBR); the network has one output."""

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        batch = sampler.draw_equidistant(rng)
        scores = network(_image(batch, rng, pixels)).view(-1, sampler.per_group)
        return order_loss(scores) + equidistance_loss(scores)

    return loss_of


def bpreg(sampler: SliceSampler, pixels: int):
    """Order in millimeters (the bpreg package's recipe); the network has one output."""

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        batch = sampler.draw_equidistant(rng)
        scores = network(_image(batch, rng, pixels)).view(-1, sampler.per_group)
        return millimeter_loss(scores, batch.z_mm.view(scores.shape))

    return loss_of


def _image(batch: SliceBatch, rng: np.random.Generator, pixels: int) -> torch.Tensor:
    return augmented_input(batch.hu, rng, pixels).contiguous(memory_format=torch.channels_last)


# Each makes the function that bpr.training.loop.Trainer calls at each step.
OBJECTIVES: dict[str, Callable] = {"few_label": few_label, "ssbr": ssbr, "bpreg": bpreg}
