"""From a config to a network, with random weights from torch's generator; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from torch import nn

from arcticseg.models.auxiliary import AuxiliaryHead
from arcticseg.models.config import ModelConfig
from arcticseg.models.heads import Head
from arcticseg.models.segmenter import Segmenter

# timm takes a second to load, and a UNet does not need it.
if TYPE_CHECKING:
    from arcticseg.models.encoders.vit import ViTEncoder
    from arcticseg.models.mae import MaskedAutoencoder


def build_encoder(model: ModelConfig, in_chans: int, tile: int) -> nn.Module:
    """The encoder for `in_chans` planes and tiles of `tile` pixels.

    Raises:
        ConfigError: there is none of that name, or its sizes do not fit.
    """
    return cast(nn.Module, model.encoder.make(in_chans, tile))


def build_segmenter(model: ModelConfig, in_chans: int, tile: int) -> Segmenter:
    """Encoder, decoders and heads of the charts.

    Raises:
        ConfigError: the encoder cannot be built.
    """
    encoder = build_encoder(model, in_chans, tile)
    decoder, maps = model.decoding, (encoder.dims, encoder.strides)
    if decoder.for_all:
        decoders = dict.fromkeys(model.charts, cast(nn.Module, decoder.make(*maps)))
    else:
        decoders = {chart: cast(nn.Module, decoder.make(*maps)) for chart in model.charts}
    heads: dict[str, Head] = {chart: model.head(chart).make(decoders[chart].out_channels, chart) for chart in decoders}
    # After all of them are made, so that another kind of head draws no other weights for the rest.
    for head in heads.values():
        head.initialise()
    parts = decoders[model.charts[0]] if decoder.for_all else nn.ModuleDict(decoders)
    return Segmenter(encoder, parts, heads, _auxiliary(model, cast(Sequence[int], encoder.dims)))


def _auxiliary(model: ModelConfig, dims: Sequence[int]) -> AuxiliaryHead | None:
    """The auxiliary head of a config, drawn after all else."""
    if model.auxiliary is None:
        return None
    own = {chart: model.head(chart).make(model.auxiliary.channels, chart) for chart in model.charts}
    return AuxiliaryHead(model.auxiliary, dims, own)


def build_autoencoder(
    model: ModelConfig,
    in_chans: int,
    tile: int,
    out_chans: int,
    *,
    decoder_dim: int,
    decoder_depth: int,
    decoder_heads: int,
) -> MaskedAutoencoder:
    """A masked autoencoder that reconstructs `out_chans` planes.

    Raises:
        ConfigError: the encoder cannot be built.
    """
    from arcticseg.models.mae import MaskedAutoencoder

    encoder = cast("ViTEncoder", build_encoder(model, in_chans, tile))
    return MaskedAutoencoder(encoder, out_chans, decoder_dim, decoder_depth, decoder_heads)
