"""Write the weights of a run's newest checkpoint to one safetensors file, with the config that they need.

Such as `weights/last.safetensors` is, of a run that has not ended. Needs no DeepSpeed; nothing in the run changes.

    arcticseg export runs/vit --out vit.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from launchers.terminal import note, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg export`."""
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument(
        "--out", type=Path, help="file to write; by default RUN/weights/step-NUMBER.safetensors, of the checkpoint"
    )


def main(arguments: argparse.Namespace) -> int:
    """Export."""
    from arcticseg.engine import checkpoint
    from arcticseg.engine.checkpoint import Checkpoint
    from arcticseg.engine.weights import network_weights, write_weights
    from arcticseg.errors import ConfigError
    from arcticseg.run.folder import weights_path

    def report(text: str) -> None:
        note(f"arcticseg: warning: {text}")

    folder = checkpoint.newest(arguments.run, report)
    if folder is None:
        raise ConfigError(f"{arguments.run}: holds no checkpoint; give the folder of a run that has written one")
    saved = Checkpoint.open(folder)
    path = arguments.out or weights_path(arguments.run, folder.name)
    write_weights(path, network_weights(saved.tensors.below("module/"), saved.metadata), saved.metadata)
    show(path)
    return 0
