"""Convolution blocks that the networks share. All normalise within one sample, so a batch's make-up changes nothing."""

from __future__ import annotations

import math

from torch import nn


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """GroupNorm with the largest number of groups, up to `groups`, that divides the channels with it."""
    return nn.GroupNorm(math.gcd(groups, channels), channels)


def conv_norm(in_channels: int, out_channels: int, kernel: int, groups: int = 32) -> nn.Sequential:
    """Convolution of odd kernel, GroupNorm, ReLU; size stays."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        group_norm(out_channels, groups),
        nn.ReLU(inplace=True),
    )


def init_convs(module: nn.Module) -> None:
    """He initialisation of every convolution below `module` (He et al., ICCV 2015)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
