"""One DynUNet for several domains: shared convolutions, and a normalization and an output layer of each domain's own.

The convolutions learn from all cases; what differs between scanners and modalities is left to a scale and a shift per
channel (domain-specific normalization: Chang et al., CVPR 2019; with instance statistics here, as batches are small),
and each label table has its own last layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet
from torch import nn

from bpr.segmentation.network import build_network


@dataclass(frozen=True)
class Outputs:
    """What a forward pass gives, by sample.

    Attributes:
        logits: (n, classes, z, y, x) of the domain's head. low: the same at half resolution, for deep supervision.
        features: encoder levels from full resolution to the bottleneck, then decoder levels up again.
    """

    logits: torch.Tensor
    low: torch.Tensor
    features: list[torch.Tensor]


class DomainNorm(nn.Module):
    """Instance normalization with a scale and a shift of each domain's own; all samples' channels as one batch's."""

    def __init__(self, channels: int, branches: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(branches, channels))
        self.bias = nn.Parameter(torch.zeros(branches, channels))
        self.eps = eps

    def forward(self, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        """x (n, channels, z, y, x), branch (n,) long; the same shape and type, statistics in single precision."""
        each = x.contiguous().flatten(0, 1)[None]  # batch norm is a single fast operation forth and back
        scale, shift = self.weight[branch].flatten(), self.bias[branch].flatten()
        even = F.batch_norm(each, None, None, scale, shift, True, 0.0, self.eps)[0].view(x.shape)
        return even.contiguous(memory_format=torch.channels_last_3d)


class DomainUNet(nn.Module):
    """The shared network.

    Args:
        classes: per domain its number of structures. filters: per level, full resolution first.
        own_norms, own_heads: one for each domain, else one for all; a common head's channels are the domains' in turn.
        dropout: share of channels that are dropped below full resolution while training.
    """

    def __init__(self, classes: list[int], filters: list[int], channels: int = 1, own_norms: bool = True,
                 own_heads: bool = True, dropout: float = 0.0):  # fmt: skip
        super().__init__()
        self.classes, self.filters, self.channels = classes, filters, channels
        self.own_norms, self.own_heads, self.dropout = own_norms, own_heads, dropout
        self.network = build_network(2, filters, channels)
        del self.network.skip_layers, self.network.output_block  # the walk below and the heads stand for them
        branches = len(classes) if own_norms else 1
        for module in list(self.network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.InstanceNorm3d):
                    setattr(module, name, DomainNorm(child.num_features, branches, child.eps))
        outputs = [n + 1 for n in classes] if own_heads else [1 + sum(classes)]
        self.heads = nn.ModuleList(nn.Conv3d(filters[0], n, 1) for n in outputs)
        self.low_heads = nn.ModuleList(nn.Conv3d(filters[1], n, 1) for n in outputs)

    @property
    def depth_channels(self) -> list[int]:
        """Channels of ``features``."""
        return [*self.filters, *reversed(self.filters[:-1])]

    def pretrained(self) -> list[nn.Parameter]:
        """What shall move slowly: nothing here."""
        return []

    def channels_of(self, domain: int) -> list[int]:
        """The head's channels that belong to a domain, background first."""
        first = 0 if self.own_heads else sum(self.classes[:domain])
        return [0, *range(first + 1, first + 1 + self.classes[domain])]

    def features(self, image: torch.Tensor, domain: torch.Tensor) -> list[torch.Tensor]:
        """image (n, channels, z, y, x), domain (n,) long; features of all encoder levels, then all decoder levels."""
        network, branch = self.network, domain if self.own_norms else torch.zeros_like(domain)
        encoded = []
        for level in (network.input_block, *network.downsamples, network.bottleneck):
            image = self._dropped(_block(level, image, branch), bool(encoded))
            encoded.append(image)
        decoded = []
        for level, skip in zip(network.upsamples, reversed(encoded[:-1]), strict=True):
            image = _block(level.conv_block, torch.cat((level.transp_conv(image), skip), 1), branch)
            image = self._dropped(image, len(decoded) + 1 < len(network.upsamples))
            decoded.append(image)
        return [*encoded, *decoded]

    def _dropped(self, x: torch.Tensor, below: bool) -> torch.Tensor:
        return F.dropout3d(x, self.dropout, self.training) if self.dropout and below else x

    def forward(self, image: torch.Tensor, domain: int) -> Outputs:
        """A batch of one domain: (n, channels, z, y, x) to its outputs."""
        number = torch.full((len(image),), domain, dtype=torch.long, device=image.device)
        return self.outputs(self.features(image, number), domain)

    def outputs(self, features: list[torch.Tensor], domain: int) -> Outputs:
        """Logits of a domain from the features of a batch of its samples."""
        head = domain if self.own_heads else 0
        logits, low = self.heads[head](features[-1]), self.low_heads[head](features[-2])
        if not self.own_heads:
            own = self.channels_of(domain)
            logits, low = logits[:, own], low[:, own]
        return Outputs(logits, low, features)

    @torch.no_grad()
    def start_from(self, weights: dict[str, torch.Tensor], domain: int = 0) -> None:
        """Take over the convolutions and one domain's norms of another DomainUNet's state; heads stay as they are."""
        for name, tensor in self.state_dict().items():
            if name.startswith("network.") and name in weights:
                other = weights[name]
                tensor.copy_(other if other.shape == tensor.shape else other[domain].expand_as(tensor))

    @torch.no_grad()
    def branch(self, domain: int) -> DynUNet:
        """A plain DynUNet that answers as this network does for one domain: what a bundle stores and engines run."""
        plain = build_network(self.classes[domain] + 1, self.filters, self.channels)
        own, state = self.network.state_dict(), plain.state_dict()
        number = domain if self.own_norms else 0
        for name, tensor in state.items():
            if name in own:
                tensor.copy_(own[name] if own[name].shape == tensor.shape else own[name][number])
        head, keep = self.heads[domain if self.own_heads else 0], self.channels_of(domain)
        plain.output_block.conv.conv.weight.copy_(head.weight[keep])
        plain.output_block.conv.conv.bias.copy_(head.bias[keep])
        return plain.eval()


def _block(block: nn.Module, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
    """A DynUNet block (two convolutions) with the branch's norms."""
    x = block.lrelu(block.norm1(block.conv1(x), branch))
    return block.lrelu(block.norm2(block.conv2(x), branch))


def placed(network: nn.Module, device: str = "cpu") -> nn.Module:
    """The network on a device, the filters of volumes channels-last, which is the fast layout on a CPU."""
    network.to(device)
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network
