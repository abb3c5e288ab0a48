"""What a segmentation network wears while it learns: a second output at half resolution, and norms that compile."""

from __future__ import annotations

import shutil

import torch
from monai.networks.nets import DynUNet
from torch import nn


class DeepSupervision(nn.Module):
    """A DynUNet with a second output at half resolution, so that the deeper levels learn early (Lee et al. 2015).

    Its ``network`` is the one that stays: its parameters keep their names, the second head is left behind.
    """

    def __init__(self, network: DynUNet, classes: int):
        super().__init__()
        self.network = with_fast_norms(network)
        self.head = nn.Conv3d(network.filters[1], classes, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, channels, z, y, x) to logits (n, classes, z, y, x) and (n, classes, z / 2, y / 2, x / 2)."""
        network = self.network
        skips = [network.input_block(image)]
        for level in network.downsamples:
            skips.append(level(skips[-1]))
        low, high = None, network.bottleneck(skips[-1])
        for level, skip in zip(network.upsamples, reversed(skips), strict=True):
            low, high = high, level(high, skip)
        return network.output_block(high), self.head(low)


class InstanceNorm(nn.Module):
    """Instance normalization in plain tensor operations: unlike torch's own it stays channels-last on a CPU."""

    def __init__(self, norm: nn.InstanceNorm3d):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, z, y, x) to the same shape and type; statistics in single precision."""
        wide = x.float()
        mean = wide.mean((2, 3, 4), keepdim=True)
        variance = (wide - mean).square().mean((2, 3, 4), keepdim=True)
        scale = self.weight[None, :, None, None, None] * torch.rsqrt(variance + self.eps)
        return (wide * scale + (self.bias[None, :, None, None, None] - mean * scale)).to(x.dtype)


def with_fast_norms(network: nn.Module) -> nn.Module:
    """Replace torch's instance norms in place; parameters and their names stay the same."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm3d):
                setattr(module, name, InstanceNorm(child))
    return network


def compiled(network: nn.Module) -> nn.Module:
    """The network compiled where there is a C++ compiler (1.4 to 1.8 times faster steps), else itself."""
    return torch.compile(network) if shutil.which("g++") or shutil.which("clang++") else network


def has_fast_bfloat16(device: str) -> bool:
    """Whether convolutions in bfloat16 are faster than in single precision."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return device == "cpu" and torch.cpu._is_amx_tile_supported()
