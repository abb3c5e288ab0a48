"""Networks to compare with ours, at about the same number of parameters: one table, built with MONAI.

The smallest SwinUNETR that MONAI builds (feature size 12, one block a stage) has 3.8 million parameters; the others are
scaled to it. Tiles must be multiples of 32 voxels for it, of 16 for the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.nets import UNETR, SegResNet, SwinUNETR, UNet
from monai.networks.nets.vnet import DownTransition, InputTransition, OutputTransition, UpTransition
from torch import nn

from bpr.segmentation.network import build_network

NORM = ("INSTANCE", {"affine": True})
ELU = ("elu", {"inplace": True})
Tile = tuple[int, int, int]


class SlimVNet(nn.Module):
    """V-Net (Milletari et al., 3DV 2016) of MONAI's blocks with ``width`` instead of 16 filters at full resolution.

    MONAI's own VNet has 46 million parameters and no way to have fewer.
    """

    def __init__(self, classes: int, channels: int, width: int, dropout: float):
        super().__init__()
        w = width
        self.enter = InputTransition(3, channels, w, ELU)
        self.downs = nn.ModuleList([
            DownTransition(3, w, 1, ELU), DownTransition(3, 2 * w, 2, ELU),
            DownTransition(3, 4 * w, 3, ELU, dropout), DownTransition(3, 8 * w, 2, ELU, dropout),
        ])  # fmt: skip
        self.ups = nn.ModuleList([
            UpTransition(3, 16 * w, 16 * w, 2, ELU, (dropout, dropout)),
            UpTransition(3, 16 * w, 8 * w, 2, ELU, (dropout, dropout)),
            UpTransition(3, 8 * w, 4 * w, 1, ELU, (None, dropout)),
            UpTransition(3, 4 * w, 2 * w, 1, ELU, (None, dropout)),
        ])  # fmt: skip
        self.leave = OutputTransition(3, 2 * w, classes, ELU)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, channels, z, y, x) to (n, classes, z, y, x) logits."""
        steps = [self.enter(image)]
        for down in self.downs:
            steps.append(down(steps[-1]))
        x = steps.pop()
        for up, skip in zip(self.ups, reversed(steps), strict=True):
            x = up(x, skip)
        return self.leave(x)


def _unetr(classes: int, channels: int, tile: Tile) -> nn.Module:
    return UNETR(channels, classes, tile, 16, 96, 192, 4, proj_type="conv", norm_name="instance")


def _swin_unetr(classes: int, channels: int, tile: Tile) -> nn.Module:
    # Group norm, because its deepest level is a single voxel in a tile of 32, where an instance has no variance.
    return SwinUNETR(channels, classes, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8),
                     norm_name=("GROUP", {"num_groups": 4}))  # fmt: skip


CANDIDATES: dict[str, Callable[[int, int, Tile], nn.Module]] = {
    "DynUNet": lambda classes, channels, tile: build_network(classes, [16, 32, 64, 112, 176], channels),
    "VNet": lambda classes, channels, tile: SlimVNet(classes, channels, 4, 0.1),
    "UNet": lambda classes, channels, tile: UNet(3, channels, classes, (28, 56, 112, 224), (2, 2, 2), num_res_units=2,
                                                 norm=NORM),
    "SegResNet": lambda classes, channels, tile: SegResNet(3, 16, channels, classes, norm=NORM,
                                                           blocks_down=(1, 2, 2, 2)),
    "UNETR": _unetr,
    "SwinUNETR": _swin_unetr,
}  # fmt: skip


def build_candidate(name: str, classes: int, channels: int, tile: Tile) -> nn.Module:
    """(n, channels, *tile) to (n, classes, *tile) logits. Raises ValueError for a name that the table lacks."""
    if name not in CANDIDATES:
        raise ValueError(f"there is no network {name!r}; known: {', '.join(CANDIDATES)}")
    return CANDIDATES[name](classes, channels, tile)
