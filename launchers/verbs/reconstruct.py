"""Draw what a pretraining makes of a scene: each channel as it is, with patches removed, and reconstructed.

Values are in the channels' units. Only the channels of `pretrain.targets` are reconstructed; a patch that was compared
after normalising it is brought back by its own mean and spread. Which patches are removed depends on --seed alone.

    arcticseg reconstruct runs/pretrain_vit scene.nc --out pictures
    arcticseg reconstruct runs/pretrain_vit scene.nc --whole --netcdf
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg reconstruct`."""
    parser.add_argument("run", type=Path, help="run folder of a pretraining, or weights file (.safetensors)")
    parser.add_argument("scene", type=Path, help="scene file")
    parser.add_argument(
        "--out", type=Path, default=Path("reconstructions"), help="folder to write to (default %(default)s)"
    )
    parser.add_argument("--tiles", type=int, default=4, help="windows to draw, a picture each (default 4)")
    parser.add_argument("--whole", action="store_true", help="draw the whole scene, by windows side by side")
    parser.add_argument("--netcdf", action="store_true", help="also write the numbers")
    parser.add_argument("--seed", type=int, default=0, help="of the windows and of the removed patches (default 0)")
    parser.add_argument("--factor", type=int, help="downsampling factor (default: the finest of training)")
    parser.add_argument("--polarisation", choices=("hh", "hv"), help="of a GeoTIFF that does not name it")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")


def main(arguments: argparse.Namespace) -> None:
    """Reconstruct."""
    from arcticseg.errors import ConfigError

    if arguments.tiles < 1:
        raise ConfigError(f"--tiles is {arguments.tiles}; set 1 or more, or --whole")
    if arguments.seed < 0:
        raise ConfigError(f"--seed is {arguments.seed}; set 0 or more")
    # torch takes seconds to load: errors in the arguments are reported before.
    from arcticseg.ice.scenes.open import open_scene
    from arcticseg.products.reconstruction import load_reconstructor, reconstruct_scene
    from launchers.terminal import plain_warnings, show

    with plain_warnings():
        reconstructor = load_reconstructor(arguments.run, arguments.factor, arguments.device, arguments.seed)
        tiles = None if arguments.whole else arguments.tiles
        with open_scene(arguments.scene, arguments.polarisation) as scene:
            for path in reconstruct_scene(reconstructor, scene, arguments.out, tiles, arguments.netcdf, arguments.seed):
                show(path)
