"""Send offline wandb runs to the server, such as from a login node those of compute nodes without a network.

Finds every offline run below the folders and hands each to `wandb sync`, in the order in which they began. What went
through is marked (`run-ID.wandb.synced`) and skipped by the next call; where one fails, the others go on, and the next
call tries it again. A run that a training still writes is left for later. The status is 1 where anything failed.

arcticseg sync runs
arcticseg sync runs/vit runs/unet --dry-run
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path

from arcticseg.errors import ConfigError, need


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg sync`."""
    parser.add_argument(
        "folders", type=Path, nargs="*", default=[Path()], metavar="FOLDER", help="where runs are (default: here)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the offline runs and how they stand; send nothing")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="for one offline run (default 600)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Send; PROBLEMS when some did not go through."""
    from arcticseg.tracking.offline import offline_runs
    from launchers.status import DONE, PROBLEMS
    from launchers.sync import listed, send
    from launchers.terminal import note, show

    need(arguments.timeout > 0, "--timeout", arguments.timeout, "give seconds above 0")
    for folder in arguments.folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: is no folder; name one with runs in it")
    runs = offline_runs(arguments.folders)
    if arguments.dry_run:
        for line in listed(runs):
            show(line)
        return DONE
    if shutil.which("wandb") is None:
        raise ConfigError("the command `wandb` is not found; pip install wandb, and `wandb login`")
    # `wandb sync` and what it has started end with this command.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        result = send(runs, arguments.timeout, note)
    finally:
        signal.signal(signal.SIGTERM, before)
    show(result.told)
    for failure in result.failed:
        show(f"failed: {failure}")
    return PROBLEMS if result.failed else DONE
