"""Deep supervision: what an inner map of the encoder says of the charts, for a loss in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from arcticseg.errors import BadValueError
from arcticseg.models.blocks import conv_norm, init_convs
from arcticseg.models.config.auxiliary import AuxiliaryConfig
from arcticseg.models.heads import Head


class AuxiliaryHead(nn.Module):
    """A convolution of 3 x 3 on a map of the encoder, and a head for each chart.

    Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.3; as MMSegmentation has it, without dropout.
    """

    def __init__(self, cfg: AuxiliaryConfig, in_dims: Sequence[int], heads: Mapping[str, Head]) -> None:
        """in_dims: channels of the encoder's maps. heads: one for each chart, of `cfg.channels` channels.

        Raises:
            BadValueError: there is no such map.
        """
        super().__init__()
        if not -len(in_dims) <= cfg.map < len(in_dims):
            remedy = f"name one of the encoder's {len(in_dims)} maps, 0 to {len(in_dims) - 1}"
            raise BadValueError("model.auxiliary.map", cfg.map, remedy)
        self.map = cfg.map
        self.conv = conv_norm(in_dims[cfg.map], cfg.channels, 3)
        self.heads = nn.ModuleDict(heads)
        init_convs(self.conv)
        for head in heads.values():
            head.initialise()

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """maps: [B, D_i, h_i, w_i] -> chart -> scores [B, C, h, w] at the size of the map."""
        features = self.conv(maps[self.map])
        return {chart: cast(Tensor, head(features)) for chart, head in self.heads.items()}
