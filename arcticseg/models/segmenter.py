"""From SAR and its companions to three ice charts: encoder, decoder, one head a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.errors import ConfigError
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.models.decoders import LightDecoder, UPerDecoder
from arcticseg.models.unet import UNetDecoder, UNetEncoder
from arcticseg.models.vit import build_vit

UNET = "unet"
SIC_MODES = ("regression", "classification")
DECODER_CHANNELS = {"light": 256, "upernet": 768}

_PREFIX = "encoder."

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


def build_segmenter(
    encoder: str,
    in_chans: int,
    img_size: int,
    decoder: str = "light",
    sic: str = "regression",
    drop_path: float = 0.0,
    patch_size: int | None = None,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    unet_filters: Sequence[int] = (16, 32, 64, 64),
    decoder_channels: int | None = None,
) -> Segmenter:
    """Build a segmenter with random weights.

    encoder: "unet", which brings its own decoder and takes only in_chans, sic and unet_filters, or the name of a
    vision transformer of timm (see `build_vit`). decoder: "light" (one for all charts) or "upernet" (one a chart).
    decoder_channels: their width; 256 and 768 if None. Raises ConfigError for what cannot be built.
    """
    if encoder == UNET:
        down = UNetEncoder(in_chans, unet_filters)
        return Segmenter(down, UNetDecoder(down.dims), sic)
    if decoder not in DECODER_CHANNELS:
        raise ConfigError(f"decoder {decoder!r} is unknown; set one of {', '.join(DECODER_CHANNELS)}")
    channels = DECODER_CHANNELS[decoder] if decoder_channels is None else decoder_channels
    if channels < 4 or channels % 4:
        raise ConfigError(f"decoder_channels {channels} must be a positive multiple of 4")
    vit = build_vit(encoder, in_chans, img_size, drop_path, patch_size, embed_dim, depth, num_heads)
    if decoder == "light":
        return Segmenter(vit, LightDecoder(vit.dims, channels), sic)
    return Segmenter(vit, nn.ModuleDict({chart: UPerDecoder(vit.dims, channels) for chart in CHARTS}), sic)


def load_encoder(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | Path) -> list[str]:
    """Give `model` the encoder of a pretrained autoencoder or segmenter; the rest stays as it is.

    state_dict: theirs; only its `encoder.*` is used. path: where it came from, for the message. Returns the names
    loaded. Raises ConfigError if the encoders differ in any name or shape; the model is unchanged then.
    """
    given = {name: value for name, value in state_dict.items() if name.startswith(_PREFIX)}
    own = {name: value for name, value in model.state_dict().items() if name.startswith(_PREFIX)}
    if not given:
        raise ConfigError(
            f"{path}: no encoder weights in it ({len(state_dict)} entries); give a pretraining checkpoint"
        )
    differing = [name for name in own if name in given and given[name].shape != own[name].shape]
    if differing:
        name = differing[0]
        hint = {
            "encoder.pos_embed": "set the same tile and patch size",
            "encoder.patch_embed.proj.weight": "set the same input channels and patch size",
        }.get(name, "set the same encoder")
        raise ConfigError(
            f"{path}: {name} has shape {tuple(given[name].shape)}, the model needs {tuple(own[name].shape)} "
            f"({len(differing)} of {len(own)} encoder weights differ); {hint} as in the pretraining"
        )
    if own.keys() != given.keys():
        missing, surplus = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        raise ConfigError(
            f"{path}: another encoder: {len(missing)} weights missing ({missing[0] if missing else '-'}), "
            f"{len(surplus)} unknown ({surplus[0] if surplus else '-'}); set the same encoder as in the pretraining"
        )
    model.load_state_dict(given, strict=False)
    return list(given)
