"""From SAR and its companions to three ice charts: encoder, decoder, one head a chart."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.errors import ConfigError
from arcticseg.ice.sigrid import CHARTS, N_CLASSES

UNET = "unet"
SIC_MODES = ("regression", "classification")
DECODER_CHANNELS = {"light": 256, "upernet": 768}

# The middle of SIC classes 0..10.
_SIC_MIDDLE = (N_CLASSES["SIC"] - 1) / 2


class Segmenter(nn.Module):
    """Encoder, decoder and heads.

    encoder: a module with `stride` whose forward gives a list of maps. decoder: one for all charts, or a ModuleDict
    with one for each of CHARTS; each with `out_channels`.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, sic: str = "regression") -> None:
        """sic: "regression" (one channel, in SIC classes 0..10, unbounded) or "classification" (one logit a class)."""
        super().__init__()
        if sic not in SIC_MODES:
            raise ConfigError(f"sic {sic!r} is unknown; set one of {', '.join(SIC_MODES)}")
        self.encoder = encoder
        self.decoder = decoder
        self.stride = cast(int, encoder.stride)
        outputs = dict(N_CLASSES) | ({"SIC": 1} if sic == "regression" else {})
        heads = {
            chart: nn.Conv2d(cast(int, self._decoder_of(chart).out_channels), outputs[chart], 1) for chart in CHARTS
        }
        for head in heads.values():
            # Small weights: training starts from near-equal odds, not from whatever the draw prefers.
            nn.init.normal_(head.weight, std=0.01)
            nn.init.constant_(cast(Tensor, head.bias), 0.0)
        self.is_regression = sic == "regression"
        self.heads = nn.ModuleDict(heads)

    def _decoder_of(self, chart: str) -> nn.Module:
        return self.decoder[chart] if isinstance(self.decoder, nn.ModuleDict) else self.decoder

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: [B, C, H, W], any H and W -> logits, SIC [B, 1 or 11, H, W], SOD [B, 6, H, W], FLOE [B, 7, H, W].

        Sizes that the encoder's stride does not divide are filled up with 0, which is what a pixel without data holds.
        """
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        maps = self.encoder(x)
        shared = None if isinstance(self.decoder, nn.ModuleDict) else self.decoder(maps)
        logits: dict[str, Tensor] = {}
        for chart in CHARTS:
            features = self._decoder_of(chart)(maps) if shared is None else shared
            # The head comes before the upsampling: both are linear and commute, and a few classes cost less than
            # the decoder's many channels.
            scores = self.heads[chart](features)
            if scores.shape[-2:] != x.shape[-2:]:
                scores = F.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=False)
            if chart == "SIC" and self.is_regression:
                # The head speaks in units of half the scale around its middle: of order 1, as its weights are, so that
                # concentrations from 0 to 10 are a few optimiser steps away and not hundreds.
                scores = _SIC_MIDDLE * (1 + scores)
            logits[chart] = scores[..., :height, :width]
        return logits
