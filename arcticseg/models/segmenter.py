"""From SAR and its companions to ice charts: encoder, decoder, one head a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.models.blocks import resize
from arcticseg.models.heads import Head


class _Probed(torch.autograd.Function):
    """Features as they are; on the way back, the square of their gradient's norm is the gradient of the probe."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, probe: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.float().square().sum()


def probed(features: Tensor, probe: Tensor | None) -> Tensor:
    """Features whose gradient's norm, squared, is added to the gradient of a probe, 0-d; None: nothing is added."""
    return features if probe is None else cast(Tensor, _Probed.apply(features, probe))


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

    def forward(self, x: Tensor, seeds: Tensor | None = None, probes: Tensor | None = None) -> dict[str, Tensor]:
        """x: [B, C, H, W], any H and W -> chart -> output of its head [B, K, H, W].

        seeds: int64 [B] of `drop_path.sample_seeds`, for an encoder that drops; None: nothing is dropped.
        probes: float32 [charts], whose gradients are the squared norms of those of the features that charts share, by
            each chart: of the decoder's features, or of the encoder's where each chart has a decoder.
        Sizes that the encoder's stride does not divide are filled up with 0, which is what a pixel without data holds.
        """
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        maps = self.encoder(x, seeds=seeds) if self._seeded else self.encoder(x)
        shared = maps[0] if isinstance(self.decoder, nn.ModuleDict) else self.decoder(maps)
        outputs: dict[str, Tensor] = {}
        for number, chart in enumerate(self.charts):
            probe = None if probes is None else probes[number]
            if isinstance(self.decoder, nn.ModuleDict):
                features = self.decoder[chart]([probed(part, probe) for part in maps])
            else:
                features = probed(shared, probe)
            head = self.head(chart)
            scores = head(features)
            if scores.shape[-2:] != x.shape[-2:]:
                scores = resize(scores, x.shape[-2:])
            outputs[chart] = head.scaled(scores)[..., :height, :width]
        return outputs
