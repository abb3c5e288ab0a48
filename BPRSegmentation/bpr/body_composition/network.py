"""The candidates for body composition: small 2-D networks of MONAI, built from an allowlist."""

from __future__ import annotations

from collections.abc import Callable

from monai.networks.nets import UNETR, SegResNet, SwinUNETR, UNet, VNet
from torch import nn

from bpr.body_composition.tissues import CHANNELS, COMPARTMENTS, INPUT_SHAPE

KINDS: dict[str, Callable[..., nn.Module]] = {
    "UNet": lambda filters: UNet(2, CHANNELS, len(COMPARTMENTS), filters, (2,) * (len(filters) - 1), num_res_units=2),
    "VNet": lambda dropout: VNet(2, CHANNELS, len(COMPARTMENTS), act=("elu", {"inplace": True}),
                                 dropout_prob_down=dropout, dropout_prob_up=(dropout, dropout)),
    "SegResNet": lambda filters: SegResNet(2, filters, CHANNELS, len(COMPARTMENTS), norm=("INSTANCE", {"affine": True}),
                                           blocks_down=(1, 2, 2, 2), blocks_up=(1, 1, 1)),
    "UNETR": lambda filters, hidden: UNETR(CHANNELS, len(COMPARTMENTS), INPUT_SHAPE, filters, hidden, 2 * hidden, 4,
                                           spatial_dims=2, proj_type="conv"),
    "SwinUNETR": lambda filters: SwinUNETR(CHANNELS, len(COMPARTMENTS), feature_size=filters, spatial_dims=2,
                                           depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
}  # fmt: skip


def build_network(kind: str, **arguments) -> nn.Module:
    """(n, channels, y, x) to (n, compartments, y, x) logits. Raises ValueError for a kind that is not listed."""
    if kind not in KINDS:
        raise ValueError(f"there is no network {kind!r}")
    return KINDS[kind](**arguments)
