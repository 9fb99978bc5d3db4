"""From SAR and its companions to ice charts: encoder, decoder, one head a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.models.auxiliary import AuxiliaryHead
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


def auxiliary_name(chart: str) -> str:
    """Among a network's outputs, that of a chart's auxiliary head."""
    return f"{chart}_auxiliary"


class Segmenter(nn.Module):
    """Encoder, decoder and heads.

    Args:
        encoder: a module with `stride` whose forward gives a list of maps; with `takes_seeds` it takes seeds, too.
        decoder: a decoder for all charts, or a ModuleDict with a decoder for each;
            each with `out_channels`.
        heads: one for each chart, in the order of charts.
        auxiliary: gives scores of the charts from the encoder's maps, in training only; None: there is none.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        heads: Mapping[str, Head],
        auxiliary: AuxiliaryHead | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.stride = cast(int, encoder.stride)
        self._seeded = bool(getattr(encoder, "takes_seeds", False))
        self.heads = nn.ModuleDict(heads)
        self.auxiliary = auxiliary

    def head(self, chart: str) -> Head:
        """The head of a chart."""
        return cast(Head, self.heads[chart])

    @property
    def charts(self) -> tuple[str, ...]:
        """Charts that it draws."""
        return tuple(self.heads)

    def forward(self, x: Tensor, seeds: Tensor | None = None, probes: Tensor | None = None) -> dict[str, Tensor]:
        """x: [B, C, H, W], any H and W -> chart -> output of its head [B, K, H, W].

        In training also, where there are auxiliary heads, `auxiliary_name` of a chart -> output of that head.

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
            outputs[chart] = _output(head, head(features), x.shape[-2:])[..., :height, :width]
        if self.auxiliary is not None and self.training:
            for chart, scores in self.auxiliary(maps).items():
                head = cast(Head, self.auxiliary.heads[chart])
                outputs[auxiliary_name(chart)] = _output(head, scores, x.shape[-2:])[..., :height, :width]
        return outputs


def _output(head: Head, scores: Tensor, size: torch.Size) -> Tensor:
    """What a head gives at a size, from its scores [B, C, h, w]."""
    return head.scaled(scores if scores.shape[-2:] == size else resize(scores, size))
