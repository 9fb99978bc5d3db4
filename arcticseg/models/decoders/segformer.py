"""SegFormer's decoder: maps projected, resized, fused; no convolution looks beyond a pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arcticseg.models.blocks import coarse, conv_norm, init_convs, resize


class SegFormerDecoder(nn.Module):
    """The all-MLP decoder on the maps of stride 4 and coarser; features stand at the finest of these.

    Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021.
    Maps of one stride stay there: what sees single pixels would draw nothing more from larger ones.
    """

    def __init__(self, in_dims: Sequence[int], strides: Sequence[int], channels: int) -> None:
        """in_dims, strides: of the encoder's maps, shallow to deep. channels: width; a multiple of 4."""
        super().__init__()
        self.used = coarse(strides)
        self.projections = nn.ModuleList([nn.Conv2d(in_dims[number], channels, 1) for number in self.used])
        self.fuse = conv_norm(channels * len(self.used), channels, 1)
        self.out_channels = channels
        init_convs(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: [B, D_i, h_i, w_i] -> features [B, channels, h, w] of the finest used."""
        used = [maps[number] for number in self.used]
        size = used[0].shape[-2:]
        parts = [project(x) for project, x in zip(self.projections, used, strict=True)]
        parts = [x if x.shape[-2:] == size else resize(x, size) for x in parts]
        return torch.as_tensor(self.fuse(torch.cat(parts, dim=1)))
