"""What networks cost: encoders, decoders and the shipped recipes, each counted on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from arcticseg import config
from arcticseg.models.build import build_encoder
from arcticseg.models.config import ModelConfig
from arcticseg.run.config import load
from arcticseg.speed.arithmetic import Work, count
from arcticseg.speed.machines import GPUS, measured
from arcticseg.speed.network import work_of

# Encoders to compare, one line each; any other is counted by its name.
EXAMPLES: tuple[Mapping[str, Any], ...] = (
    {"name": "vit_tiny_patch16_224"},
    {"name": "vit_small_patch16_224"},
    {"name": "vit_base_patch16_224"},
    {"name": "vit_large_patch16_224"},
    {"name": "vit_huge_patch14_224", "patch_size": 16},
    {"name": "unet"},
    {"name": "resnet50d"},
    {"name": "convnext_base"},
    {"name": "swin_tiny_patch4_window7_224"},
    {"name": "swin_base_patch4_window7_224"},
    {"name": "mit_b2"},
)
# Of the numbers of encoders and decoders.
_DTYPE = torch.bfloat16
# At once, so that a network with BatchNorm has a batch, and CutMix a pair.
_SAMPLES = 2


@dataclass(frozen=True)
class Cost:
    """What a network, or a part of one, costs.

    Attributes:
        parameters: count.
        forward, training: floating-point operations of a tile: forward alone, and with backward.
        memory: bytes a sample that forward keeps for backward, inputs included; weights, gradients, optimiser apart.
    """

    parameters: int
    forward: float
    training: float
    memory: float


_known: dict[str, Cost] = {}


def recipes() -> list[str]:
    """Names of the shipped configs that are runs: those with a length."""
    names = (name.removesuffix(".yaml") for name in config.shipped())
    return [name for name in names if any({"steps", "epochs"} & part.keys() for part in config.layers(name))]


def recipe_cost(name: str, tile: int) -> Cost:
    """The cost of a recipe's network for tiles of so many pixels, in the precision of its training.

    Raises:
        ConfigError: there is no such config, or its network does not fit the tile.
    """
    cfg = load(name)
    # Recipes that differ in data and length alone have one network, which is counted once.
    model = replace(cfg.model, init_from=None)
    key = repr((tile, cfg.task, model, cfg.pretrain, cfg.segment, cfg.data.planes, cfg.engine.precision))
    if key not in _known:
        _known[key] = _cost(work_of(cfg, tile, _SAMPLES))
    return _known[key]


def encoder_cost(keys: Mapping[str, Any], planes: int, tile: int) -> Cost:
    """The cost of an encoder alone.

    Args:
        keys: its name, and what differs from it.
        planes: of the input.

    Raises:
        ConfigError: there is none of that name, or it does not fit the tile.
    """
    model = config.build(ModelConfig, {"encoder": keys}, "model.")
    with torch.device("meta"):
        encoder = build_encoder(model, planes, tile).to(_DTYPE)
        stride = cast(int, encoder.stride)
        # As a segmenter fills it up.
        side = tile + -tile % stride
        x = torch.empty(_SAMPLES, planes, side, side, dtype=_DTYPE)
    return _cost(count(encoder, lambda: _total(encoder(x)), _SAMPLES, x.nbytes))


def decoder_cost(name: str, planes: int, tile: int) -> tuple[Cost, str]:
    """The cost of the decoders of all charts, heads apart, and the encoder whose maps they take: ViT-B, or the UNet.

    Raises:
        ConfigError: there is none of that name.
    """
    decoder = config.build(ModelConfig, {"encoder": "unet", "decoder": name}, "model.").decoding
    source = "unet" if decoder.halving else ModelConfig().encoder.name
    model = config.build(ModelConfig, {"encoder": source, "decoder": name}, "model.")
    with torch.device("meta"):
        encoder: Any = build_encoder(model, planes, tile)
        made = [decoder.make(encoder.dims, encoder.strides) for _ in range(1 if decoder.for_all else len(model.charts))]
        decoders = nn.ModuleList(made).to(_DTYPE)
        padded = tile + -tile % encoder.stride
        maps = [
            torch.empty(_SAMPLES, dim, padded // stride, padded // stride, dtype=_DTYPE, requires_grad=True)
            for dim, stride in zip(encoder.dims, encoder.strides, strict=True)
        ]
    held = sum(x.nbytes for x in maps)
    work = count(decoders, lambda: _total([part(maps) for part in decoders]), _SAMPLES, held)
    return _cost(work), source


def fastest(name: str) -> str:
    """The most samples a second that were measured of a config as it is, with the GPU and what ran; "": none were."""
    rows = [row for row in measured() if row["config"] == name and not row["overrides"]]
    if not rows:
        return ""
    row = max(rows, key=lambda row: float(row["samples_per_s"]))
    ran = "trainer" if row["loop"] == "trainer" else "bare loop"
    return f"{row['samples_per_s']:.0f} ({ran}, {GPUS[row['gpu']].name}, batch {row['batch']})"


def _total(maps: list[Tensor]) -> Tensor:
    return torch.stack([x.sum() for x in maps]).sum()


def _cost(work: Work) -> Cost:
    kept = (work.kept + work.inputs) / work.samples
    return Cost(work.parameters, work.forward / work.samples, work.flops_a_sample, kept)
