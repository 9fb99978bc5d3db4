"""Convolution blocks that the networks share. All normalise within one sample, so a batch's make-up changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of up to 32 groups that divide the channels, with four channels a group at least where that can be.

    A group of one channel would turn a map of one pixel (as pyramid pooling makes) into its bias.
    """
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return nn.GroupNorm(groups, channels)


def conv_norm(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Convolution of odd kernel, GroupNorm, ReLU; size stays."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        group_norm(out_channels),
        nn.ReLU(inplace=True),
    )


def init_convs(module: nn.Module) -> None:
    """He initialisation of every convolution below `module` (He et al., ICCV 2015)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation of maps [B, C, h, w] to size (H, W)."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
