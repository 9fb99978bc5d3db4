"""DeepLabV3+: dilated convolutions on the deepest map, joined with a fine one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.models.blocks import coarse, conv_norm, group_norm, init_convs, resize

# Width of the fine map, as published.
_FINE = 48


def separable(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution of each channel, a mixing of channels, GroupNorm, ReLU; size stays."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        group_norm(out_channels),
        nn.ReLU(inplace=True),
    )


class DeepLabDecoder(nn.Module):
    """Atrous spatial pyramid pooling, and one step up to the map at stride 4.

    Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018. Of maps
    of one stride the first is the fine one, enlarged fourfold.
    """

    def __init__(self, in_dims: Sequence[int], strides: Sequence[int], channels: int, rates: Sequence[int]) -> None:
        """in_dims, strides: of the encoder's maps, shallow to deep.

        channels: width; a multiple of 4. rates: pixels of the deepest map between the taps of each dilated convolution.
        """
        super().__init__()
        deepest = in_dims[-1]
        self.fine = coarse(strides)[0]
        self.enlarged = 4 if strides[self.fine] == strides[-1] else 1
        self.point = conv_norm(deepest, channels, 1)
        self.dilated = nn.ModuleList([separable(deepest, channels, rate) for rate in rates])
        self.pool = conv_norm(deepest, channels, 1)
        self.project = conv_norm((2 + len(rates)) * channels, channels, 1)
        self.smooth = separable(channels, channels)
        self.narrow = conv_norm(in_dims[self.fine], _FINE, 1)
        self.fuse = separable(_FINE + channels, channels)
        self.out_channels = channels
        init_convs(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: [B, D_i, h_i, w_i] -> features [B, channels, h, w] of the fine map's size."""
        x = maps[-1]
        whole = self.pool(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[-2:])
        x = self.project(torch.cat([self.point(x), *(conv(x) for conv in self.dilated), whole], dim=1))
        x, fine = self.smooth(x), self.narrow(maps[self.fine])
        size = [self.enlarged * side for side in fine.shape[-2:]]
        fine = resize(fine, size) if self.enlarged > 1 else fine
        return torch.as_tensor(self.fuse(torch.cat([resize(x, size), fine], dim=1)))
