"""UPerNet: pyramid pooling and feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.models.blocks import coarse, conv_norm, init_convs, resize


class UPerDecoder(nn.Module):
    """Pyramid pooling and feature pyramid on the maps of stride 4 and coarser.

    Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018. Maps of one stride, as a ViT's, become
    a pyramid first, from four times their size to a half: for patches of 16 pixels at strides 4, 8, 16 and 32.
    """

    _POOLS = (1, 2, 3, 6)

    def __init__(self, in_dims: Sequence[int], strides: Sequence[int], channels: int) -> None:
        """in_dims, strides: of the encoder's maps, shallow to deep. channels: width of the pyramid."""
        super().__init__()
        self.used = coarse(strides)
        in_dims = [in_dims[number] for number in self.used]
        flat = len(set(strides)) == 1
        self.scales = [min(4.0, 2.0 ** (len(in_dims) - 2 - place)) if flat else 1.0 for place in range(len(in_dims))]
        self.pools = nn.ModuleList([conv_norm(in_dims[-1], channels, 1) for _ in self._POOLS])
        self.bottleneck = conv_norm(in_dims[-1] + len(self._POOLS) * channels, channels, 3)
        self.laterals = nn.ModuleList([conv_norm(dim, channels, 1) for dim in in_dims[:-1]])
        self.smooth = nn.ModuleList([conv_norm(channels, channels, 3) for _ in in_dims[:-1]])
        self.fuse = conv_norm(channels * len(in_dims), channels, 3)
        self.out_channels = channels
        init_convs(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: [B, D_i, h_i, w_i] -> features [B, channels, h, w] of the pyramid's finest size."""
        pyramid = [self._rescale(maps[number], scale) for number, scale in zip(self.used, self.scales, strict=True)]
        levels = [lateral(x) for lateral, x in zip(self.laterals, pyramid[:-1], strict=True)]
        levels.append(self._pool(pyramid[-1]))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[-2:])
        levels = [*(smooth(x) for smooth, x in zip(self.smooth, levels[:-1], strict=True)), levels[-1]]
        size = levels[0].shape[-2:]
        return torch.as_tensor(self.fuse(torch.cat([levels[0], *(resize(x, size) for x in levels[1:])], dim=1)))

    @staticmethod
    def _rescale(x: Tensor, scale: float) -> Tensor:
        if scale == 1:
            return x
        return resize(x, [max(1, int(side * scale)) for side in x.shape[-2:]])

    def _pool(self, x: Tensor) -> Tensor:
        """Context of the deepest map at several sizes, brought back to its own: [B, D, h, w] -> [B, channels, h, w]."""
        pooled = [
            resize(project(F.adaptive_avg_pool2d(x, size)), x.shape[-2:])
            for project, size in zip(self.pools, self._POOLS, strict=True)
        ]
        return torch.as_tensor(self.bottleneck(torch.cat([x, *pooled], dim=1)))
