"""The UNet of the AutoICE challenge, with a normalisation that needs no batch unless the challenge's is asked for.

Ronneberger et al., MICCAI 2015, in the challenge's shape: double 3 x 3 convolutions, max-pooling on the way down,
bilinear upsampling on the way up, one level below the last filter count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.models.batch_norm import batch_norm
from arcticseg.models.blocks import compiled_on_gpu, conv_norm, group_norm, init_convs

_NORMS = {"group": group_norm, "batch": batch_norm}


def double_conv(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with normalisation by `group` or `batch` and ReLU."""
    make = _NORMS[norm]
    return nn.Sequential(conv_norm(in_channels, out_channels, 3, make), conv_norm(out_channels, out_channels, 3, make))


class UNetEncoder(nn.Module):
    """Way down: maps at strides 1, 2, 4 ... 2^n for n filter counts."""

    def __init__(self, in_chans: int, tile: int, filters: Sequence[int], norm: str = "group") -> None:
        """Take images of `in_chans` planes and any size, whatever the `tile`.

        filters: channels of each level; the level below the last keeps its width.
        norm: `group`, or `batch` as in the challenge.
        """
        super().__init__()
        widths = [*filters, filters[-1]]
        self.levels = nn.ModuleList(
            [double_conv(before, width, norm) for before, width in zip([in_chans, *widths[:-1]], widths, strict=True)]
        )
        self.dims = tuple(widths)
        self.strides = tuple(2**level for level in range(len(widths)))
        self.stride = self.strides[-1]
        init_convs(self)

    @property
    def n_layers(self) -> int:
        """The layer of what comes after all levels."""
        return len(self.levels) + 1

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 1 for the first level."""
        return int(name.split(".")[1]) + 1

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: [B, C, H, W], H and W multiples of `stride` -> maps [B, dims[i], H / 2^i, W / 2^i]."""
        if compiled_on_gpu(x):
            x = x.contiguous(memory_format=torch.channels_last)
        maps: list[Tensor] = []
        for number, level in enumerate(self.levels):
            x = level(F.max_pool2d(x, 2) if number else x)
            maps.append(x)
        return maps
