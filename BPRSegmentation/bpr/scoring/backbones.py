"""The five backbones under one interface: (n, 3, h, w) to feature maps, with ``channels`` saying how many.

MONAI's networks where it has them. VGG (Simonyan and Zisserman, ICLR 2015) and ConvNeXt (Liu et al., CVPR 2022) are
written here. Widths are chosen so that each trains on two CPU cores; the published widths are arguments.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.nets import DenseNet, EfficientNetBN, ResNet
from torch import nn

from bpr.scoring.efficientnet_lite import EfficientNetLite

VGG16 = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # width factor and convolutions of each stage


class VGG(nn.Module):
    """VGG16's convolutional part; ``width`` 64 is the published one, ``batch_norm`` its later variant."""

    def __init__(self, width: int = 16, batch_norm: bool = False):
        super().__init__()
        layers, inputs = [], 3
        for factor, repeats in VGG16:
            for _ in range(repeats):
                layers.append(nn.Conv2d(inputs, factor * width, 3, padding=1))
                nn.init.kaiming_normal_(layers[-1].weight, nonlinearity="relu")
                nn.init.zeros_(layers[-1].bias)
                inputs = factor * width
                layers += [nn.BatchNorm2d(inputs)] if batch_norm else []
                layers.append(nn.ReLU())
            layers.append(nn.MaxPool2d(2))
        self.layers, self.channels = nn.Sequential(*layers), inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (n, c, h, w)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, layer norm, two pointwise layers with GELU, layer scale, identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            ChannelNorm(channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )
        # The published start of 1e-6 is made for hundreds of epochs; short trainings need a branch that is awake.
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.layers(x)


class ConvNeXt(nn.Module):
    """Four stages; ``width`` 96 and ``depths`` (3, 3, 9, 3) are the published tiny variant."""

    def __init__(self, width: int = 32, depths: tuple[int, ...] = (2, 2, 4, 2)):
        super().__init__()
        stages: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), ChannelNorm(width)]
        for k, depth in enumerate(depths):
            if k:
                stages += [ChannelNorm(width), nn.Conv2d(width, 2 * width, 2, 2)]
                width *= 2
            stages += [ConvNeXtBlock(width) for _ in range(depth)]
        self.layers, self.channels = nn.Sequential(*stages, ChannelNorm(width)), width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class MonaiResNet(ResNet):
    """MONAI's ResNet without its pooling and output layer."""

    def __init__(self, width: int = 32, layers: tuple[int, ...] = (2, 2, 2, 2)):
        self.channels = 8 * width
        planes = [width, 2 * width, 4 * width, 8 * width]
        super().__init__("basic", list(layers), planes, spatial_dims=2, n_input_channels=3, conv1_t_size=7,
                         conv1_t_stride=2, feed_forward=False)  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class MonaiDenseNet(DenseNet):
    """MONAI's DenseNet without its output layer; growth 32 and blocks (6, 12, 24, 16) are the published 121."""

    def __init__(self, growth: int = 16, blocks: tuple[int, ...] = (6, 12, 12, 8)):
        super().__init__(2, 3, 1, init_features=2 * growth, growth_rate=growth, block_config=tuple(blocks))
        self.channels = self.class_layers.out.in_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)


class MonaiEfficientNet(EfficientNetBN):
    """MONAI's EfficientNet-B0 without its output layer, from scratch."""

    channels = 1280

    def __init__(self):
        super().__init__("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=3, num_classes=1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # the published 0.01 is made for long trainings; short ones end before it settles

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._swish(self._bn0(self._conv_stem(self._conv_stem_padding(x))))
        x = self._blocks(x)
        return self._swish(self._bn1(self._conv_head(self._conv_head_padding(x))))


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "vgg": VGG,
    "resnet": MonaiResNet,
    "densenet": MonaiDenseNet,
    "convnext": ConvNeXt,
    "efficientnet": MonaiEfficientNet,
    "efficientnet_lite": EfficientNetLite,
}
