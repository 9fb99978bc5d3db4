"""A light decoder for maps of one stride."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arcticseg.models.blocks import conv_norm, init_convs, resize


class LightDecoder(nn.Module):
    """Maps of one stride, projected, fused and upsampled fourfold in two steps.

    Width falls as resolution rises, so that most of the arithmetic stays at the encoder's stride.
    """

    def __init__(self, in_dims: Sequence[int], channels: int) -> None:
        """in_dims: channels of the encoder's maps. channels: width of the projections; a multiple of 4."""
        super().__init__()
        self.projections = nn.ModuleList([conv_norm(dim, channels, 1) for dim in in_dims])
        self.fuse = nn.Sequential(conv_norm(channels * len(in_dims), channels, 1), conv_norm(channels, channels, 3))
        self.up1 = conv_norm(channels, channels // 2, 3)
        self.up2 = conv_norm(channels // 2, channels // 4, 3)
        self.out_channels = channels // 4
        init_convs(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: [B, D_i, h, w] each -> features [B, channels / 4, 4 h, 4 w]."""
        x = torch.cat([project(x) for project, x in zip(self.projections, maps, strict=True)], dim=1)
        x = self.fuse(x)
        height, width = x.shape[-2:]
        x = self.up1(resize(x, (2 * height, 2 * width)))
        return torch.as_tensor(self.up2(resize(x, (4 * height, 4 * width))))
