"""From a config to a network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from arcticseg.errors import ConfigError
from arcticseg.ice.sigrid import CHARTS
from arcticseg.models.decoders.light import LightDecoder
from arcticseg.models.decoders.unet import UNetDecoder
from arcticseg.models.decoders.upernet import UPerDecoder
from arcticseg.models.encoders.unet import UNetEncoder
from arcticseg.models.encoders.vit import build_vit
from arcticseg.models.segmenter import DECODER_CHANNELS, UNET, Segmenter


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
