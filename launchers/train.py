"""What `deepspeed`, `torchrun` and `srun` start, and `arcticseg train` in a process of its own.

deepspeed --num_gpus 4 launchers/train.py --config finetune_vit data.shards=/data/shards out=runs/vit
torchrun --nproc-per-node 4 -m launchers.train --config finetune_vit
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launchers import orphan
from launchers.command import without_credentials
from launchers.imports import add_import_argument
from launchers.status import DONE, PATIENCE, STOPPED, guarded
from launchers.terminal import plain_warnings

if TYPE_CHECKING:
    from arcticseg.run.config import RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments shared by this script and `arcticseg train`."""
    parser.add_argument("--config", required=True, help="path of a YAML config, or the name of a shipped config")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run folder")
    parser.add_argument(
        "--change",
        action="append",
        default=[],
        metavar="key=value",
        help="with --resume: go on with another length, learning rate or batch size, such as optim.lr=1e-5",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check and print the resolved config, build its network without memory, then stop",
    )
    add_import_argument(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, such as optim.lr=1e-4")


def start(arguments: argparse.Namespace) -> int:
    """Check the config, then train in this process; STOPPED when a signal ended the run after a checkpoint."""
    from arcticseg import config
    from arcticseg.run.change import check_named
    from arcticseg.run.config import load

    with plain_warnings():
        cfg = load(arguments.config, [*arguments.overrides, *arguments.change], arguments.imports)
        changed = [text.partition("=")[0] for text in arguments.change]
        check_named(changed)
    if arguments.dry_run:
        _check_parts(cfg)
        print(config.dump(cfg), end="")
        return DONE
    from arcticseg.run.start import run
    from arcticseg.speed.efficiency import Efficiency

    with plain_warnings():
        extra = [Efficiency(cfg)] if cfg.tracking.mfu else []
        return DONE if run(cfg, arguments.resume, changed, extra) else STOPPED


def _check_parts(cfg: RunConfig) -> None:
    """Build what the config names, without memory for weights, where torch is installed."""
    try:
        from arcticseg.run.build import check_parts
    except ModuleNotFoundError as error:
        print(f"arcticseg: {error.name} is not installed, so the network was not built", file=sys.stderr)
        return
    check_parts(cfg)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of one rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    # DeepSpeed's launcher adds this to the arguments unless told --no_local_rank; the environment says it, too.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args(without_credentials(argv))
    orphan.watch()
    return guarded(lambda: start(arguments), PATIENCE)


if __name__ == "__main__":
    sys.exit(main())
