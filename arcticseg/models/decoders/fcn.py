"""FCN: convolutions on the deepest map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arcticseg.models.blocks import conv_norm, init_convs


class FCNDecoder(nn.Module):
    """Two convolutions on the deepest map, and a third that sees that map, too: features of a single scale.

    Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, as its head is
    built since (MMSegmentation's `FCNHead`).
    """

    def __init__(self, in_dims: Sequence[int], strides: Sequence[int], channels: int) -> None:
        """in_dims, strides: of the encoder's maps, shallow to deep. channels: width; a multiple of 4."""
        super().__init__()
        deepest = in_dims[-1]
        self.convs = nn.Sequential(conv_norm(deepest, channels, 3), conv_norm(channels, channels, 3))
        self.fuse = conv_norm(deepest + channels, channels, 3)
        self.out_channels = channels
        init_convs(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: [B, D_i, h_i, w_i] -> features [B, channels, h, w] of the deepest's size."""
        x = maps[-1]
        return torch.as_tensor(self.fuse(torch.cat([x, self.convs(x)], dim=1)))
