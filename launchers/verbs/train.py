"""Pretrain (task: pretrain) or fine-tune (task: segment) a network, as a config says.

In one process by default; --ranks N starts N on this machine through the deepspeed launcher. For several nodes see
launchers/slurm/train.sbatch, or start launchers/train.py with deepspeed or torchrun: all take the same arguments.

    arcticseg train --config finetune_vit data.shards=shards out=runs/vit optim.lr=1e-4
    arcticseg train --config finetune_vit --dry-run
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys

from launchers import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg train`."""
    train.add_arguments(parser)
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes on this machine (default 1)")


def command(config: str, overrides: list[str], resume: bool = False, ranks: int = 1) -> list[str]:
    """The command line that trains in processes of its own."""
    tail = ["--config", config, *(["--resume"] if resume else []), *overrides]
    if ranks == 1:
        return [sys.executable, "-m", "launchers.train", *tail]
    # Several launchers on one machine must not meet on DeepSpeed's one port.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", port, "--no_local_rank"]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    # DeepSpeed counts its devices from the machine's first, unless they are named.
    where = ["--include", f"localhost:{devices}"] if devices else ["--num_accelerators", str(ranks)]
    return [*launcher, *where, "--module", "launchers.train", *tail]


def main(arguments: argparse.Namespace) -> int:
    """Train."""
    if arguments.ranks == 1 or arguments.dry_run:
        return train.start(arguments)
    return subprocess.run(
        command(arguments.config, arguments.overrides, arguments.resume, arguments.ranks), check=False
    ).returncode
