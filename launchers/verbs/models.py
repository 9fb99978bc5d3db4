"""List encoders, decoders and the shipped recipes, with what each costs.

Parameters, floating-point operations of a tile (forward alone, and a training's forward and backward), memory that a
sample keeps from forward to backward; of recipes, the most samples a second where they were measured. Counted without a
GPU, as by `arcticseg plan`.

    arcticseg models
    arcticseg models swin_base_patch4_window7_224 segformer finetune_vit
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from launchers.imports import add_import_argument

if TYPE_CHECKING:
    from arcticseg.speed.catalogue import Cost

# As `shards build` cuts tiles, and the default channels with their validity.
_TILE, _PLANES = 384, 25
_HEAD = f"{'':36} {'parameters':>10} {'forward':>12} {'training':>12} {'a sample':>9}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg models`."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="encoder, decoder or config (default: those to compare)"
    )
    parser.add_argument("--tile", type=int, default=_TILE, help=f"edge of a tile in pixels (default {_TILE})")
    parser.add_argument("--planes", type=int, default=_PLANES, help=f"input planes of an encoder (default {_PLANES})")
    add_import_argument(parser)


def main(arguments: argparse.Namespace) -> None:
    """Count and list, a line at a time."""
    from arcticseg.choice import import_modules
    from arcticseg.errors import ConfigError
    from arcticseg.ice.tiling import LARGEST_TILE
    from launchers.terminal import plain_warnings

    for name, most in (("tile", LARGEST_TILE), ("planes", 1024)):
        if not 0 < getattr(arguments, name) <= most:
            raise ConfigError(f"--{name} is {getattr(arguments, name)}; set a whole number from 1 to {most}")
    import_modules(arguments.imports)
    with plain_warnings():
        _named(arguments) if arguments.names else _all(arguments)


def _all(arguments: argparse.Namespace) -> None:
    from arcticseg.models.config import DecoderConfig, EncoderConfig
    from arcticseg.speed.catalogue import EXAMPLES, recipes
    from launchers.terminal import show

    tile = f"tiles of {arguments.tile} pixels"
    show(f"Encoders, {arguments.planes} planes, {tile}\n{_HEAD}")
    for keys in EXAMPLES:
        _encoder(keys, arguments)
    show(f"names: {', '.join(EncoderConfig.table)}")
    show(f"\nDecoders of three charts, {tile}\n{_HEAD}")
    for name in DecoderConfig.table:
        _decoder(name, arguments)
    show(f"\nRecipes, {tile}\n{_HEAD}  measured samples/s")
    for name in recipes():
        _recipe(name, arguments)


def _named(arguments: argparse.Namespace) -> None:
    """What is told of each name: of an encoder and of a decoder that have the same, both."""
    from arcticseg.models.config import DecoderConfig, EncoderConfig
    from launchers.terminal import show

    show(_HEAD)
    for name in arguments.names:
        is_encoder, is_decoder = (base.choose(name) is not None for base in (EncoderConfig, DecoderConfig))
        if is_encoder:
            _encoder({"name": name}, arguments)
        if is_decoder:
            _decoder(name, arguments)
        if not (is_encoder or is_decoder):
            _recipe(name, arguments)


def _encoder(keys: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    from arcticseg.speed.catalogue import encoder_cost

    changed = "".join(f", {key} {value}" for key, value in keys.items() if key != "name")
    _line(f"{keys['name']}{changed}", encoder_cost(keys, arguments.planes, arguments.tile))


def _decoder(name: str, arguments: argparse.Namespace) -> None:
    from arcticseg.speed.catalogue import decoder_cost

    cost, source = decoder_cost(name, arguments.planes, arguments.tile)
    _line(name, cost, f"on the maps of {source}")


def _recipe(name: str, arguments: argparse.Namespace) -> None:
    from arcticseg.speed.catalogue import fastest, recipe_cost

    _line(name, recipe_cost(name, arguments.tile), fastest(name))


def _line(name: str, cost: Cost, more: str = "") -> None:
    from launchers.terminal import show

    numbers = (
        f"{cost.parameters / 1e6:>8.2f} M {cost.forward / 1e9:>6.1f} GFLOP {cost.training / 1e9:>6.1f} GFLOP "
        f"{cost.memory / 1e6:>6.0f} MB"
    )
    show(f"{name:36} {numbers}  {more}".rstrip())
