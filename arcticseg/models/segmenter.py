"""From SAR and its companions to ice charts: encoder, decoder, one head a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.models.blocks import resize
from arcticseg.models.heads import Head


class Segmenter(nn.Module):
    """Encoder, decoder and heads.

    Args:
        encoder: a module with `stride` whose forward gives a list of maps; with `takes_seeds` it takes seeds, too.
        decoder: a decoder for all charts, or a ModuleDict with a decoder for each;
            each with `out_channels`.
        heads: one for each chart, in the order of charts.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.stride = cast(int, encoder.stride)
        self._seeded = bool(getattr(encoder, "takes_seeds", False))
        self.heads = nn.ModuleDict(heads)

    def head(self, chart: str) -> Head:
        """The head of a chart."""
        return cast(Head, self.heads[chart])

    @property
    def charts(self) -> tuple[str, ...]:
        """Charts that it draws."""
        return tuple(self.heads)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> dict[str, Tensor]:
        """x: [B, C, H, W], any H and W -> chart -> output of its head [B, K, H, W].

        seeds: int64 [B] of `drop_path.sample_seeds`, for an encoder that drops; None: nothing is dropped.
        Sizes that the encoder's stride does not divide are filled up with 0, which is what a pixel without data holds.
        """
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        maps = self.encoder(x, seeds=seeds) if self._seeded else self.encoder(x)
        shared = None if isinstance(self.decoder, nn.ModuleDict) else self.decoder(maps)
        outputs: dict[str, Tensor] = {}
        for chart in self.charts:
            features = self.decoder[chart](maps) if isinstance(self.decoder, nn.ModuleDict) else shared
            head = self.head(chart)
            scores = head(features)
            if scores.shape[-2:] != x.shape[-2:]:
                scores = resize(scores, x.shape[-2:])
            outputs[chart] = head.scaled(scores)[..., :height, :width]
        return outputs
