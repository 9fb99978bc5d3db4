"""UPerNet: pyramid pooling and feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.models.blocks import conv_norm, init_convs, resize


class UPerDecoder(nn.Module):
    """Pyramid pooling and feature pyramid on a ViT's maps, rescaled to a quarter to four thirds of its stride.

    Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018. For patches of 16 pixels the maps
    stand at strides 4, 8, 16 and 32.
    """

    _SCALES = (4.0, 2.0, 1.0, 0.5)
    _POOLS = (1, 2, 3, 6)

    def __init__(self, in_dims: Sequence[int], channels: int) -> None:
        """in_dims: channels of the encoder's four maps, shallow to deep. channels: width of the pyramid."""
        super().__init__()
        self.pools = nn.ModuleList([conv_norm(in_dims[-1], channels, 1) for _ in self._POOLS])
        self.bottleneck = conv_norm(in_dims[-1] + len(self._POOLS) * channels, channels, 3)
        self.laterals = nn.ModuleList([conv_norm(dim, channels, 1) for dim in in_dims[:-1]])
        self.smooth = nn.ModuleList([conv_norm(channels, channels, 3) for _ in in_dims[:-1]])
        self.fuse = conv_norm(channels * len(in_dims), channels, 3)
        self.out_channels = channels
        init_convs(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: four [B, D_i, h, w] -> features [B, channels, 4 h, 4 w]."""
        pyramid = [self._rescale(x, scale) for x, scale in zip(maps, self._SCALES, strict=True)]
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
