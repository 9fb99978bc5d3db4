"""The UNet's way up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arcticseg.errors import ConfigError
from arcticseg.models.blocks import init_convs, resize
from arcticseg.models.encoders.unet import double_conv


class UNetDecoder(nn.Module):
    """Way up: each step doubles the resolution and joins the encoder's map of that size."""

    def __init__(self, in_dims: Sequence[int], strides: Sequence[int], norm: str = "group") -> None:
        """in_dims: channels of the encoder's maps, fine to coarse. strides: 1, 2, 4 and so on.

        norm: `group` or `batch`.

        Raises:
            ConfigError: strides are others.
        """
        super().__init__()
        if list(strides) != [2**level for level in range(len(in_dims))]:
            raise ConfigError(
                f"key 'model.decoder.name' is 'unet', which needs maps at strides 1, 2, 4 ...; the encoder's are "
                f"{', '.join(map(str, strides))}; set another"
            )
        widths = zip(in_dims[-2::-1], in_dims[:0:-1], strict=True)
        self.steps = nn.ModuleList([double_conv(below + width, width, norm) for width, below in widths])
        self.out_channels = in_dims[0]
        init_convs(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps of `UNetEncoder` -> features [B, dims[0], H, W]."""
        x = maps[-1]
        for step, skip in zip(self.steps, maps[-2::-1], strict=True):
            x = step(torch.cat([resize(x, skip.shape[-2:]), skip], dim=1))
        return x
