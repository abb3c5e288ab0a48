"""The segmentation network: MONAI's DynUNet, few filters at full resolution where the voxels are, more below."""

from __future__ import annotations

from monai.networks.nets import DynUNet

from bpr.segmentation.grid import LEVELS, WINDOWS


def build_network(classes: int, filters: list[int], channels: int = len(WINDOWS)) -> DynUNet:
    """(n, channels, z, y, x) to (n, classes, z, y, x) logits; ``filters`` per level, full resolution first."""
    if len(filters) != LEVELS + 1:
        raise ValueError(f"filters must name {LEVELS + 1} levels, got {filters}")
    return DynUNet(
        spatial_dims=3,
        in_channels=channels,
        out_channels=classes,
        kernel_size=[3] * len(filters),
        strides=[1] + [2] * LEVELS,
        upsample_kernel_size=[2] * LEVELS,
        filters=filters,
        res_block=False,
        norm_name=("INSTANCE", {"affine": True}),
    )
