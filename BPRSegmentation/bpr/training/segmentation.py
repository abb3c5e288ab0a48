"""The loss of segmentation networks on partially labeled patches, and a training step."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bpr.training.cases import OUTSIDE
from bpr.training.patches import PatchSampler

LOW_WEIGHT = 0.5  # of the loss at half resolution


def marginal_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    known: torch.Tensor,
    rarity: float = 0.0,
    dice: float = 1.0,
    focal: float = 0.0,
) -> torch.Tensor:
    """Cross entropy plus Dice where structures that nobody labeled count as part of the background.

    An unlabeled organ may hide in the background: its probability is added to the background's, so predicting it there
    costs nothing (marginal loss, Shi et al., Medical Image Analysis 2021).

    Args:
        logits: (1, channels, z, y, x). target: (z, y, x) channel numbers or 255. known: (channels,) bool.
        rarity: power of a structure's inverse frequency in the patch that weighs its voxels in the cross entropy;
            0 weighs all voxels alike, and small structures then may stay unlearned for hours.
        dice: weight of the Dice term. focal: exponent of (1 - p) on voxels (focal loss, Lin et al., ICCV 2017).
    """
    seen = (target != OUTSIDE).flatten()
    target = torch.where(seen, target.flatten(), 0).long()
    log_p = F.log_softmax(logits.float(), 1)[0].flatten(1)
    if not known.all():
        background = torch.logsumexp(torch.cat([log_p[:1], log_p[~known]]), 0, keepdim=True)
        log_p = torch.cat([background, log_p[known][1:]])  # channels: known ones only
        target = (torch.cumsum(known.long(), 0) - 1)[target]
    log_true = log_p.gather(0, target[None])[0]
    weight = seen.float()
    frequency = torch.bincount(target, weight, len(log_p)).float().clamp(min=100)
    emphasis = weight * (frequency.sum() / frequency)[target] ** rarity
    modulated = emphasis * (1 - log_true.exp()) ** focal if focal else emphasis
    entropy = -(log_true @ modulated) / emphasis.sum().clamp(min=1)
    # Sums per structure without a one-hot volume, which would cost more than the network's deeper half.
    zeros = torch.zeros(len(log_p), device=log_p.device)
    overlap = zeros.index_add(0, target, log_true.exp() * weight)
    truth = zeros.index_add(0, target, weight)
    missed = 1 - (2 * overlap + 1) / (log_p.exp() @ weight + truth + 1)
    present = truth > 0
    present[0] = False
    return entropy + dice * (missed[present].mean() if present.any() else 0.0)


def segmentation_loss(
    sampler: PatchSampler, forward: nn.Module, batch: int, rarity: float, device: str = "cpu", bfloat: bool = False
):
    """The function that bpr.training.loop.Trainer calls at each step.

    Patches come at least in pairs: torch's CPU build sends 3-D convolutions of a single small patch down a slow path.

    Args:
        forward: the trained DeepSupervision module, or its compiled form.
        bfloat: convolutions in bfloat16.
    """
    kind = device.partition(":")[0]

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        patches = [sampler.draw(rng) for _ in range(batch)]
        images = torch.cat([image for image, _, _ in patches]).to(device)
        with torch.autocast(kind, torch.bfloat16, enabled=bfloat):
            outputs = forward(images.contiguous(memory_format=torch.channels_last_3d))
        total = 0.0
        for k, (_, target, known) in enumerate(patches):
            target, known = target.to(device), known.to(device)
            total = total + marginal_loss(outputs[0][k : k + 1], target, known, rarity)
            total = total + LOW_WEIGHT * marginal_loss(outputs[1][k : k + 1], target[::2, ::2, ::2], known, rarity)
        return total / batch

    return loss_of
