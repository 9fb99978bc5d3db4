"""A light decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arcticseg.models.blocks import brought, conv_norm, init_convs, resize


class LightDecoder(nn.Module):
    """Maps brought to one stride, projected, fused and upsampled fourfold in two steps.

    They meet at the coarsest stride that is at most four times the finest. Width falls as resolution rises, so that
    most of the arithmetic stays there.
    """

    def __init__(self, in_dims: Sequence[int], strides: Sequence[int], channels: int) -> None:
        """in_dims, strides: of the encoder's maps. channels: width of the projections; a multiple of 4."""
        super().__init__()
        self.strides = tuple(strides)
        self.middle = max(stride for stride in strides if stride <= 4 * min(strides))
        self.projections = nn.ModuleList([conv_norm(dim, channels, 1) for dim in in_dims])
        self.fuse = nn.Sequential(conv_norm(channels * len(in_dims), channels, 1), conv_norm(channels, channels, 3))
        self.up1 = conv_norm(channels, channels // 2, 3)
        self.up2 = conv_norm(channels // 2, channels // 4, 3)
        self.out_channels = channels // 4
        init_convs(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: [B, D_i, h_i, w_i] -> features [B, channels / 4, 4 h, 4 w] of the size h, w where they meet.

        They are no larger than the image: a stride of 2 or 1 is upsampled once or not.
        """
        parts = zip(self.projections, maps, self.strides, strict=True)
        x = self.fuse(torch.cat([self._projected(project, x, stride) for project, x, stride in parts], dim=1))
        for step, convs in enumerate((self.up1, self.up2)):
            height, width = x.shape[-2:]
            x = convs(resize(x, (2 * height, 2 * width)) if self.middle >> step > 1 else x)
        return torch.as_tensor(x)

    def _projected(self, project: nn.Module, x: Tensor, stride: int) -> Tensor:
        """A map at the middle stride; whatever is cheaper comes first."""
        if stride < self.middle:
            return torch.as_tensor(project(brought(x, stride, self.middle)))
        return brought(project(x), stride, self.middle)
