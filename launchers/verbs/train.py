"""Pretrain (task: pretrain) or fine-tune (task: segment) a network, as a config says.

In one process by default; --ranks N starts N on this machine. For several nodes see launchers/slurm/train.sbatch, or
start launchers/train.py with deepspeed or torchrun: all take the same arguments.

    arcticseg train --config finetune_vit data.shards=shards out=runs/vit optim.lr=1e-4
    arcticseg train --config finetune_vit --dry-run
"""

from __future__ import annotations

import argparse

from launchers import local, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg train`."""
    train.add_arguments(parser)
    local.add_ranks_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Train."""
    if arguments.ranks == 1 or arguments.dry_run:
        return train.start(arguments)
    return local.start(arguments)
